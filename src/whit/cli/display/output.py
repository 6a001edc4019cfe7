"""How the command line prints: tables and colours on a terminal, plain text in a pipe, JSON when asked.

Results go to standard output; errors, progress and remarks go to standard error. NO_COLOR switches every
escape sequence off (https://no-color.org).
"""

from __future__ import annotations

import functools
import json as json_format
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from whit.base.errors import WhitError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console

    from whit.model.alarm import Alarm

UNBOUNDED = 100_000
"""Width of a pipe: nothing is folded or cut there."""

COLOURS = {
    "running": "green",
    "works": "green",
    "allow": "green",
    "redirect": "green",
    "healthy": "green",
    "failed": "red",
    "running (unhealthy)": "red",
    "degraded": "yellow",
    "missing": "red",
    "deny": "red",
    "exited": "red",
    "exited (0)": "dim",
    "audit": "yellow",
    "restarting": "yellow",
    "starting": "yellow",
    "running (starting)": "yellow",
}


class OutputClosed(Exception):
    """The reader of standard output went away: `whit logs | head`."""


class Output:
    """Prints the results of one command."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    @functools.cached_property
    def console(self) -> Console:
        return console_for(sys.stdout)

    def line(self, text: str = "", style: str = "") -> None:
        """One line of text. Rich is loaded only where it could colour something."""
        if style and colourful(sys.stdout):
            self.console.out(text, style=style, highlight=False)
        else:
            print(text)

    def document(self, value: Any) -> None:
        """A JSON document, indented: the result of a call that is not a stream."""
        print(json_format.dumps(value, indent=2, ensure_ascii=False))

    def item(self, value: BaseModel) -> None:
        """One line of a stream of JSON documents, at once."""
        print(value.model_dump_json(exclude_none=True), flush=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]], wide: Sequence[str] = ()) -> None:
        """A table without lines. Columns named in `wide` are left out on terminals narrower than 100 columns."""
        from rich.table import Table
        from rich.text import Text

        shown = [index for index, name in enumerate(columns) if name not in wide or self.console.width >= 100]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for index in shown:
            table.add_column(columns[index], overflow="fold")
        for row in rows:
            table.add_row(*(Text(row[index], style=_style(row[index])) for index in shown))
        with self.console.capture() as capture:
            self.console.print(table)
        print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _style(cell: str) -> str:
    """The colour of a cell as a whole, else of its first word: `exited (1)` is as red as `exited`."""
    return COLOURS.get(cell, COLOURS.get(cell.split(" ")[0], ""))


def colourful(file: TextIO) -> bool:
    """Escape sequences are wanted: a terminal that knows them, and nobody said NO_COLOR."""
    return file.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb")


def console_for(file: TextIO) -> Console:
    """A Rich console for the file, as wide as the terminal or without a limit."""
    from rich.console import Console

    plain = not colourful(file)
    width = None if file.isatty() else UNBOUNDED
    return Console(
        file=file, width=width, highlight=False, emoji=False, markup=False, color_system=None if plain else "auto"
    )


def print_error(error: WhitError, *, json: bool) -> None:
    """`error: …` and `hint: …` on standard error, or the Problem document."""
    sys.stdout.flush()
    if json:
        problem = {"code": error.code, "message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        print(json_format.dumps(problem, ensure_ascii=False), file=sys.stderr)
        return
    red, reset = ("\x1b[1;31m", "\x1b[0m") if colourful(sys.stderr) else ("", "")
    print(f"{red}error:{reset} {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


def remark_alarms(alarms: Iterable[Alarm]) -> None:
    """What the agent finds wrong with the node."""
    red, reset = ("\x1b[1;31m", "\x1b[0m") if colourful(sys.stderr) else ("", "")
    for alarm in alarms:
        users = f" (most by {', '.join(alarm.users)})" if alarm.users else ""
        remark(f"{red}alarm:{reset} {alarm.text}{users}")
        if alarm.hint:
            remark(f"hint: {alarm.hint}")


def remark(text: str) -> None:
    """Something the person should know that is no result."""
    print(text, file=sys.stderr, flush=True)
