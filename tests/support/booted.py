"""A machine under `whit boot`, in a process of its own, and what it answers."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.whit import Whit, free_port

_TOOLS = (
    "qemu-img",
    "qemu-system-aarch64",
    "aarch64-linux-gnu-gcc",
    "veritysetup",
    "mcopy",
    "mkfs.fat",
    "mke2fs",
    "xorriso",
)
_FILES = ("/usr/lib/systemd/boot/efi/systemd-bootx64.efi", "/usr/share/OVMF/OVMF_CODE_4M.fd")
FORMS_TOOLS = all(map(shutil.which, _TOOLS)) and all(Path(name).exists() for name in _FILES)
"""What disks and ISO images are made and booted with is installed."""
PATIENCE = 180.0
"""Seconds; under TCG on a busy machine a guest takes ten."""


class Booted:
    """`process` is whit's own; `port` leads to the guest's 8080."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def printed(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def get(self, path: str = "/") -> str:
        """The answer, once there is one."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            assert self.process.poll() is None, self.printed
            url = f"http://127.0.0.1:{self.port}{path}"
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
                return str(answer.read().decode())
            time.sleep(0.1)
        raise AssertionError(f"no answer within {PATIENCE:g} s; the machine printed:\n{self.printed}")

    def stop(self) -> int:
        """As Ctrl-C does; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(90)


@contextmanager
def booted(whit: Whit, what: str, tmp_path: Path, words: Sequence[str] = ()) -> Iterator[Booted]:
    port, log = free_port(), tmp_path / "console.log"
    log.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "whit.cli", "boot", what, "-p", f"{port}:8080", "--log", str(log), *words]
    with (tmp_path / "boot.out").open("wb") as output:
        process = subprocess.Popen(argv, env=whit.env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield Booted(process, port, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(90)
