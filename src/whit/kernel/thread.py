"""Threads for calls that block, or that change the thread that makes them.

`in_thread` is how operations wait for the kernel without stopping the event loop; `in_fresh_thread` is for calls such
as setns and unshare, after which a thread must never be used for anything else.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run `function` in a worker thread. Unlike asyncio.to_thread, a cancelled caller first waits for its end.

    A thread cannot be stopped: without the wait, an undo would run beside the work that it is to take back.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **named))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await _wait_until_done(work)
        raise


async def _wait_until_done(work: asyncio.Future[T]) -> None:
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            continue  # the first cancellation is raised when the work is done
    if not work.cancelled() and (error := work.exception()):
        log.debug("failed after its caller was cancelled: %s", error)


def in_fresh_thread(function: Callable[[], T]) -> T:
    """Run `function` in a thread of its own that ends with it; wait for its result, or raise what it raised."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="whit-kernel")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
