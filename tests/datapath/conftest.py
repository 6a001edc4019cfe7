"""A BPF object of the tests' own, a pair of links in the host, and bpffs below the test's agent id."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.veth import Pair

from whit.base.settings import Settings
from whit.datapath import build
from whit.datapath.datapath import uninstall
from whit.datapath.objects import BpfObject
from whit.datapath.pins import Pins, mount_bpffs

HERE = Path(__file__).parent
Compile = Callable[[str], Path]


@pytest.fixture(scope="session")
def compile_sample(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """`compile_sample(source)`: the path of an object, compiled as those of Whit are, with its headers."""

    def compile_(source: str) -> Path:
        sources = tmp_path_factory.mktemp("bpf")
        shutil.copytree(build.SOURCES / "include", sources / "include")
        (sources / "progs").mkdir()
        (sources / "progs" / "sample.bpf.c").write_text(source)
        build.build(sources, sources / "objects")
        return sources / "objects" / "sample.bpf.o"

    return compile_


@pytest.fixture(scope="session")
def sample_path(compile_sample: Compile) -> Path:
    return compile_sample((HERE / "sample.bpf.c").read_text())


@pytest.fixture
def sample_object(sample_path: Path) -> Iterator[BpfObject]:
    """Loaded."""
    with BpfObject(sample_path) as opened:
        opened.load()
        yield opened


@pytest.fixture
def pins(settings: Settings) -> Iterator[Pins]:
    mount_bpffs()
    pins = Pins.of(settings)
    pins.make()
    yield pins
    uninstall(settings)


@pytest.fixture
def pair(settings: Settings) -> Iterator[Pair]:
    pair = Pair(settings.link(1), settings.link(2))
    subprocess.run(["ip", "link", "add", pair.near, "type", "veth", "peer", pair.far], check=True)
    try:
        for name in (pair.near, pair.far):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield pair
    finally:
        subprocess.run(["ip", "link", "del", pair.near], check=False, capture_output=True)
