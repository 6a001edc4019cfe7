"""Inside: runs an image's checks in the image's own root, in namespaces of their own without any network but loopback.

`python -m whit.image.linking.inside` is started by prove.py in new mount, process, network, IPC and host name
namespaces. It stacks the layers under a writable layer in memory, enters that root for good, gives up all but the
capabilities that an instance has, and answers one request of standard input with a JSON line for each check.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import encodings.idna  # noqa: F401 - what is not imported before the root is entered cannot be imported any more
import fcntl
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whit.base.errors import CommandError, WhitError
from whit.image.rootfs.accounts_file import Identity, identity
from whit.kernel import fanotify, libc, mount
from whit.kernel.call_watch import Watch
from whit.tools import process

_CAPABILITIES = frozenset({0, 1, 3, 5, 6, 7, 8, 10, 18})
"""chown, dac_override, fowner, kill, setgid, setuid, setpcap, net_bind_service, sys_chroot; capability.h."""
_LAST_CAPABILITY = 40
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_EMULATOR = "/.whit-emulator"
"""Runs the programs of an image for another architecture. What they start has to be of the machine's own."""
_PAUSE = 0.05
_GRACE = 5.0
_TAIL = 3000
_ANSWER = 1 << 20


@dataclass
class Server:
    argv: tuple[str, ...]
    running: subprocess.Popen[bytes]

    def stop(self) -> None:
        """With whatever it started: it leads a session."""
        for number, grace in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
            try:
                os.killpg(self.running.pid, number)
                self.running.wait(grace)
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                break


class Checks:
    """Carries out checks one after the other in one writable layer; a server runs on while checks name the same."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.env: dict[str, str] = request["env"]
        self.working_dir: str = request["working_dir"] or "/"
        self.only_root: bool = request["only_root"]
        self.emulated: bool = bool(request["emulator"])
        self.server: Server | None = None

    def carry_out(self, check: Mapping[str, Any]) -> str:
        """Empty if it passed, else what went wrong."""
        start = tuple(check["start"])
        if self.server and self.server.argv != start:
            self.stop()
        try:
            who = identity(Path("/etc/passwd"), Path("/etc/group"), "0" if self.only_root else check["user"])
            if start and self.server is None:
                self.server = self._start(start, who)
        except WhitError as error:
            return str(error)
        said = self._until(lambda: self._once(check, who), check["timeout"], again=bool(start))
        if said and self.server:
            said = f"{said}\n{self._log()}".rstrip()
        return said

    def stop(self) -> None:
        if self.server:
            self.server.stop()
        self.server = None

    def _until(self, attempt: Callable[[], str], timeout: float, *, again: bool) -> str:
        deadline = time.monotonic() + timeout
        while True:
            said = attempt()
            if not said or not again:
                return said
            if self.server and self.server.running.poll() is not None:
                return f"{self.server.argv[0]} ended with {self.server.running.returncode}"
            if time.monotonic() > deadline:
                return f"{said}, and that for {timeout:g} s"
            time.sleep(_PAUSE)

    def _once(self, check: Mapping[str, Any], who: Identity) -> str:
        try:
            if check["http"]:
                return _http(check)
            if check["tcp"]:
                return _tcp(check)
            return self._command(check, who) if check["run"] else ""
        except (OSError, http.client.HTTPException) as error:
            return f"no answer: {error}"

    def _command(self, check: Mapping[str, Any], who: Identity) -> str:
        argv = self._setting(check["run"], who)
        options: dict[str, Any] = {"env": self.env | who.environment, "cwd": self._directory(), "check": False}
        try:
            ended = asyncio.run(process.run(argv, **options, timeout=check["timeout"], **self._user(who)))
        except (WhitError, OSError) as error:
            return str(error)
        output = ended.text + ended.stderr
        if ended.returncode:
            return f"ended with {ended.returncode}: {output[-_TAIL:].strip()}"
        return (
            ""
            if check["contains"] in output
            else f"its output does not contain {check['contains']!r}: {output[-_TAIL:]}"
        )

    def _start(self, argv: Sequence[str], who: Identity) -> Server:
        log = os.open("/.whit-check.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            running = process.start(
                self._setting(argv, who),
                stdout=log,
                stderr=log,
                env=self.env | who.environment,
                cwd=self._directory(),
                **self._user(who),
            )
        except OSError as error:
            raise CommandError(argv, 127, str(error)) from error
        finally:
            os.close(log)
        return Server(tuple(argv), running)

    def _user(self, who: Identity) -> dict[str, Any]:
        """Where only root is mapped there is nobody else to become."""
        return {} if self.only_root else {"user": who.uid, "group": who.gid}

    def _setting(self, argv: Sequence[str], who: Identity) -> list[str]:
        """The command with its program found in the image's PATH: who looks it up is this process, not a shell."""
        path = argv[0]
        if "/" not in path:
            found = (f"{directory}/{path}" for directory in self.env.get("PATH", "").split(":"))
            path = next((one for one in found if os.access(one, os.X_OK)), path)
        return _emulated(path, argv) if self.emulated else [path, *argv[1:]]

    def _directory(self) -> str:
        return self.working_dir if Path(self.working_dir).is_dir() else "/"

    def _log(self) -> str:
        return Path("/.whit-check.log").read_text(errors="replace")[-_TAIL:]


def _emulated(path: str, argv: Sequence[str]) -> list[str]:
    """The command under the emulator, which does not know scripts; it is told by what name the program was called."""
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        if file.read(2) == b"#!":
            interpreter = file.readline().decode(errors="replace").split()
            return [_EMULATOR, *interpreter, path, *argv[1:]]
    return [_EMULATOR, "-0", argv[0], path, *argv[1:]]


def _http(check: Mapping[str, Any]) -> str:
    url = urllib.parse.urlsplit(check["http"])
    connection = http.client.HTTPConnection(url.hostname or "127.0.0.1", url.port or 80, timeout=check["timeout"])
    connection.request("GET", f"{url.path or '/'}{f'?{url.query}' if url.query else ''}")
    answer = connection.getresponse()
    body = answer.read(_ANSWER).decode(errors="replace")
    if answer.status != check["status"]:
        return f"it answers {answer.status}, not {check['status']}: {body[-500:]}"
    return "" if check["contains"] in body else f"its answer does not contain {check['contains']!r}: {body[:500]}"


def _tcp(check: Mapping[str, Any]) -> str:
    with socket.create_connection(("127.0.0.1", check["tcp"]), timeout=check["timeout"]) as connection:
        connection.sendall(check["send"].encode())
        received = b""
        while check["contains"].encode() not in received:
            data = connection.recv(4096)
            if not data:
                return f"its answer does not contain {check['contains']!r}: {received[:500]!r}"
            received += data
    return ""


def make(layers: Sequence[Path], scratch: Path, memory: Sequence[str]) -> Path:
    """Make the root. `memory` are directories that an instance has a tmpfs at."""
    mount.tmpfs(scratch)
    root, upper, work = (scratch / name for name in ("root", "upper", "work"))
    for directory in (root, upper, work):
        directory.mkdir()
    mount.overlay(root, layers, upper=upper, work=work)
    for name in ("proc", "dev", *(path.strip("/") for path in memory)):
        (root / name).mkdir(parents=True, exist_ok=True)
    libc.mount("proc", str(root / "proc"), "proc", mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC, "")
    mount.tmpfs(root / "dev", flags=mount.MS_NOSUID)
    for name in _DEVICES:
        (root / "dev" / name).touch()
        mount.bind(Path("/dev") / name, root / "dev" / name)
    (root / "dev/shm").mkdir()
    mount.tmpfs(root / "dev/shm", mode=0o1777)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        (root / "dev" / name).symlink_to(target)
    for path in memory:
        mount.tmpfs(root / path.strip("/"), mode=0o1777)
    _write_names(root)
    return root


def _write_names(root: Path) -> None:
    """What the runtime gives every instance. A file of the image is replaced in the writable layer only."""
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc/resolv.conf").write_text("")


def _raise_loopback() -> None:
    """SIOCSIFFLAGS with IFF_UP|IFF_RUNNING; netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 0x41))


def _open_low_ports() -> None:
    """As in an instance, whoever runs a server may listen at any port; ip-sysctl.rst, ip_unprivileged_port_start."""
    with contextlib.suppress(OSError):  # where /proc/sys is read-only, a check that needs it says so
        Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")


def _give_up() -> None:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for capability in range(_LAST_CAPABILITY + 1):
        if capability not in _CAPABILITIES:
            prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def main() -> int:
    request = json.load(sys.stdin)
    _raise_loopback()
    _open_low_ports()
    with contextlib.ExitStack() as stack:
        watch = Watch(request["watched"]) if request["observe"] else None
        root = make([Path(path) for path in request["layers"]], Path(request["scratch"]), request["memory"])
        if request["emulator"]:
            (root / _EMULATOR.strip("/")).touch()
            mount.bind(Path(request["emulator"]), root / _EMULATOR.strip("/"))
        opened = stack.enter_context(fanotify.opened_below(root)) if request["observe"] else None
        os.chroot(root)
        os.chdir("/")
        _give_up()
        if watch is not None:
            watch.begin()
        passed = _carry_out(request)
    if opened is not None:
        print(json.dumps({"opened": sorted(opened.paths)}), flush=True)
    if watch is not None:
        print(json.dumps({"called": sorted(watch.end())}), flush=True)
    return 0 if passed else 1


def _carry_out(request: Mapping[str, Any]) -> bool:
    checks = Checks(request)
    try:
        for check in request["checks"]:
            said = checks.carry_out(check)
            print(json.dumps({"failure": said}), flush=True)
            if said:
                return False
    finally:
        checks.stop()
    return True


if __name__ == "__main__":
    sys.exit(main())
