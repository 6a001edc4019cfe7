"""What was derived last, kept with what it was derived from.

The agent looks at everything every few seconds, and nearly always everything is as it was. With thousands of services
even the comparison would be felt, so that sources are known by being the same objects: they must not be mutable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """The latest result of one derivation. Not for several threads at once."""

    def __init__(self) -> None:
        self._sources: tuple[object, ...] = ()
        self._found: list[T] = []

    def get(self, sources: Iterable[object], derive: Callable[[], T]) -> T:
        """What `derive` makes of these, from the last time if that was of the very same objects.

        What it makes anew and is equal to the last is the last object, so that what follows from it may be kept too.
        """
        now = tuple(sources)
        if not self._found or not _same(self._sources, now):
            fresh = derive()
            if not self._found or self._found[0] != fresh:
                self._found = [fresh]
            self._sources = now
        return self._found[0]


def _same(before: tuple[object, ...], now: tuple[object, ...]) -> bool:
    return len(before) == len(now) and all(old is new for old, new in zip(before, now, strict=True))
