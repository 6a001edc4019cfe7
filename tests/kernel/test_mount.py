"""Mounts on the real kernel, and the table of mounts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whit.base.errors import Conflict, SystemCallError, Unavailable
from whit.kernel import mount
from whit.kernel.files import MakeDirectory, WriteFile
from whit.kernel.mount import BindMount, MountOverlay, MountPoint, MountTmpfs
from whit.model.operation import carry_out, take_back

root = pytest.mark.root


def _layer(parent: Path, name: str, **files: str) -> Path:
    layer = parent / name
    layer.mkdir(parents=True)
    for file, text in files.items():
        (layer / file).write_text(text)
    return layer


def _directories(parent: Path, *names: str) -> list[Path]:
    for name in names:
        (parent / name).mkdir()
    return [parent / name for name in names]


def test_a_line_of_the_table() -> None:
    line = r"36 35 98:0 /a\040b /mnt/c\011d rw,noatime shared:1 master:2 - ext3 /dev/root\134x rw,errors=continue"
    assert mount.parse(line + "\n") == [
        MountPoint(
            id=36,
            parent=35,
            root="/a b",
            path=Path("/mnt/c\td"),
            options=("rw", "noatime"),
            propagation=("shared:1", "master:2"),
            kind="ext3",
            source="/dev/root\\x",
            super_options=("rw", "errors=continue"),
        )
    ]


@root
def test_bind_read_only_does_not_change_its_source(mounts: Path) -> None:
    source, target = _directories(mounts, "source", "target")
    mount.bind(source, target, read_only=True)
    assert mount.is_mounted(target)
    with pytest.raises(OSError, match="Read-only"):
        (target / "file").touch()
    (source / "file").touch()
    assert (target / "file").exists()


@root
def test_remounting_read_only_keeps_the_other_flags(mounts: Path) -> None:
    (target,) = _directories(mounts, "target")
    mount.tmpfs(target, flags=mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC)
    mount.remount_read_only(target)
    (point,) = [point for point in mount.table() if point.path == target]
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(point.options)


@root
def test_memory_has_its_size_and_mode(mounts: Path) -> None:
    (target,) = _directories(mounts, "target")
    mount.tmpfs(target, size=1 << 20, mode=0o1777)
    assert target.stat().st_mode & 0o7777 == 0o1777
    size = os.statvfs(target)
    assert size.f_blocks * size.f_frsize == 1 << 20
    with pytest.raises(OSError, match="No space"):
        (target / "file").write_bytes(bytes(2 << 20))


@root
def test_an_overlay_shows_the_highest_layer_and_writes_to_the_upper(mounts: Path) -> None:
    low, high = _layer(mounts, "low", a="low", b="low"), _layer(mounts, "high", a="high")
    target, upper, work = _directories(mounts, "target", "upper", "work")
    mount.overlay(target, [low, high], upper=upper, work=work)
    assert ((target / "a").read_text(), (target / "b").read_text()) == ("high", "low")
    (target / "a").write_text("changed")
    assert ((upper / "a").read_text(), (high / "a").read_text()) == ("changed", "high")


@root
@pytest.mark.parametrize(("count", "length"), [(2, 1), (61, 100), (200, 200)])
def test_an_overlay_of_many_layers_whatever_the_length_of_their_paths(mounts: Path, count: int, length: int) -> None:
    layers = [
        _layer(mounts, f"{number:03}{'x' * length}", **{f"f{number}": "", "last": str(number)})
        for number in range(count)
    ]
    target, upper, work = _directories(mounts, "target", "upper", "work")
    mount.overlay(target, layers, upper=upper, work=work)
    assert (target / "last").read_text() == str(count - 1)
    assert len(list(target.iterdir())) == count + 1


@root
def test_an_overlay_of_layers_with_special_characters(mounts: Path) -> None:
    layers = [_layer(mounts, name, **{f"f{number}": ""}) for number, name in enumerate(["a:b", "c,d", "e\\f"])]
    (target,) = _directories(mounts, "target")
    mount.overlay(target, layers)
    assert sorted(path.name for path in target.iterdir()) == ["f0", "f1", "f2"]


@root
def test_too_many_layers_are_refused_not_cut_off(mounts: Path) -> None:
    layers = [_layer(mounts, f"{number:03}") for number in range(300)]
    (target,) = _directories(mounts, "target")
    with pytest.raises(Unavailable, match="300 layers"):
        mount.overlay(target, layers)
    assert not mount.is_mounted(target)


@root
def test_an_error_names_call_and_path(mounts: Path) -> None:
    (target,) = _directories(mounts, "target")
    with pytest.raises(SystemCallError, match="ENOENT") as caught:
        mount.bind(mounts / "nowhere", target)
    assert (caught.value.call, caught.value.path) == ("mount", str(target))
    assert caught.value.code == "system-call"


@root
def test_unmount_takes_all_that_is_stacked_and_is_safe_twice(mounts: Path) -> None:
    (target,) = _directories(mounts, "target")
    for _ in range(3):
        mount.tmpfs(target)
    mount.unmount(target)
    assert not mount.is_mounted(target)
    mount.unmount(target)
    mount.unmount(mounts / "nowhere")


@root
def test_unmount_below_takes_nested_and_busy_mounts_and_no_others(mounts: Path) -> None:
    inner, sibling = _directories(mounts, "inner", "inner2")
    mount.tmpfs(inner)
    mount.tmpfs(sibling)
    (inner / "deep er").mkdir()
    mount.tmpfs(inner / "deep er")
    with (inner / "deep er" / "open").open("w"):
        removed = mount.unmount_below(inner)
    assert removed == [inner, inner / "deep er"]
    assert not mount.is_mounted(inner)
    assert mount.is_mounted(sibling)
    assert mount.unmount_below(inner) == []


@root
async def test_operations_leave_nothing(mounts: Path) -> None:
    low, high = _layer(mounts, "low"), _layer(mounts, "high")
    new, source = mounts / "new", mounts / "source"
    operations = [
        MakeDirectory(new, mode=0o700, owner=(12, 34)),
        *(MakeDirectory(new / name) for name in ("root", "upper", "work", "bound", "memory")),
        MakeDirectory(source, keep=True),
        WriteFile(new / "file", b"text", mode=0o640, owner=(56, 78)),
        MountOverlay(new / "root", (low, high), new / "upper", new / "work"),
        BindMount(source, new / "bound", read_only=True),
        MountTmpfs(new / "memory", size=1 << 20),
    ]
    await take_back(operations)
    await carry_out(operations)
    assert (new.stat().st_mode & 0o777, new.stat().st_uid, new.stat().st_gid) == (0o700, 12, 34)
    file = (new / "file").stat()
    assert (file.st_mode & 0o777, file.st_uid, file.st_gid, (new / "file").read_text()) == (0o640, 56, 78, "text")
    assert len([point for point in mount.table() if point.path.is_relative_to(new)]) == 3
    await take_back(operations)
    await take_back(operations)
    assert not new.exists()
    assert source.exists()


@root
async def test_a_directory_with_a_mount_in_it_is_not_emptied(mounts: Path) -> None:
    precious = _layer(mounts, "precious", file="")
    operation = MakeDirectory(mounts / "new" / "bound")
    await operation.do()
    mount.bind(precious, operation.path)
    with pytest.raises(Conflict, match="is mounted"):
        await MakeDirectory(mounts / "new").undo()
    assert (precious / "file").exists()
