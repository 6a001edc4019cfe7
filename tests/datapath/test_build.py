"""Objects are compiled when their sources changed, and only then; without a compiler the error says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.base.errors import CommandError, Unavailable
from whit.datapath import build

PROGRAM = 'int number; __attribute__((section("tc"))) int pass_on(void *context) { return context ? number : 0; }\n'


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for folder in ("progs", "include"):
        (tmp_path / "bpf" / folder).mkdir(parents=True)
    (tmp_path / "bpf/progs/one.bpf.c").write_text(PROGRAM)
    (tmp_path / "bpf/include/one.h").write_text("")
    return tmp_path / "bpf"


def test_compiles_once_and_again_after_a_change(sources: Path, tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    assert build.build(sources, objects)
    assert not build.build(sources, objects)
    (sources / "include/one.h").write_text("/* changed */")
    assert build.build(sources, objects)
    assert sorted(path.name for path in objects.iterdir()) == [".stamp", "one.bpf.o"]


def test_the_same_source_makes_the_same_object_anywhere(sources: Path, tmp_path: Path) -> None:
    build.build(sources, tmp_path / "a")
    sources.rename(tmp_path / "elsewhere")
    build.build(tmp_path / "elsewhere", tmp_path / "b")
    assert (tmp_path / "a/one.bpf.o").read_bytes() == (tmp_path / "b/one.bpf.o").read_bytes()


def test_an_object_without_source_is_removed(sources: Path, tmp_path: Path) -> None:
    objects = tmp_path / "objects"
    build.build(sources, objects)
    (sources / "progs/one.bpf.c").rename(sources / "progs/two.bpf.c")
    build.build(sources, objects)
    assert [path.name for path in objects.glob("*.o")] == ["two.bpf.o"]


def test_an_error_of_the_compiler_is_shown_and_nothing_is_published(sources: Path, tmp_path: Path) -> None:
    (sources / "progs/one.bpf.c").write_text("int wrong(void) { return nothing; }\n")
    with pytest.raises(CommandError, match="nothing"):
        build.build(sources, tmp_path / "objects")
    assert list((tmp_path / "objects").iterdir()) == []


def test_without_clang_current_objects_are_enough(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = tmp_path / "objects"
    build.build(sources, objects)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not build.build(sources, objects)
    (sources / "include/one.h").write_text("/* changed */")
    with pytest.raises(Unavailable, match="clang"):
        build.build(sources, objects)


def test_an_installed_wheel_has_nothing_to_build(tmp_path: Path) -> None:
    assert not build.build(tmp_path / "no-bpf-here", tmp_path / "objects")
    with pytest.raises(Unavailable, match=r"datapath\.bpf\.o is missing"):
        build.object_path("datapath", tmp_path)
