"""The page on isolation shows the table that the tests go by."""

from __future__ import annotations

from pathlib import Path

from whit.runtime.exceptions import EXCEPTIONS

PAGE = Path(__file__).parents[2] / "docs/explanation/isolation.md"


def test_the_page_has_every_exception_and_no_other() -> None:
    section = PAGE.read_text().partition("| isolation | does not hold | instead |")[2].partition("\n\n")[0]
    rows = [row for row in section.splitlines() if row and not row.startswith("|---")]
    assert rows == [f"| {one.isolation} | {one.promise} | {one.instead} |" for one in EXCEPTIONS]


def test_each_is_listed_once() -> None:
    keys = [(one.key, one.isolation) for one in EXCEPTIONS]
    assert len(keys) == len(set(keys))
