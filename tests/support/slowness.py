"""How much slower than usual this machine is: WHIT_TEST_SLOWNESS. Where instructions are translated, ten times or more.

What waits for something to happen waits as many times longer. It proves nothing about how quick anything is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SLOWNESS = float(os.environ.get("WHIT_TEST_SLOWNESS", "1"))


def patient(seconds: float) -> float:
    """As long as that on this machine."""
    return seconds * SLOWNESS


def quick(work: Callable[[], T], seconds: float, times: int = 5) -> T:
    """What `work` returned when it took less than so many seconds. A busy machine may hold up some of several times;
    what waits for a time-out is held up each time."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        found = work()
        took.append(time.monotonic() - began)
        if took[-1] < patient(seconds):
            return found
    raise AssertionError(f"it takes {min(took):.2f} s or more, not less than {seconds:g}")
