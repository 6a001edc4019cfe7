"""The catalogue's entries can be read, say what they are, and are extended as the reference says."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.base.errors import InputError, WhitError
from whit.formats import catalog
from whit.formats.app.appfile import load_app
from whit.formats.machine.document import is_machine_file, load_machine
from whit.model.app import AppSpec
from whit.model.build import DebianPart, DirectoryPart

ENTRIES = catalog.entries()
APPS = [entry for entry in ENTRIES if entry.kind == "app"]


def extending(tmp_path: Path, text: str) -> AppSpec:
    (tmp_path / "whit.yaml").write_text(f"services:\n  web:\n    {text}\n")
    (tmp_path / "own").mkdir(exist_ok=True)
    return load_app(tmp_path, environment={})


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_says_what_it_is(entry: catalog.CatalogEntry) -> None:
    assert len(entry.summary) > 10
    assert entry.summary.endswith(".")
    assert is_machine_file(Path(f"catalog:{entry.name}")) == (entry.kind == "machine")


@pytest.mark.parametrize("entry", APPS, ids=lambda entry: entry.name)
def test_an_app_is_closed_proven_and_reachable(entry: catalog.CatalogEntry) -> None:
    app = load_app(Path(f"catalog:{entry.name}"), environment={"PORT": "1234"})
    assert app.name == entry.name
    ((name, service),) = app.services.items()
    assert name == entry.name
    assert service.build
    assert service.build.closed
    assert len(service.build.check) >= 2
    assert {port.published for port in service.ports} == {1234}
    assert service.user not in (None, "", "root", "0")


def test_machines_name_apps_of_the_catalogue() -> None:
    machine = load_machine(Path("catalog:nginx-machine"))
    image = machine.services[0].source
    assert image.build == load_app(Path("catalog:nginx"), environment={}).services["nginx"].build


def test_own_keys_win_and_own_parts_come_last(tmp_path: Path) -> None:
    web = extending(
        tmp_path,
        "extends: catalog:nginx\n    user: root\n    build: {parts: [./own], include: [a], check: [[nginx, -t]]}",
    ).services["web"]
    assert web.build
    assert [type(part) for part in web.build.parts] == [DebianPart, DirectoryPart, DirectoryPart]
    assert isinstance(web.build.parts[1], DirectoryPart)
    assert web.build.parts[1].path == catalog.ROOT / "nginx/files"
    assert isinstance(web.build.parts[2], DirectoryPart)
    assert web.build.parts[2].path == tmp_path / "own"
    assert [check.run for check in web.build.check] == [("nginx", "-t")]
    assert web.build.parts[0].link == "closure"
    assert web.build.parts[0].include == ("a",)
    assert "etc/nginx/modules-enabled/**" in web.build.parts[0].exclude
    assert web.user == "root"
    assert web.command == ("nginx", "-e", "stderr", "-g", "daemon off;")


def test_a_build_may_be_a_directory_or_nothing(tmp_path: Path) -> None:
    build = extending(tmp_path, "extends: catalog:nginx\n    build: ./own").services["web"].build
    assert build
    assert len(build.parts) == 3
    plain = extending(tmp_path, "extends: catalog:nginx").services["web"]
    assert plain.build
    assert len(plain.build.parts) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extends: catalog:ngnx", "did you mean nginx"),
        ("extends: catalog:nginx-machine", "nginx-machine is a machine"),
        ("extends: {file: other.yaml, service: web}", "extends: is not honoured"),
        ("extends: catalog:postgresql", "data"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(WhitError, match=said) as caught:
        extending(tmp_path, text)
    assert "whit.yaml" in str(caught.value)


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(InputError, match="the catalogue has no 'redi'"):
        load_app(Path("catalog:redi"))
