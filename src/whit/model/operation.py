"""Operation: one change to a machine. Planners make lists of them; the list is printed or carried out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

log = logging.getLogger(__name__)


class Operation(Protocol):
    """Describes itself, is done, and can be undone, also twice and also when it was done only in part."""

    def describe(self) -> str:
        """One line in the imperative, as `create link w-whit-7 for shop-api-1`."""
        ...

    async def do(self) -> None: ...

    async def undo(self) -> None: ...


async def carry_out(operations: Sequence[Operation]) -> None:
    """Do all of them in order. If one fails, it and those before it are undone in reverse, and the error is raised."""
    started: list[Operation] = []
    try:
        for operation in operations:
            started.append(operation)
            log.debug("%s", operation.describe())
            await operation.do()
    except BaseException:
        await take_back(started)
        raise


async def take_back(operations: Sequence[Operation]) -> None:
    """Undo all of them in reverse. A failing undo is logged and does not stop the others."""
    for operation in reversed(operations):
        try:
            await operation.undo()
        except Exception:
            log.exception("undo failed: %s", operation.describe())
