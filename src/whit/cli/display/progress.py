"""Progress of long work: a moving line per service on a terminal, plain lines elsewhere, nothing with --json."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from whit.cli.display.output import Output, colourful, console_for, remark

if TYPE_CHECKING:
    from rich.table import Table

    from whit.model.status import StreamItem

_NUMBERS = re.compile(r"\d+(?:\.\d+)?")


def follow(items: Iterable[StreamItem], output: Output) -> dict[str, Any]:
    """Show the items as they come, on standard error, and return the result that ends them.

    With --json the result is printed, so that standard output is one document and standard error only an error.
    """
    if output.json:
        result = _follow_silently(items)
        output.document(result)
        return result
    show = _follow_live if colourful(sys.stderr) else _follow_plain
    try:
        return show(items)
    except KeyboardInterrupt:
        remark("interrupted; the agent goes on with it, and `whit ps` shows how far it is")
        raise


def last(items: Iterable[StreamItem]) -> dict[str, Any]:
    """The result, with the steps on standard error and nothing on standard output."""
    return (_follow_live if colourful(sys.stderr) else _follow_plain)(items)


def _follow_silently(items: Iterable[StreamItem]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for item in items:
        result = item.result if item.result is not None else result
    return result


def _follow_plain(items: Iterable[StreamItem]) -> dict[str, Any]:
    """Counters that only move on are not repeated: `fetch 2 of 40` to `fetch 39 of 40` stay silent."""
    last: dict[str, str] = {}
    for item in items:
        if item.result is not None:
            return item.result
        step = _NUMBERS.sub("#", item.step)
        if last.get(item.subject) != step or item.failed:
            remark(plain_line(item))
        last[item.subject] = step
    return {}


def plain_line(item: StreamItem) -> str:
    mark = "failed: " if item.failed else ""
    return f"{item.subject}: {mark}{item.step}" if item.subject else f"{mark}{item.step}"


def _follow_live(items: Iterable[StreamItem]) -> dict[str, Any]:
    from rich.live import Live

    board = Board()
    with Live(get_renderable=board.render, console=console_for(sys.stderr), refresh_per_second=8):
        for item in items:
            if item.result is not None:
                return item.result
            board.update(item)
    return {}


class Board:
    """The last step of each subject, in the order in which they first appeared."""

    def __init__(self) -> None:
        self.items: dict[str, StreamItem] = {}
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    def update(self, item: StreamItem) -> None:
        now = time.monotonic()
        self.items[item.subject] = item
        self.began.setdefault(item.subject, now)
        if item.done or item.failed:
            self.ended[item.subject] = now
        else:
            self.ended.pop(item.subject, None)

    def render(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        for column in (
            {"width": 1},
            {"no_wrap": True},
            {"no_wrap": True, "overflow": "ellipsis"},
            {"justify": "right"},
        ):
            table.add_column(**column)
        for subject, item in self.items.items():
            seconds = self.ended.get(subject, time.monotonic()) - self.began[subject]
            table.add_row(self._mark(item), Text(subject, "bold"), Text(item.step), Text(f"{seconds:.1f} s", "dim"))
        return table

    def _mark(self, item: StreamItem) -> Any:
        from rich.text import Text

        if item.failed:
            return Text("✗", "red")
        if item.done:
            return Text("✓", "green")
        return Text("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(time.monotonic() * 8) % 10], "cyan")
