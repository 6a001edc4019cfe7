"""Other engines for the same start: podman, docker and containerd, each in a place of its own that goes with the run.

Their image is one layer out of a local archive, no registry is asked, and no network is set up, as for Whit. Daemons
are started here and ended here; what one of them says if it does not run on this machine is the caller's to print.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from whit.kernel import cgroup, mount

IMAGE = "docker.io/library/whit-start:latest"
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
"""An agent without CAP_SYS_RESOURCE may not give more than it has, and podman would."""
PATIENCE = 20.0


class DoesNotRun(Exception):
    """An engine is not installed, or refuses this machine."""


@dataclass(frozen=True)
class Engine:
    """`words` before the name and the command start a container in the foreground; `ends` before the name remove it."""

    label: str
    words: tuple[str, ...]
    ends: tuple[tuple[str, ...], ...]
    image_last: tuple[str, ...] = ()

    def run(self, name: str, command: Sequence[str]) -> list[str]:
        return [*self.words, *([name] if not self.image_last else ["--name", name, *self.image_last]), *command]

    def remove(self, name: str) -> None:
        for words in self.ends:
            subprocess.run([*words, name], capture_output=True, timeout=PATIENCE, check=False)


def archive(rootfs: Path, target: Path) -> Path:
    """An image as `docker save` writes it (Docker Image Specification v1.2): one layer, no command."""
    layer = target.with_suffix(".layer")
    with tarfile.open(layer, "w") as tar:
        tar.add(rootfs, arcname=".")
    with tarfile.open(target, "w") as tar:
        digest = subprocess.run(["sha256sum", layer], capture_output=True, text=True, check=True).stdout.split()[0]
        layers = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
        config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": layers}
        manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
        for name, document in (("config.json", config), ("manifest.json", manifest)):
            content = json.dumps(document).encode()
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
        tar.add(layer, arcname="layer.tar")
    layer.unlink()
    return target


@contextmanager
def podman(place: Path, image: Path) -> Iterator[Engine]:
    base = ("podman", "--root", f"{place}/root", "--runroot", f"{place}/run")
    base += ("--cgroup-manager=cgroupfs", "--runtime=runc", "--events-backend=file")
    _must([*base, "load", "--input", str(image)])
    with cleared(place):
        yield Engine(
            f"podman {_version('podman')}",
            (*base, "run", "--network=none", *LIMITS),
            ((*base, "rm", "--force", "--time=0"),),
            (IMAGE,),
        )


@contextmanager
def docker(place: Path, image: Path) -> Iterator[Engine]:
    address = f"unix://{place}/docker.sock"
    daemon = ["dockerd", "--data-root", f"{place}/data", "--exec-root", f"{place}/exec", "--host", address]
    daemon += ["--pidfile", f"{place}/docker.pid", "--bridge=none", "--iptables=false", "--ip6tables=false"]
    base = ("docker", "--host", address)
    with cleared(place), running(daemon, place, [*base, "version"]):
        _must([*base, "load", "--input", str(image)])
        run = (*base, "run", "--network=none", *LIMITS)
        yield Engine(f"docker {_version('dockerd')}", run, ((*base, "rm", "--force"),), (IMAGE,))


@contextmanager
def containerd(place: Path, image: Path) -> Iterator[Engine]:
    address = f"{place}/containerd.sock"
    settings = place / "config.toml"
    settings.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    daemon = ["containerd", "--config", str(settings), "--root", f"{place}/data", "--state", f"{place}/state"]
    base = ("ctr", "--address", address)
    with cleared(place), running([*daemon, "--address", address], place, [*base, "version"]):
        _must([*base, "images", "import", str(image)])
        ends = (("tasks", "kill", "--signal", "SIGKILL"), ("tasks", "rm", "--force"), ("containers", "rm"))
        yield Engine(
            f"containerd {_version('containerd')}",
            (*base, "run", IMAGE),
            tuple((*base, *words) for words in ends),
        )


ENGINES = {"podman": podman, "docker": docker, "containerd": containerd}


@contextmanager
def running(argv: list[str], place: Path, question: list[str]) -> Iterator[None]:
    """A daemon, from the moment that it answers. Raises DoesNotRun with the last that it said."""
    if shutil.which(argv[0]) is None:
        raise DoesNotRun(f"{argv[0]} is not installed")
    said = place / "daemon.log"
    with said.open("wb") as log:
        daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + PATIENCE
        while subprocess.run(question, capture_output=True, check=False).returncode:
            if daemon.poll() is not None or time.monotonic() > until:
                raise DoesNotRun(" ".join(said.read_text(errors="replace").splitlines()[-1:]))
            time.sleep(0.1)
        yield
    finally:
        daemon.terminate()
        with suppress(subprocess.TimeoutExpired):
            daemon.wait(PATIENCE)
        daemon.kill()
        daemon.wait()


@contextmanager
def cleared(place: Path) -> Iterator[None]:
    """Nothing stays mounted below, and no control group of the engines that stands empty."""
    groups = [root / name for root in cgroup.find().roots for name in ("docker", "default", "libpod_parent", "machine")]
    foreign = {path for path in groups if path.exists()}
    try:
        yield
    finally:
        _await_end(place)
        mount.unmount_below(place)
        for path in groups:
            if path not in foreign:
                for below in cgroup.tree(path):
                    with suppress(OSError):
                        below.rmdir()


def _await_end(place: Path) -> None:
    """podman's monitors start another podman that cleans up, and mounts its storage for that."""
    until = time.monotonic() + PATIENCE
    while any(str(place).encode() in words for words in _command_lines()) and time.monotonic() < until:
        time.sleep(0.1)


def _command_lines() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()


def _must(argv: list[str]) -> None:
    if shutil.which(argv[0]) is None:
        raise DoesNotRun(f"{argv[0]} is not installed")
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DoesNotRun((done.stderr or done.stdout).strip().splitlines()[-1])


def _version(program: str) -> str:
    words = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return next(word for word in words if word[0].isdigit()).strip(",").partition("~")[0].partition("+")[0]
