"""A machine inside the machine: a network namespace that plays the node, so that tests change no link of the host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from whit.base.settings import Settings
from whit.kernel import mount
from whit.kernel.network import netns


@pytest.fixture
def node(settings: Settings) -> Iterator[Path]:
    """The namespace of a node with its loopback up. All namespaces in the same directory are removed afterwards."""
    path = settings.netns_dir / "node"
    netns.create(path)
    yield path
    for kept in netns.kept_in(settings.netns_dir):
        netns.remove(kept)


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount in; nothing stays mounted."""
    yield tmp_path
    mount.unmount_below(tmp_path)
