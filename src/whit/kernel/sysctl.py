"""Kernel settings below /proc/sys, named by their path (`net/ipv4/conf/eth0.7/rp_filter`): links may have dots in
their names. Which value a setting needs is decided by those who call."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from whit.kernel import libc

_ROOT = Path("/proc/sys")


def exists(name: str) -> bool:
    return (_ROOT / name).exists()


def read(name: str) -> str:
    """The value without its line end. Settings of `net` are those of the calling thread's network namespace.

    Raises:
        SystemCallError: ENOENT if this kernel has no such setting.
    """
    path = _ROOT / name
    with libc.named("read", path):
        return path.read_text().strip()


def write(name: str, value: str | int) -> None:
    """Raises SystemCallError: ENOENT, or EINVAL for a value that the kernel does not take."""
    path = _ROOT / name
    with libc.named(f"write {value} to", path), path.open("w") as file:
        file.write(f"{value}\n")


@dataclass(frozen=True)
class WriteSysctl:
    """Give a setting a value.

    A setting that goes away with its link needs no undo. For one of the whole machine, `remember` names a file that
    keeps the value from before, so that also an agent that starts after a crash can give it back.
    """

    name: str
    value: str
    remember: Path | None = None

    def describe(self) -> str:
        return f"set {self.name} to {self.value}"

    async def do(self) -> None:
        before = read(self.name)
        if before == self.value:
            return
        if self.remember is not None and not self.remember.exists():
            _keep(self.remember, before)
        write(self.name, self.value)

    async def undo(self) -> None:
        if self.remember is not None and self.remember.exists():
            write(self.name, self.remember.read_text().strip())
            self.remember.unlink()


def _keep(file: Path, value: str) -> None:
    """By rename, so that a killed agent leaves all of it or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.new")
    unfinished.write_text(f"{value}\n")
    unfinished.replace(file)
