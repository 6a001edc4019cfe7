"""Work that a command does itself, without an agent: its progress and its result as the agent would stream them."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whit.base.settings import Settings
from whit.model.progress import Progress, Report
from whit.model.status import StreamItem

if TYPE_CHECKING:
    from whit.image.store.images import ImageStore

Work = Callable[[Report], Coroutine[Any, Any, dict[str, Any]]]


def store(settings: Settings) -> ImageStore:
    """The store of the agent of this id; without root, and unless WHIT_STATE_ROOT says where, one of the person's."""
    from whit.image.store.images import ImageStore

    if os.geteuid() != 0 and "WHIT_STATE_ROOT" not in os.environ:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
        settings = replace(settings, state_root=data / "whit")
    return ImageStore(settings)


def stream(work: Work) -> Iterator[StreamItem]:
    """Do the work in a thread with an event loop; what it reports, then its result. Its error is raised."""
    items: queue.SimpleQueue[StreamItem | BaseException] = queue.SimpleQueue()
    started: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = queue.SimpleQueue()

    def report(progress: Progress) -> None:
        items.put(StreamItem.model_validate(progress.model_dump()))

    async def whole() -> None:
        task = asyncio.create_task(work(report))
        started.put((asyncio.get_running_loop(), task))
        try:
            items.put(StreamItem(result=await task))
        except BaseException as error:  # it is raised again, where it is waited for
            items.put(error)

    thread = threading.Thread(target=lambda: asyncio.run(whole()))
    thread.start()
    loop, task = started.get()
    try:
        yield from _until_result(items)
    finally:
        if not loop.is_closed() and not task.done():
            loop.call_soon_threadsafe(task.cancel)
        thread.join()


def _until_result(items: queue.SimpleQueue[StreamItem | BaseException]) -> Iterator[StreamItem]:
    while True:
        item = items.get()
        if isinstance(item, BaseException):
            raise item
        yield item
        if item.result is not None:
            return
