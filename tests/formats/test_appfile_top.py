"""The top of a file: which one is read, its mode, name, volumes, variables and anchors."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.formats.app.appfile import FILES, find_app_file, load_app
from whit.formats.app.naming import valid_name
from whit.model.app import NAME, VolumeSpec

MINIMAL = "services: {web: {image: x}}\n"


def test_the_first_of_several_files_is_read(tmp_path: Path) -> None:
    assert find_app_file(tmp_path) is None
    (tmp_path / "meta").mkdir()
    for name in reversed(FILES):
        (tmp_path / name).write_text(MINIMAL)
        assert find_app_file(tmp_path) == tmp_path / name


@pytest.mark.parametrize(
    ("name", "mode"),
    [("whit.yaml", "declared"), ("compose.yml", "open"), ("docker-compose.yaml", "open"), ("shop.yaml", "declared")],
)
def test_the_name_of_the_file_gives_the_mode(tmp_path: Path, name: str, mode: str) -> None:
    (tmp_path / name).write_text(MINIMAL)
    app = load_app(tmp_path / name)
    assert (app.mode, app.directory) == (mode, tmp_path)


def test_an_override_file_is_not_passed_over_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "compose.yaml").write_text("version: '3'\n" + MINIMAL)
    (tmp_path / "compose.override.yaml").write_text(MINIMAL)
    load_app(tmp_path)
    assert "compose.override.yaml: is not read" in caplog.text
    assert "compose.yaml:1:1: version: has no meaning" in caplog.text


def test_the_name_is_that_of_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "My Shop_2"
    directory.mkdir()
    (directory / "whit.yaml").write_text(MINIMAL)
    assert load_app(directory).name == "my-shop-2"


@given(st.text(max_size=60))
def test_any_directory_gives_a_valid_name(text: str) -> None:
    import re

    assert re.fullmatch(NAME, valid_name(text))


def test_volumes_have_labels(tmp_path: Path) -> None:
    (tmp_path / "whit.yaml").write_text(MINIMAL + "volumes: {a: , b: {labels: {x: 1}}, x-c: 1}\n")
    assert load_app(tmp_path).volumes == {"a": VolumeSpec(), "b": VolumeSpec(labels={"x": "1"})}


def test_the_environment_wins_over_the_file_beside(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=file\nB=file\n")
    (tmp_path / "whit.yaml").write_text("services: {web: {image: $A-$B, environment: [B]}}\n")
    web = load_app(tmp_path, environment={"A": "process"}).services["web"]
    assert (web.image, web.environment) == ("process-file", {"B": "file"})


def test_the_process_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHIT_TEST_IMAGE", "here")
    (tmp_path / "whit.yaml").write_text("services: {web: {image: $WHIT_TEST_IMAGE}}\n")
    assert load_app(tmp_path).services["web"].image == "here"


def test_anchors_and_merges(tmp_path: Path) -> None:
    text = """\
x-base: &base {image: x, user: base, restart: always}
x-more: &more {user: more, working_dir: /more}
services:
  a: {<<: *base, user: own}
  b: {<<: [*base, *more]}
  c: {<<: *more, image: &i y}
  d: {image: *i}
"""
    (tmp_path / "whit.yaml").write_text(text)
    services = load_app(tmp_path).services
    assert [(one.image, one.user, one.working_dir) for one in services.values()] == [
        ("x", "own", None),
        ("x", "base", "/more"),
        ("y", "more", "/more"),
        ("y", None, None),
    ]


def test_keys_hold_no_variables(tmp_path: Path) -> None:
    (tmp_path / "whit.yaml").write_text("services: {web: {image: x, environment: {$A: $$A}}}\n")
    assert load_app(tmp_path, environment={"A": "b"}).services["web"].environment == {"$A": "$A"}


def test_a_variable_that_is_not_set_is_told_once_a_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "whit.yaml").write_text("x-i: &i a$NO\nservices: {a: {image: *i}, b: {image: *i}}\n")
    load_app(tmp_path, environment={})
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/whit.yaml:1:6: x-i: the variable NO is not set; it is taken as empty"
    ]
