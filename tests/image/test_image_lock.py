"""whit.lock: what is written, that it is enough without any network, and what is said when it is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from whit.base.errors import InputError, NotLocked
from whit.image.building import plan
from whit.image.sandbox.processes import module_environment
from whit.model.build import BuildSpec, DebianPart, DirectoryPart, PythonPart
from whit.model.lock import FILE, Lock, Locked, LockedPackage, LockedWheel, asked_python, read

Whit = Callable[..., subprocess.CompletedProcess[str]]
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "hello"
version = "1"
dependencies = ["idna"]
[project.scripts]
hello = "hello:main"
"""
LOCK = Lock({"python 3.11 amd64: idna": Locked(wheels=(LockedWheel("idna-3.10-py3-none-any.whl", "ab"),))})


def test_written_and_read(tmp_path: Path) -> None:
    packages = (LockedPackage("b", "1", "amd64", "00"), LockedPackage("a", "2", "all", "11"))
    lock = Lock({"debian x amd64: b": Locked(packages), **LOCK.entries})
    (tmp_path / FILE).write_text(lock.encode())
    found = read(tmp_path)
    assert found
    assert found.encode() == lock.encode()
    assert [one.name for one in found.entries["debian x amd64: b"].packages] == ["a", "b"]
    assert read(tmp_path / "elsewhere") is None


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2, "entries": {}}', '{"version": 1, "entries": {"x": 1}}'])
def test_damaged_lock_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError, match=r"whit\.lock"):
        read(tmp_path)


def test_comments_and_order_of_lines() -> None:
    assert asked_python("3.11", "amd64", ["# all\nidna\n\n", "flask\n"]) == "python 3.11 amd64: idna flask"
    assert LockedWheel("idna-3.10-py3-none-any.whl", "ab").requirement == "idna==3.10 --hash=sha256:ab"


@pytest.mark.parametrize("kind", [DirectoryPart, PythonPart])
def test_the_lock_itself_is_no_part(kind: type[DirectoryPart | PythonPart], tmp_path: Path) -> None:
    """It is written into the app's directory after the image is made, and the next image is the same."""
    (tmp_path / "requirements.txt").write_text("idna\n")
    spec = BuildSpec(parts=(kind(path=tmp_path),))
    before = plan.make(spec).key
    (tmp_path / FILE).write_text(LOCK.encode())
    assert plan.make(spec).key == before
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / FILE).write_text(LOCK.encode())
    assert plan.make(spec).key != before


def test_the_lock_decides_the_key_of_a_step_and_what_is_missing_is_named() -> None:
    spec = BuildSpec(parts=(DebianPart(name="dash"),))
    free = plan.make(spec)
    asked = free.steps[0].asked
    locks = [Lock({asked: Locked((LockedPackage("dash", "1", "amd64", digest),))}) for digest in ("00", "11")]
    assert len({free.key, *(plan.make(spec, lock).key for lock in locks)}) == 3
    plan.require_locked(plan.make(spec, locks[0]))
    with pytest.raises(NotLocked, match=r"does not have debian .*: dash"):
        plan.require_locked(free)


@pytest.fixture
def whit(tmp_path: Path) -> Whit:
    """`whit("build", …)` on an app of two services; with `offline` in a namespace without any network."""
    app = tmp_path / "app"
    (app / "api" / "hello").mkdir(parents=True)
    (app / "api" / "pyproject.toml").write_text(PROJECT)
    (app / "api" / "hello" / "__init__.py").write_text("def main(): print('hello')\n")
    services = "api: {build: ./api}, tool: {build: {parts: [debian:busybox-static]}}"
    (app / "whit.yaml").write_text(f"name: app\nservices: {{{services}}}\n")

    def run(*words: str, state: str = "state", offline: bool = False) -> subprocess.CompletedProcess[str]:
        start = ["unshare", "--net"] if offline else []
        env = {
            **module_environment(),
            "WHIT_STATE_ROOT": str(tmp_path / state),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        argv = [*start, sys.executable, "-m", "whit.cli", "build", str(app), *words]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=300)

    return run


def digests(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return {name: image["digest"] for name, image in json.loads(done.stdout)["images"].items()}


@pytest.mark.network
@pytest.mark.root
@pytest.mark.slow
def test_locked_builds_need_no_network_and_give_the_same_images(whit: Whit, tmp_path: Path) -> None:
    missing = whit("--locked")
    assert (missing.returncode, "there is no whit.lock" in missing.stderr) == (2, True)
    first = digests(whit("--lock", "--json"))
    assert digests(whit("--locked", "--refresh", "--json", offline=True)) == first
    other = whit("--locked", "--json", state="other")
    problem = json.loads(other.stderr.splitlines()[-1])
    assert problem["code"] == "not-locked"
    assert "busybox-static=" in problem["message"] or "idna-" in problem["message"] or "libc6=" in problem["message"]
    path = tmp_path / "app" / FILE
    assert {"packages", "wheels", "builders"} == {kind for row in read_rows(path).values() for kind in row}
    tampered = path.read_text()
    digest = next(row["wheels"][0][1] for row in read_rows(path).values() if "wheels" in row)
    path.write_text(tampered.replace(digest, "0" * 64))
    wrong = whit("--json", "--service", "api", state="other")
    assert json.loads(wrong.stderr.splitlines()[-1])["code"] == "requirement-digest"
    path.write_text(tampered)
    assert digests(whit("--json", state="other")) == first
    path.write_text(Lock().encode())
    unlocked = whit("--locked", "--json")
    assert "whit.lock does not have" in json.loads(unlocked.stderr.splitlines()[-1])["message"]


def read_rows(path: Path) -> dict[str, dict[str, list[list[str]]]]:
    rows: dict[str, dict[str, list[list[str]]]] = json.loads(path.read_text())["entries"]
    return rows


@pytest.mark.network
@pytest.mark.root
@pytest.mark.slow
def test_a_build_that_fetches_by_itself_has_no_network_when_locked(whit: Whit, tmp_path: Path) -> None:
    """The build backend is code of the app; what it would fetch is in no lock file."""
    backend = tmp_path / "app" / "api" / "spy.py"
    backend.write_text(
        "from hatchling.build import *\n"
        "def build_wheel(*given, _build=build_wheel, **named):\n"
        "    routes = open('/proc/net/route').read().splitlines()[1:]\n"
        "    open('hello/__init__.py', 'a').write(f'ROUTES = {len(routes)}\\n')\n"
        "    return _build(*given, **named)\n"
    )
    project = tmp_path / "app" / "api" / "pyproject.toml"
    project.write_text(PROJECT.replace('"hatchling.build"', '"spy"\nbackend-path = ["."]'))
    state = tmp_path / "state" / "whit" / "layers"
    assert whit("--lock", "--service", "api").returncode == 0
    assert "ROUTES = 0" not in next(state.glob("*/**/hello/__init__.py")).read_text()
    done = whit("--locked", "--refresh", "--service", "api")
    assert done.returncode == 0, done.stderr
    assert [1 for path in state.glob("*/**/hello/__init__.py") if "ROUTES = 0" in path.read_text()]
