"""The person's terminal: raw mode that is always taken back, and the size of the window with its changes."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from types import FrameType

# Those that would end the process without running what restores the terminal.
_ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextlib.contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Every key goes through, Ctrl-C too. The former mode comes back however the block ends, short of SIGKILL."""
    before = termios.tcgetattr(descriptor)
    handlers = {number: signal.signal(number, _end) for number in _ENDING}
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal itself may be gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def size(descriptor: int) -> tuple[int, int]:
    """Rows and columns; 24 by 80 where the terminal does not know."""
    columns, rows = os.get_terminal_size(descriptor)
    return rows or 24, columns or 80


@contextlib.contextmanager
def watched_size(changed: Callable[[], None]) -> Iterator[None]:
    """Call `changed` from the signal handler whenever the window changes its size."""

    def handle(number: int, frame: FrameType | None) -> None:
        changed()

    before = signal.signal(signal.SIGWINCH, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
