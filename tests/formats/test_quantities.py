"""Durations and sizes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.formats.quantities import duration, size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("10s", 10),
        ("1m30s", 90),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("2h45m", 9900),
        ("40us", 4e-5),
        (".5s", 0.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "s", "-1s", "1 s", "1m 30s", "1d", "1s!", "1e3s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration(text)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_durations_add_up(hours: int, minutes: int, seconds: int, millis: int) -> None:
    text = f"{hours}h{minutes}m{seconds}s{millis}ms"
    assert duration(text) == pytest.approx(hours * 3600 + minutes * 60 + seconds + millis / 1000)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1024", 1024),
        ("64b", 64),
        ("2k", 2048),
        ("512m", 512 << 20),
        ("1.5gb", 3 << 29),
        ("1GiB", 1 << 30),
        ("1 M", 1 << 20),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert size(text) == count


@pytest.mark.parametrize("text", ["", "m", "-1m", "1x", "1ib", "0x10", "1mm", "m1"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        size(text)


@given(st.integers(0, 2**63 - 1 >> 40), st.sampled_from(["", "k", "m", "g", "t"]), st.sampled_from(["", "b"]))
def test_whole_sizes_are_exact(number: int, unit: str, suffix: str) -> None:
    assert size(f"{number}{unit}{suffix}") == number << (10 * " kmgt".find(unit or " "))


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (duration, size):
        with contextlib.suppress(ValueError):
            assert read(text) >= 0
