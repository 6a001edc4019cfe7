"""Directories of the host as layers, and projects as their files describe them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.image.rootfs.tree import Entry, Tree
from whit.image.sandbox.processes import module_environment
from whit.image.sources import bytecode, directory, project


@pytest.fixture
def site(tmp_path: Path) -> Path:
    root = tmp_path / "site"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "conf").write_text("a = 1")
    (root / "run.sh").write_text("#!/bin/sh")
    (root / "run.sh").chmod(0o755)
    (root / "link").symlink_to("etc/conf")
    return root


def paths(root: Path) -> list[str]:
    return [entry.path for entry in directory.scan(root).entries()]


def test_entries(site: Path) -> None:
    os.chown(site / "run.sh", os.geteuid(), os.getegid())
    entries = {entry.path: entry for entry in directory.scan(site).entries("app")}
    assert sorted(entries) == ["app/etc", "app/etc/conf", "app/link", "app/run.sh"]
    assert entries["app/run.sh"].mode == 0o755
    assert entries["app/link"].target == "etc/conf"
    assert {(entry.uid, entry.gid) for entry in entries.values()} == {(0, 0)}


def test_a_file_or_a_directory_goes_to_its_target(site: Path) -> None:
    (program,) = directory.take(site / "run.sh", "usr/bin/run")
    assert (program.path, program.mode, program.data()) == ("usr/bin/run", 0o755, b"#!/bin/sh")
    assert [entry.path for entry in directory.take(site / "etc", "srv")] == ["srv/conf"]
    assert [entry.path for entry in directory.take(site, "", ("/etc", "link"))] == ["run.sh"]
    before = directory.digest(site / "run.sh", "usr/bin/run")
    (site / "run.sh").write_text("other")
    assert directory.digest(site / "run.sh", "usr/bin/run") != before


def test_link_out_of_the_directory_is_refused(site: Path) -> None:
    (site / "etc" / "secret").symlink_to("../../../etc/shadow")
    with pytest.raises(InputError, match="outside of the directory"):
        paths(site)


def test_absolute_link_is_kept_and_not_followed(site: Path) -> None:
    (site / "python").symlink_to("/usr/bin/python3")
    (site / "dir").symlink_to("/etc")
    assert not [path for path in paths(site) if path.startswith("dir/")]
    targets = {entry.path: entry.target for entry in directory.scan(site).entries()}
    assert targets["python"] == "/usr/bin/python3"


def test_socket_is_refused_unless_ignored(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.sock")
    with pytest.raises(InputError, match=r"s\.sock"):
        paths(site)
    (site / ".whitignore").write_text("# sockets\n*.sock\n")
    assert "s.sock" not in paths(site)


def test_ignored_patterns(site: Path) -> None:
    for path in (".git/config", "a/__pycache__/x.pyc", "a/b.log", "logs/keep", "a/logs/keep"):
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text("x")
    (site / ".whitignore").write_text("*.log\n/logs/\n")
    assert [path for path in paths(site) if path.startswith(("a", "logs", "."))] == ["a", "a/logs", "a/logs/keep"]


def test_digest_changes_with_what_is_in_the_layer_and_with_nothing_else(site: Path, tmp_path: Path) -> None:
    first = directory.scan(site).digest()
    os.utime(site / "etc" / "conf", (1, 1))
    copy = tmp_path / "elsewhere"
    shutil.copytree(site, copy, symlinks=True)
    assert directory.scan(site).digest() == directory.scan(copy).digest() == first
    digests = {first}
    (copy / "etc" / "conf").write_text("a = 2")
    digests.add(directory.scan(copy).digest())
    (copy / "run.sh").chmod(0o644)
    digests.add(directory.scan(copy).digest())
    (copy / "empty").mkdir()
    digests.add(directory.scan(copy).digest())
    (copy / "link").unlink()
    (copy / "link").symlink_to("run.sh")
    digests.add(directory.scan(copy).digest())
    assert len(digests) == 5


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a directory"):
        directory.scan(tmp_path / "nothing")


def test_plain_project(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("-r base/more.txt\nfastapi==1\n")
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "more.txt").write_text("httpx\n")
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")
    found = project.read(tmp_path)
    assert not found.installed
    assert list(found.requirements) == ["requirements.txt", "base/more.txt"]


def test_project_with_one_script_has_a_command(tmp_path: Path) -> None:
    text = '[project]\nname = "a"\ndependencies = ["x", "y>1"]\n[project.scripts]\nserve = "a:main"\n'
    (tmp_path / "pyproject.toml").write_text(text)
    found = project.read(tmp_path)
    assert (found.installed, found.dynamic, found.command) == (True, False, ("serve",))
    assert found.requirements == {"pyproject-dependencies.txt": "x\ny>1\n"}
    (tmp_path / "pyproject.toml").write_text(text + 'other = "a:other"\n')
    assert project.read(tmp_path).command == ()


def test_dynamic_dependencies(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "a"\ndynamic = ["version", "dependencies"]\n')
    assert project.read(tmp_path).dynamic


@pytest.mark.parametrize("line", ["-e .", "--editable=.", "./local", "../other", "file:///tmp/x.whl", "a @ file:///b"])
def test_local_requirement_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"httpx\n{line}\n")
    with pytest.raises(InputError, match=r"requirements.txt:2"):
        project.read(tmp_path)


def test_requirements_outside_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "p" / "requirements.txt").write_text("-r ../secret.txt\n")
    with pytest.raises(InputError):
        project.read(tmp_path / "p")


def test_no_project(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither"):
        project.read(tmp_path)


SOURCE = b"""
import os, sys
NAMES = {"alpha", "beta", "path", "environ"}
def f(path, *, environ="alpha"):
    def inner(): return path, os.environ, 3.5, b"x" * 3, ("a", ("b", 1 << 70))
    return inner if path in {"beta", "gamma"} else lambda sys: sys.argv
class C:
    '''doc'''
    def only_xml_has_this_name(self): return self.getElementsByTagName, self.putrequest, "NodeFilter"
    async def m(self): return [x async for x in self]
"""


def test_byte_code_is_the_same_in_every_process() -> None:
    script = (
        "import sys, hashlib; from whit.image.sources import bytecode\n"
        "if sys.argv[1] == 'many': import json, xml.dom.minidom, http.client, unittest\n"
        f"print(hashlib.sha256(bytecode.compile_source({SOURCE!r}, '/app/x.py')).hexdigest())"
    )
    digests = set()
    for seed, what in (("0", "few"), ("1", "many"), ("2", "few"), ("random", "many")):
        env = os.environ | module_environment() | {"PYTHONHASHSEED": seed}
        argv = [sys.executable, "-c", script, what]
        digests.add(subprocess.run(argv, env=env, capture_output=True, check=True).stdout)
    assert len(digests) == 1


def test_byte_code_is_used_although_the_time_of_the_source_is_another(tmp_path: Path) -> None:
    tree = Tree()
    tree.add(Entry("m.py", content=b"value = 1"))
    bytecode.add_caches(tree, list(tree))
    for entry in tree:
        path = tmp_path / entry.path
        path.mkdir() if entry.kind == "directory" else path.write_bytes(entry.data())
    (tmp_path / "m.py").write_bytes(b"value = 2")
    ended = subprocess.run([sys.executable, "-c", "import m; print(m.value)"], cwd=tmp_path, capture_output=True)
    assert ended.stdout == b"1\n"


def test_what_does_not_compile_is_left_alone() -> None:
    assert bytecode.compile_source(b"print 'python 2'", "/x.py") is None
