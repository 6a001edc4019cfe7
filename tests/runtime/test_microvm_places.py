"""Where mounts of a virtual machine land: links of the image and of volumes are followed as the instance would, never
into the container that QEMU runs in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from whit.base.errors import InputError
from whit.runtime.microvm.places import placed


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/usr").mkdir(parents=True)
    (tmp_path / "root/a/x").mkdir(parents=True)
    return tmp_path / "root"


def volume(tmp_path: Path, name: str, destination: str) -> dict[str, Any]:
    (tmp_path / name).mkdir(exist_ok=True)
    return {"type": "bind", "source": str(tmp_path / name), "destination": destination}


def destinations(root: Path, *mounts: dict[str, Any]) -> list[str]:
    return [one["destination"] for one in placed(root, mounts)]


def test_without_links_it_stays(root: Path, tmp_path: Path) -> None:
    assert destinations(root, volume(tmp_path, "v", "/a"), volume(tmp_path, "w", "/a/new/place")) == [
        "/a",
        "/a/new/place",
    ]


@pytest.mark.parametrize("target", ["/usr", "../usr", "../../../../usr"])
def test_links_of_the_image(root: Path, tmp_path: Path, target: str) -> None:
    (root / "data").symlink_to(target)
    assert destinations(root, volume(tmp_path, "v", "/data")) == ["/usr"]


def test_links_of_a_volume_that_is_mounted_above(root: Path, tmp_path: Path) -> None:
    """The image has a directory there; what counts is what the volume has."""
    outer = volume(tmp_path, "v", "/a")
    (tmp_path / "v/x").symlink_to("/usr/lib")
    assert destinations(root, outer, volume(tmp_path, "w", "/a/x")) == ["/a", "/usr/lib"]


def test_a_volume_that_was_led_elsewhere_has_links_too(root: Path, tmp_path: Path) -> None:
    (root / "data").symlink_to("/a")
    outer = volume(tmp_path, "v", "/data")
    (tmp_path / "v/x").symlink_to("y")
    assert destinations(root, outer, volume(tmp_path, "w", "/data/x")) == ["/a", "/a/y"]


def test_nothing_lies_in_fresh_memory(root: Path, tmp_path: Path) -> None:
    (root / "a/x").rmdir()
    (root / "a/x").symlink_to("/usr")
    memory = {"type": "tmpfs", "source": "tmpfs", "destination": "/a"}
    assert destinations(root, memory, volume(tmp_path, "w", "/a/x")) == ["/a", "/a/x"]


def test_a_circle(root: Path, tmp_path: Path) -> None:
    (root / "data").symlink_to("data")
    with pytest.raises(InputError, match="too many links"):
        destinations(root, volume(tmp_path, "v", "/data"))
