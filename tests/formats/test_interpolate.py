"""Variables in values: the forms of the Compose Specification, and no text that breaks the reader."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.base.errors import InputError, Place
from whit.formats.app.interpolate import interpolate

VARIABLES = {"SET": "value", "EMPTY": "", "OTHER": "else"}


def expand(text: str) -> tuple[str, list[str]]:
    missing: list[str] = []

    def warn(name: str) -> str:
        missing.append(name)
        return ""

    return interpolate(text, VARIABLES, Place("f", 1, 1), warn), missing


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("$SET", "value"),
        ("a${SET}b", "avalueb"),
        ("$SET-$OTHER", "value-else"),
        ("$$SET", "$SET"),
        ("$$$SET", "$value"),
        ("${UNSET:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY-d}", ""),
        ("${UNSET-d}", "d"),
        ("${SET:-d}", "value"),
        ("${SET:+r}", "r"),
        ("${EMPTY:+r}", ""),
        ("${EMPTY+r}", "r"),
        ("${UNSET+r}", ""),
        ("${SET:?no}", "value"),
        ("${EMPTY?no}", ""),
        ("${UNSET:-${EMPTY:-${SET}}}", "value"),
        ("${UNSET:-a${SET}b}c", "avaluebc"),
        ("${SET:-${UNSET:?never}}", "value"),
        ("${UNSET:-http://h:80/?a=b}", "http://h:80/?a=b"),
        ("${UNSET:-}", ""),
        ("{}", "{}"),
        ("${UNSET:-$$}", "$"),
    ],
)
def test_forms(text: str, expected: str) -> None:
    assert expand(text) == (expected, [])


@pytest.mark.parametrize("text", ["$UNSET", "${UNSET}", "${SET:+$UNSET}", "${UNSET:-$UNSET}"])
def test_what_is_not_set_is_empty_and_told(text: str) -> None:
    assert expand(text) == ("", ["UNSET"])


@pytest.mark.parametrize("text", ["${SET:-$UNSET}", "${SET:-${UNSET:-$UNSET}}", "${SET-${UNSET:+$UNSET}$UNSET}"])
def test_a_default_that_is_not_needed_is_not_looked_up(text: str) -> None:
    assert expand(text) == ("value", [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$", "not a variable"),
        ("$1", "not a variable"),
        ("${}", "followed by a variable's name"),
        ("${SET", "not closed"),
        ("${SET:-x", "not closed"),
        ("${SET!x}", "not closed, or followed by an unknown operator"),
        ("${UNSET:?why}", "UNSET is needed: why"),
        ("${UNSET?}", "UNSET is needed: it is not set"),
        ("${EMPTY:?}", "EMPTY is needed"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(InputError, match=r"^f:1:1: ") as caught:
        expand(text)
    assert message in caught.value.message


@given(st.text())
def test_text_with_doubled_dollars_stays(text: str) -> None:
    assert expand(text.replace("$", "$$")) == (text, [])


@given(st.text(alphabet="${}:-?+SETx "))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        expand(text)


@given(st.text(alphabet=st.characters(exclude_characters="${}")))
def test_a_default_is_given_as_it_is(text: str) -> None:
    assert expand(f"${{UNSET-{text}}}") == (text, [])
