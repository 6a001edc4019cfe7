"""A store of its own for each test of images."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.images import need
from support.whit import free_port

from whit.base.settings import Settings
from whit.image.store.images import ImageStore
from whit.model.progress import Progress


@pytest.fixture
def store(settings: Settings) -> ImageStore:
    return ImageStore(settings)


@pytest.fixture
def steps() -> list[str]:
    """What `report` was told."""
    return []


@pytest.fixture
def report(steps: list[str]) -> Callable[[Progress], None]:
    return lambda progress: steps.append(progress.step)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """Where every user may go: each session of pytest closes the directory of tmp_path to others, also while we run."""
    path = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="whit-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of a registry on loopback, without TLS."""
    port = free_port()
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    with (tmp_path / "registry.log").open("wb") as log:
        server = subprocess.Popen([need("docker-registry"), "serve", config], stdout=log, stderr=log, env=os.environ)
    try:
        wait_for(port)
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def wait_for(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")
