"""Logging: one line an event, to standard error, with the time in UTC and the place in the code."""

from __future__ import annotations

import logging
import sys
import time


def configure(*, verbose: bool = False) -> None:
    """Set up the root logger once, at the door of a process."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
