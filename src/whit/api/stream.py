"""Streamed answers: one JSON document a line, the last one a result or a problem."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from whit.base.errors import WhitError
from whit.model.progress import Progress, Report
from whit.model.status import Problem, StreamItem

log = logging.getLogger(__name__)

NDJSON = "application/x-ndjson"


def problem_of(error: BaseException) -> Problem:
    """An error as the API gives it. What Whit did not foresee is logged whole and said in one line."""
    if isinstance(error, WhitError):
        return Problem(code=error.code, message=error.message, hint=error.hint, exit_code=error.exit_code)
    log.error("unexpected error", exc_info=error)
    text = f"{type(error).__name__}: {error}"
    return Problem(code="internal", message=text, hint="the agent's log has the trace", exit_code=1)


def documents(items: AsyncIterator[BaseModel]) -> StreamingResponse:
    """A stream of nouns. An error that comes in the middle is its last line."""

    async def lines() -> AsyncIterator[bytes]:
        try:
            async for item in items:
                yield item.model_dump_json().encode() + b"\n"
        except Exception as error:
            yield StreamItem(problem=problem_of(error)).model_dump_json(exclude_none=True).encode() + b"\n"

    return StreamingResponse(lines(), media_type=NDJSON)


def progress(work: Callable[[Report], Awaitable[dict[str, Any]]]) -> StreamingResponse:
    """Long work: its progress as it comes, then its result. The work goes on if the client goes away."""

    async def lines() -> AsyncIterator[bytes]:
        queue: asyncio.Queue[StreamItem] = asyncio.Queue()

        def report(step: Progress) -> None:
            queue.put_nowait(StreamItem(subject=step.subject, step=step.step, done=step.done, failed=step.failed))

        async def finish() -> None:
            try:
                queue.put_nowait(StreamItem(result=await work(report)))
            except Exception as error:
                queue.put_nowait(StreamItem(problem=problem_of(error)))

        task = asyncio.ensure_future(finish())
        _running.add(task)
        task.add_done_callback(_running.discard)
        with contextlib.suppress(asyncio.CancelledError):
            while True:
                item = await queue.get()
                yield item.model_dump_json(exclude_none=True, exclude_defaults=True).encode() + b"\n"
                if item.result is not None or item.problem is not None:
                    return

    return StreamingResponse(lines(), media_type=NDJSON)


_running: set[asyncio.Future[None]] = set()
"""Work that outlives its client: an event loop keeps only weak references to tasks."""
