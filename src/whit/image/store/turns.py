"""Turns: the same work is done by one at a time, and heavy work by few."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from whit.base.errors import WhitError

_AT_ONCE = 2
"""Layers unpacked and steps carried out at the same time: both keep a CPU busy."""

T = TypeVar("T")


@dataclass
class _Turn:
    """Who works on a key, and how many want to."""

    lock: asyncio.Lock
    users: int = 0


class Turns:
    """`heavy` is held while something keeps a CPU busy."""

    def __init__(self) -> None:
        self.heavy = asyncio.Semaphore(_AT_ONCE)
        self._turns: dict[str, _Turn] = {}

    @contextlib.asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[None]:
        """The same work twice waits for one."""
        turn = self._turns.setdefault(key, _Turn(asyncio.Lock()))
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once. The first failure stops the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            started = [tasks.create_task(item) for item in work]
    except ExceptionGroup as group:  # Python 3.11.2 wraps what `except*` raises in a group
        first = next((error for error in group.exceptions if isinstance(error, WhitError | OSError)), group)
        raise first from None
    return [task.result() for task in started]
