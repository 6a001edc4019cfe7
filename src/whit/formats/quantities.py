"""Quantities: durations and sizes as the Compose Specification writes them (11-extension.md)."""

from __future__ import annotations

import math
import re
from decimal import Decimal

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_STEP = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_BYTES = re.compile(r"([0-9]{1,40}(?:\.[0-9]{1,40})?) ?([kmgt]?)(i?b)?", re.IGNORECASE)
_RATE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(?:([kmgt]?)bit)?", re.IGNORECASE)
MAX_SIZE = 2**63 - 1
"""Bytes that the kernel can count."""
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def duration(text: str) -> float:
    """Seconds of `1m30s`, `250ms` or `0`. Raises ValueError."""
    if text == "0":
        return 0.0
    steps = _STEP.findall(text)
    if not steps or "".join(number + unit for number, unit in steps) != text:
        raise ValueError(f"{text!r} is not a duration; write it as 1m30s, 10s or 250ms")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in steps)
    if not math.isfinite(seconds):
        raise ValueError("the duration is longer than can be counted; write it as 1m30s, 10s or 250ms")
    return seconds


def size(text: str) -> int:
    """Bytes of `512m`, `1.5gb` or `1048576`; k, m, g and t are powers of 1024. Raises ValueError."""
    match = _BYTES.fullmatch(text)
    if not match or (match[3] and match[3].lower() == "ib" and not match[2]):
        raise ValueError(f"{text!r} is not a size; write it as 512m, 1g or a number of bytes")
    # Not by way of float, which loses bytes from 2**53 on.
    count = Decimal(match[1]) * 1024 ** _POWERS[match[2].lower()]
    if count > MAX_SIZE:
        raise ValueError(f"more than {MAX_SIZE} bytes; write it as 512m, 1g or a number of bytes")
    return int(count)


def rate(text: str) -> int:
    """Bits a second of `10mbit`, `1.5gbit` or `64000`, in powers of 1000 as tc(8) has them. Raises ValueError."""
    match = _RATE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a rate; write it as 10mbit, 1gbit or a number of bits a second")
    return int(Decimal(match[1]) * 1000 ** _POWERS[(match[2] or "").lower()])
