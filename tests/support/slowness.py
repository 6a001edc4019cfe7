"""How much slower than usual this machine is: WHIT_TEST_SLOWNESS. Where instructions are translated, ten times or more.

What waits for something to happen waits as many times longer. It proves nothing about how quick anything is.
"""

from __future__ import annotations

import os

SLOWNESS = float(os.environ.get("WHIT_TEST_SLOWNESS", "1"))


def patient(seconds: float) -> float:
    """As long as that on this machine."""
    return seconds * SLOWNESS
