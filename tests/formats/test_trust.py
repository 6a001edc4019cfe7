"""`trust:` of app files and of nodes: what it means, and that what cannot be read asks for nothing less."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.base.errors import InputError, WhitError
from whit.formats.app.appfile import load_app
from whit.formats.app.trust import load_trust
from whit.image.trust import keys


def public(path: Path) -> str:
    text = keys.public_pem(keys.generate().public_key()).decode()
    path.write_text(text)
    return text


def test_rules_carry_their_keys(tmp_path: Path) -> None:
    one, two = public(tmp_path / "one.pub"), public(tmp_path / "two.pub")
    text = "trust: [{images: 'registry.example.com/*', keys: [one.pub, two.pub]}, {images: '*', keys: one.pub}]\n"
    (tmp_path / "trust.yaml").write_text(text)
    (tmp_path / "whit.yaml").write_text(f"services: {{web: {{image: x}}}}\n{text}")
    rules = load_app(tmp_path).trust
    assert [rule.keys for rule in rules] == [(one, two), (one,)]
    assert rules == load_trust(tmp_path / "trust.yaml")
    covered = [rule.covers("registry.example.com/team/web:1") for rule in rules]
    assert covered == [True, True]
    assert [rule.covers("registry.example.community/web") for rule in rules] == [False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trust: {images: x}", "must be a list"),
        ("trust: [{images: x}]", "has no keys"),
        ("trust: [{keys: [k.pub]}]", "has no images"),
        ("trust: [{images: '', keys: [k.pub]}]", "is empty"),
        ("trust: [{images: x, keys: []}]", "nothing could be run"),
        ("trust: [{images: x, keys: [nothing.pub]}]", "cannot be read"),
        ("trust: [{images: x, keys: [other]}]", "no public key"),
        ("trust: [{images: x, keys: [k.pub], unless: y}]", "unless"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    public(tmp_path / "k.pub")
    (tmp_path / "other").write_text("not a key")
    (tmp_path / "whit.yaml").write_text(f"services: {{web: {{image: x}}}}\n{text}\n")
    (tmp_path / "trust.yaml").write_text(f"{text}\n")
    with pytest.raises(WhitError, match=message):
        load_app(tmp_path)
    with pytest.raises(WhitError, match=message):
        load_trust(tmp_path / "trust.yaml")


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "keys: []", "trust: ["])
def test_a_node_file_that_says_nothing_is_a_mistake(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "trust.yaml").write_text(text)
    with pytest.raises(InputError):
        load_trust(tmp_path / "trust.yaml")
