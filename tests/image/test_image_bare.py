"""Byte code in the place of sources: which modules lose theirs, and that the interpreter takes what is left."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from whit.image.linking import bare
from whit.image.linking.link import Linked, Order, Rule, link
from whit.image.provenance import merged
from whit.image.provenance.needs import Graph
from whit.image.rootfs import layer
from whit.image.rootfs.tree import Entry, Tree
from whit.image.sources import bytecode

DIST = f"usr/local/lib/python3.{sys.version_info.minor}/dist-packages"
SOURCES = {
    "pkg/__init__.py": "from . import used\n",
    "pkg/used.py": "import pkg.read, pkg.named\nANSWER = 42\ndef fail():\n    return nothing\n",
    "pkg/read.py": "VALUE = 'read'\n",
    "pkg/named.py": "VALUE = 'named in a configuration'\n",
    "pkg/idle.py": "",
}


def linked(tmp_path: Path, *, include: tuple[str, ...] = (), own: bool = False) -> Linked:
    """A package of Python, linked by closure from `python3 -m pkg.used`, and `etc/app.conf`, which names a module."""
    tree = Tree()
    python = f"usr/bin/python3.{sys.version_info.minor}"
    for entry in (Entry(python, content=b"x", mode=0o755), Entry("usr/bin/python3", "symlink", target=python[8:])):
        tree.add(entry)
    tree.add(Entry("etc/app.conf", content=f"module = /{DIST}/pkg/named.py\n".encode()))
    sources = [Entry(f"{DIST}/{name}", content=text.encode()) for name, text in SOURCES.items()]
    for source in sources:
        tree.add(source)
    bytecode.add_caches(tree, sources)
    layer.write(tree, tmp_path / "in.tar")
    (tmp_path / "out").mkdir()
    order = Order(
        {"part": Rule("closure", (*include, "etc/app.conf"))},
        (("python3", "-m", "pkg.used"),),
        ("/usr/bin",),
        own_layers=frozenset({0} if own else ()),
    )
    source = merged.Source(tmp_path / "in.tar", ("part",))
    return link(merged.merge([source], Graph((), ())), order, tmp_path / "out")


def python_files(result: Linked) -> set[str]:
    start = f"{DIST}/pkg/"
    return {file.path.removeprefix(start) for file in result.bill.files if file.path.startswith(start)}


def test_what_is_only_imported_comes_as_byte_code(tmp_path: Path) -> None:
    """But a module that a configuration names as a file keeps its source and its cache."""
    result = linked(tmp_path)
    cache = bytecode.cache_path("named.py").lstrip("/")
    assert python_files(result) == {"__init__.pyc", "used.pyc", "read.pyc", "named.py", "__pycache__", cache}
    out = {example: one.reason for one in result.bill.left_out for example in one.examples}
    assert out[f"{DIST}/pkg/used.py"] == bare.IN_PLACE
    assert out[f"{DIST}/pkg/idle.py"] == "nothing reaches it"


def test_explain_of_the_source_tells_of_the_byte_code(tmp_path: Path) -> None:
    lines = linked(tmp_path).bill.explain(f"/{DIST}/pkg/read.py")
    assert lines[0] == f"/{DIST}/pkg/read.pyc"
    assert lines[1] == f"import pkg.read of /{DIST}/pkg/used.pyc"


@pytest.mark.parametrize("how", ["include", "own"])
def test_sources_stay_where_they_are_asked_for(tmp_path: Path, how: str) -> None:
    """By `include`, and those of the app itself."""
    found = python_files(linked(tmp_path, include=(f"{DIST}/pkg/*",) if how == "include" else (), own=how == "own"))
    assert {"__init__.py", "used.py", "read.py"} <= found
    assert not {name for name in found if name.endswith(".pyc") and "/" not in name}


def test_the_interpreter_takes_it_and_tells_where_an_error_was(tmp_path: Path) -> None:
    """From the layer as it is written; a traceback has the file and the line, without its text."""
    linked(tmp_path)
    with tarfile.open(tmp_path / "out" / "layer-0.tar") as archive:
        archive.extractall(tmp_path / "root")
    program = "import pkg.used; print(pkg.used.ANSWER, pkg.read.VALUE, pkg.used.__file__); pkg.used.fail()"
    argv = [sys.executable, "-ISc", f"import sys; sys.path[:0] = [{str(tmp_path / 'root' / DIST)!r}]; {program}"]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert ended.stdout.startswith("42 read ")
    assert ended.stdout.strip().endswith("used.pyc")
    assert f'File "/{DIST}/pkg/used.py", line 4, in fail\nNameError' in ended.stderr
    header = (tmp_path / "root" / DIST / "pkg" / "read.pyc").read_bytes()[:8]
    assert header == importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little")  # a hash, and not checked
