"""A stock Debian 12 in QEMU: systemd as its first process, pure cgroup v2, Debian's own kernel, and this checkout.

What `./whit` installs is in its root already, and the Python packages come with the checkout, so that nothing has to be
fetched. The root is kept below /var/cache for the next run; a run writes into an overlay of its own.
"""

from __future__ import annotations

import asyncio
import compileall
import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from support.whit import ROOT
from whit.datapath import build as datapath
from whit.runtime import programs
from whit.tools import qemu

KEPT = Path("/var/cache/whit/debian12-guest")
PORT = "whit.commands"
ANSWERING = "usr/local/sbin/answer-commands"
SUITES = ("bookworm", "bookworm-updates", "bookworm-backports")
PACKAGES = (
    *("systemd-sysv", "dbus", "udev", "linux-image-cloud-amd64", "initramfs-tools", "e2fsprogs"),
    *("attr", "busybox-static", "curl", "ethtool", "gcc", "libc6-dev", "libelf-dev", "zlib1g-dev", "iputils-ping"),
    "runsc/bookworm-backports",
)
"""Besides those of requirements/debian.txt: what a machine boots with, what the tests that run there need, gVisor."""
TRANSLATABLE = "norandmaps"
"""QEMU 7.2 keeps translated code by its address: where each process has its libraries elsewhere, all of them are
translated for each anew, and `iptables -S` takes three seconds instead of a tenth."""
FILES = {
    "etc/hostname": "bookworm\n",
    "etc/hosts": "127.0.0.1 localhost bookworm\n::1 localhost\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n/dev/vdb /checkout ext4 x-systemd.device-timeout=600 0 2\n",
    "etc/systemd/network/20-any.network": "[Match]\nName=en*\n\n[Network]\nDHCP=yes\n",
    "etc/systemd/system/answer-commands.service": f"""\
[Unit]
After=network.target
RequiresMountsFor=/checkout

[Service]
ExecStart=/usr/bin/python3 /{ANSWERING} /dev/virtio-ports/{PORT}
Environment=HOME=/root

[Install]
WantedBy=multi-user.target
""",
}
BUILT = """\
from whit.runtime import programs
(programs.PROGRAMS / programs.STAMP).write_text(programs._digest(programs.SOURCES))
"""
"""Of what stands in the checkout: built here, from the same sources, with compilers that the guest does not have."""
ENABLED = ("systemd-networkd.service", "answer-commands.service")


def sh(*argv: str | Path) -> str:
    done = subprocess.run([str(word) for word in argv], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stderr[-3000:]}"
    return done.stdout


def packages() -> list[str]:
    listed = (ROOT / "requirements/debian.txt").read_text().splitlines()
    return [*(line for line in listed if not line.startswith("#")), *PACKAGES]


def base() -> Path:
    """The directory with `root` (ext4), `kernel` and `initrd`; made if there is none for these packages yet."""
    made_of = json.dumps([packages(), FILES, (ROOT / "tests/support/answer_commands.py").read_text()])
    found = KEPT / hashlib.sha256(made_of.encode()).hexdigest()[:12]
    if not found.exists():
        shutil.rmtree(KEPT, ignore_errors=True)
        unfinished = KEPT / f".{os.getpid()}"
        _make(unfinished)
        unfinished.rename(found)
    return found


def _make(place: Path) -> None:
    tree = place / "tree"
    place.mkdir(parents=True)
    key = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
    sources = [f"deb [{key}] http://deb.debian.org/debian {suite} main" for suite in SUITES]
    sh("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages())}", "bookworm", tree, *sources)
    for name, text in FILES.items():
        (tree / name).write_text(text)
    shutil.copy(ROOT / "tests/support/answer_commands.py", tree / ANSWERING)
    sh("systemctl", f"--root={tree}", "enable", *ENABLED)
    (tree / "checkout").mkdir()
    for name, target in (("vmlinuz", "kernel"), ("initrd.img", "initrd")):
        (found,) = (tree / "boot").glob(f"{name}-*")
        shutil.copy(found, place / target)
    file_system(tree, place / "root", "8G")
    shutil.rmtree(tree)


def file_system(tree: Path, image: Path, size: str) -> None:
    """ext4 with what is in `tree`, sparse, without mounting it."""
    sh("mke2fs", "-q", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=0", "-d", tree, image, size)


def checkout(place: Path) -> Path:
    """A disk with what git knows of this checkout, its Python packages and what was built here."""
    tree, image = place / "checkout", place / "checkout.ext4"
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    compileall.compile_dir(tree, quiet=1, stripdir=tree, prependdir="/checkout")
    datapath.build()
    programs.build()
    shutil.copytree((ROOT / ".venv").resolve(), tree / ".venv", symlinks=True)
    for name in ("src/whit/datapath/objects", "src/whit/runtime/microvm/programs"):
        shutil.copytree(ROOT / name, tree / name, dirs_exist_ok=True)
        (tree / name / ".stamp").touch()
    file_system(tree, image, "2G")
    shutil.rmtree(tree)
    return image


class DebianGuest:
    """Made by `with`. `reboot` starts it again from the same disks."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.running: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None

    def __enter__(self) -> DebianGuest:
        self.base = base()
        self.disk = self.place / "root.qcow2"
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", self.base / "root", self.disk)
        self.checkout = checkout(self.place)
        try:
            self.boot()
            self.run(f"PYTHONPATH=src .venv/bin/python -c '{BUILT}'")
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    @property
    def console(self) -> str:
        return (self.place / "console").read_text(errors="replace")

    def machine(self) -> qemu.Machine:
        return qemu.Machine(
            self.base / "kernel",
            self.base / "initrd",
            f"root=/dev/vda rw console=ttyS0 panic=-1 {TRANSLATABLE}",
            self.place / "console",
            memory=4096,
            translation=1024,  # many large programs in turn: with 128 MiB all is translated again every some seconds
            cpus=2,
            ports=(qemu.Port(PORT, self.place / "port"),),
            disks=(qemu.Disk(self.disk, "root", form="qcow2"), qemu.Disk(self.checkout, "checkout")),
            forwards=(),
        )

    def boot(self, patience: float = 600) -> None:
        """Returns when it takes commands."""
        accelerator, release = asyncio.run(self._accelerator())
        with (self.place / "errors").open("wb") as errors:
            argv = qemu.command(self.machine(), accelerator, release)
            self.running = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        self.connect()
        assert self._answer(patience) == {"booted": True}

    async def _accelerator(self) -> tuple[qemu.Accelerator, tuple[int, int]]:
        return await qemu.accelerator(), await qemu.version()

    def connect(self) -> None:
        """QEMU makes the socket a moment after it began."""
        until = time.monotonic() + 10
        self.channel = socket.socket(socket.AF_UNIX)
        while self.channel.connect_ex(str(self.place / "port")) != 0:
            assert time.monotonic() < until, (self.place / "errors").read_text()
            time.sleep(0.05)

    def run(self, command: str, *, timeout: float = 300, check: bool = True) -> str:
        """What a command of its shell prints, in the checkout."""
        assert self.channel is not None
        self.channel.sendall(json.dumps({"command": command, "timeout": timeout}).encode() + b"\n")
        answer = self._answer(timeout + 60)
        assert not check or answer["status"] == 0, f"{command}: {answer['status']}\n{answer['output'][-6000:]}"
        return str(answer["output"])

    def _answer(self, patience: float) -> Any:
        assert self.channel is not None
        self.channel.settimeout(patience)
        data = b""
        try:
            while not data.endswith(b"\n"):
                received = self.channel.recv(1 << 16)
                assert received, f"it ended\n{self.console[-3000:]}"
                data += received
        except TimeoutError:
            raise AssertionError(f"no answer in {patience:g} s\n{self.console[-3000:]}") from None
        return json.loads(data)

    def reboot(self) -> None:
        """QEMU ends where a machine resets, and is started again."""
        assert self.channel is not None
        request = {"command": "systemctl reboot --no-block", "timeout": 30}
        self.channel.sendall(json.dumps(request).encode() + b"\n")
        assert self.running is not None
        self.running.wait(300)
        self.end()
        self.boot()

    def end(self) -> None:
        if self.channel is not None:
            self.channel.close()
        if self.running is not None:
            self.running.kill()
            self.running.wait()
        self.running = self.channel = None
