"""Whatever a file says, it is read or refused as wrong input: no other exception gets out."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from whit.base.errors import InputError
from whit.formats.app.appfile import KEYS as TOP
from whit.formats.app.appfile import load_app
from whit.formats.app.service import KEYS

_WORDS = (
    "",
    "x",
    "80:80",
    "1",
    "-1",
    "~nobody/x",
    "./x",
    "data:/d",
    "$",
    "${A:-b}",
    "1s",
    "64m",
    "NONE",
    "CMD",
    "\0",
    "²",
)
_NAMES = (
    "test",
    "type",
    "target",
    "source",
    "published",
    "path",
    "parts",
    "context",
    "service",
    "limits",
    "db",
    "<<",
    "bind",
)

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(_WORDS), st.text(max_size=8))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_NAMES), inner, max_size=3)),
    max_leaves=6,
)
services = st.dictionaries(st.sampled_from(sorted(KEYS)), values, max_size=5)
files = st.fixed_dictionaries(
    {"services": st.one_of(st.dictionaries(st.sampled_from(("web", "db", "B")), services, max_size=3), values)},
    optional={key: values for key in sorted(TOP) if key != "services"},
)


def read(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory, contextlib.suppress(InputError):
        (Path(directory) / "whit.yaml").write_text(text, encoding="utf-8")
        load_app(Path(directory), environment={})


@settings(deadline=None, max_examples=300)
@given(files)
def test_any_structure(document: object) -> None:
    read(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


@settings(deadline=None)
@given(st.text(alphabet="abx:-[]{},&*!|>'\"%@#?\n\t $<~\0"))
def test_any_text(text: str) -> None:
    read(text)


@pytest.mark.parametrize("key", sorted(KEYS))
@pytest.mark.parametrize(
    "value", ["", "''", "[]", "{}", "[[]]", "[{}]", "{a: }", "{a: []}", "['\\0']", '["\\0"]', '"\\0"', "~x/y"]
)
def test_each_key_with_each_shape(key: str, value: str) -> None:
    read(f"services: {{web: {{image: x, {key}: {value}}}}}")
