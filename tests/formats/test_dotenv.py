"""Environment files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.base.errors import InputError
from whit.formats.app.dotenv import parse_env


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("# only\n\n  # this\n", {}),
        ("A=1\nB=2", {"A": "1", "B": "2"}),
        ("export A=1", {"A": "1"}),
        ("A = x y ", {"A": "x y"}),
        ("A=x # note", {"A": "x"}),
        ("A=x#y", {"A": "x#y"}),
        ("A=#y", {"A": ""}),
        ("A=", {"A": ""}),
        ("A=\nB=1", {"A": "", "B": "1"}),
        ("A='$B # \\n'", {"A": "$B # \\n"}),
        ('A="x\\ny" # note', {"A": "x\ny"}),
        ('A="x\ny"\nB=1', {"A": "x\ny", "B": "1"}),
        ('A="say \\"hi\\""', {"A": 'say "hi"'}),
        ("A=1\nB=${A}2", {"A": "1", "B": "12"}),
        ("B=$HERE", {"B": "here"}),
        ('B="\\$HERE"', {"B": "$HERE"}),
        ("HERE", {"HERE": "here"}),
        ("GONE\nA=1", {"A": "1"}),
        ("A=${GONE:-d}", {"A": "d"}),
        ("HERE=file\nB=$HERE", {"HERE": "file", "B": "here"}),
    ],
)
def test_lines(text: str, expected: dict[str, str]) -> None:
    assert parse_env(text, "f.env", {"HERE": "here"}) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("A=1\n!", "f.env:2:1: the line is not understood"),
        ("A=1\n\n=2", "f.env:3:1: the line is not understood"),
        ("A='x", "f.env:1:1: A: the quote is not closed"),
        ("\nA='x' y", "f.env:2:1: A: text follows the value"),
        ("A=${", "f.env:1:1: A: "),
        ("A B", "f.env:1:1: "),
    ],
)
def test_mistakes(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_env(text, "f.env", {})
    assert caught.value.message.startswith(told)


def test_what_is_not_set_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert parse_env("A=$GONE", "f.env", {}) == {"A": ""}
    assert "f.env:1:1: A: the variable GONE is not set" in caplog.text


@given(st.dictionaries(st.from_regex(r"[A-Z_][A-Z0-9_]{0,5}", fullmatch=True), st.text(alphabet="ab $\"\\#=\n'")))
def test_quoted_values_come_back(values: dict[str, str]) -> None:
    table = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$"})
    text = "".join(f'{key}="{value.translate(table)}"\n' for key, value in values.items())
    assert parse_env(text, "f.env", {}) == values
