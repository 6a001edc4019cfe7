"""Quantities: durations and sizes as the Compose Specification writes them (11-extension.md)."""

from __future__ import annotations

import re

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_STEP = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_BYTES = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def duration(text: str) -> float:
    """Seconds of `1m30s`, `250ms` or `0`. Raises ValueError."""
    if text == "0":
        return 0.0
    steps = _STEP.findall(text)
    if not steps or "".join(number + unit for number, unit in steps) != text:
        raise ValueError(f"{text!r} is not a duration; write it as 1m30s, 10s or 250ms")
    return sum(float(number) * _SECONDS[unit] for number, unit in steps)


def size(text: str) -> int:
    """Bytes of `512m`, `1.5gb` or `1048576`; k, m, g and t are powers of 1024. Raises ValueError."""
    match = _BYTES.fullmatch(text)
    if not match or (match[3] and match[3].lower() == "ib" and not match[2]):
        raise ValueError(f"{text!r} is not a size; write it as 512m, 1g or a number of bytes")
    number, unit = match[1], match[2].lower()
    factor = 1024 ** _POWERS[unit]
    # Whole numbers stay exact; a float loses bytes from 2**53 on.
    return int(number) * factor if number.isdigit() else int(float(number) * factor)
