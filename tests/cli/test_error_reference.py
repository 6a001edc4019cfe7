"""The page of errors is what the sources raise, and no code comes without words and a remedy."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from whit.base.errors import WhitError
from whit.cli import error_reference

TESTS = Path(__file__).resolve().parents[1]
ENOUGH = 158
"""Codes that some test asserts, of all."""


def test_the_page_is_written_anew() -> None:
    hint = "PYTHONPATH=src python -m whit.cli.error_reference"
    assert error_reference.DEFAULT_FILE.read_text() == error_reference.reference(), hint


def test_every_code_that_stands_in_the_sources_is_on_the_page() -> None:
    """Found in another way: any `code=` and any `code = ` of a class, wherever it stands."""
    page = error_reference.reference()
    sources = "\n".join(path.read_text() for path in error_reference.SOURCES.rglob("*.py"))
    codes = set(re.findall(r"\bcode ?= ?\"([a-z][a-z-]+)\"", sources))
    assert len(codes) > 110
    assert {code for code in codes if f"| `{code}` |" not in page} == set()


def test_every_error_says_what_to_do() -> None:
    speechless = [one for one in error_reference.raised() if not one.remedy or not one.what.strip("… ")]
    assert speechless == []


@pytest.mark.parametrize("kind", list(error_reference.kinds()), ids=lambda kind: kind[0])
def test_every_kind_is_told(kind: tuple[str, int, str]) -> None:
    assert kind[2] or kind[0] == WhitError.code


def test_codes_that_tests_assert() -> None:
    """Each of them is a case of its own somewhere below tests/."""
    asserted = Counter(
        code
        for path in TESTS.rglob("test_*.py")
        if path != Path(__file__)
        for code in set(re.findall(r"\"([a-z]+(?:-[a-z]+)+)\"", path.read_text()))
    )
    codes = {one.code for one in error_reference.raised()} | {kind[0] for kind in error_reference.kinds()}
    assert len(codes & asserted.keys()) >= ENOUGH
