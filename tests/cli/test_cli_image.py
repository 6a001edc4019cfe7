"""whit image, and what whit build writes: no agent, a store of the test's own, directories as parts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def built(run_whit: Run, tmp_path: Path) -> Run:
    """Two images, `site-one` and `site-two`, which differ in three files."""
    for name, files in {"one": {"a": "1", "b": "2"}, "two": {"a": "111", "c": "3"}}.items():
        for file, text in files.items():
            path = tmp_path / "site" / name / "srv" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    services = ", ".join(f"{name}: {{build: {{parts: [./{name}]}}}}" for name in ("one", "two"))
    (tmp_path / "site" / "whit.yaml").write_text(f"services: {{{services}}}\n")
    assert run_whit("build", str(tmp_path / "site")).returncode == 0
    return run_whit


def document(run: Run, *words: str) -> object:
    done = run("image", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_list_inspect_and_tree(built: Run) -> None:
    listed = document(built, "ls")
    assert isinstance(listed, list)
    assert [one["name"] for one in listed] == ["site-one", "site-two"]
    assert "site-one" in built("image", "ls").stdout
    found = document(built, "inspect", "site-one")
    assert isinstance(found, dict)
    assert found["digest"] == listed[0]["digest"]
    assert found["parts"][0]["id"] == "./one"
    assert "./one" in built("image", "inspect", "site-one").stdout
    rows = document(built, "tree", "site-one", "/srv")
    assert isinstance(rows, list)
    assert [row["path"] for row in rows] == ["srv", "srv/a", "srv/b"]
    assert "srv/a" in built("image", "tree", "site-one").stdout
    assert "srv  (2 files)" in built("image", "tree", "site-one", "--depth", "1").stdout


def test_difference(built: Run) -> None:
    assert document(built, "diff", "site-one", "site-two") == {
        "packages": [],
        "files": [
            {"path": "srv/a", "old": 1, "new": 3},
            {"path": "srv/b", "old": 1, "new": None},
            {"path": "srv/c", "old": None, "new": 1},
        ],
        "bytes": 2,
    }
    lines = built("image", "diff", "site-one", "site-two").stdout.splitlines()
    assert lines == ["~ /srv/a +2 B", "- /srv/b", "+ /srv/c", "+2 B"]


def test_bill_of_materials(built: Run, tmp_path: Path) -> None:
    target = tmp_path / "bill.json"
    assert built("image", "sbom", "site-one", "-o", str(target)).returncode == 0
    assert json.loads(target.read_text())["bomFormat"] == "CycloneDX"
    assert json.loads(built("image", "sbom", "site-one").stdout) == json.loads(target.read_text())


def test_remove_and_collect(built: Run, tmp_path: Path) -> None:
    assert built("image", "rm", "site-one").returncode == 0
    freed = document(built, "gc")
    assert isinstance(freed, dict)
    assert (freed["blobs"], freed["layers"]) == (3, 1)
    missing = built("image", "inspect", "site-one")
    assert (missing.returncode, "there is no image site-one" in missing.stderr) == (3, True)
    assert built("image", "rm", "site-two", "site-one").returncode == 3
    assert [one["name"] for one in document(built, "ls")] == ["site-two"], "all of them or none"
    assert built("build", str(tmp_path / "site"), "--service", "one").returncode == 0


@pytest.mark.parametrize("words", ["inspect gone", "tree gone", "tree site-one /gone", "diff site-one gone", "rm gone"])
def test_what_is_not_there_is_told_with_a_remedy(built: Run, words: str) -> None:
    done = built("image", *words.split(), "--json")
    problem = json.loads(done.stderr.splitlines()[-1])
    assert (done.returncode, problem["code"]) == (3, "not-found")
    assert problem["hint"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("-s", "one", "--target", "rootfs", "-o", "{}/taken"), "output-directory"),
        (("-s", "one", "--target", "oci", "-o", "{}/taken"), "output-no-layout"),
        (("-s", "one", "--target", "microvm", "-o", "{}/no/place"), "output-no-place"),
        (("-s", "one", "--graph", "{}/graph.png"), "graph-form"),
        (("-o", "{}/out"), "one-service"),
        (("--lock", "--locked"), "lock-and-locked"),
        (("-s", "one", "--target", "floppy"), "no-such-form"),
        (("-s", "one", "--arch", "mips"), "no-such-architecture"),
    ],
)
def test_what_cannot_be_written_leaves_what_is_there(
    built: Run, tmp_path: Path, words: tuple[str, ...], code: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    before = sorted(tmp_path.iterdir())
    done = built("build", str(tmp_path / "site"), *(word.format(tmp_path) for word in words), "--json")
    problem = json.loads(done.stderr.splitlines()[-1])
    assert problem["code"] == code, problem
    assert problem["hint"]
    assert sorted(tmp_path.iterdir()) == before
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["mine"]


@pytest.mark.parametrize("target", ["oci", "oci-archive", "rootfs"])
def test_build_writes_targets(built: Run, tmp_path: Path, target: str) -> None:
    words = ("build", str(tmp_path / "site"), "-s", "one", "--target", target, "-o", str(tmp_path / "out"))
    done = built(*words)
    assert done.stdout.startswith(f"{tmp_path}/out sha256:"), done.stderr
    assert json.loads(built(*words, "--json").stdout)["exported"]["path"] == f"{tmp_path}/out"


def test_targets_are_about_one_image_and_known(built: Run, tmp_path: Path) -> None:
    several = built("build", str(tmp_path / "site"), "-o", str(tmp_path / "out"))
    assert (several.returncode, "--service with one of: one, two" in several.stderr) == (2, True)
    unknown = built("build", str(tmp_path / "site"), "-s", "one", "--target", "floppy")
    assert (unknown.returncode, "known: oci, oci-archive, rootfs" in unknown.stderr) == (2, True)
