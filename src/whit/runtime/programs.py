"""Compiles init/: `guest`, the first process of a microVM, `machine`, which runs one, `supervisor`, the first
process of a declared machine, `appliance`, that of an image that boots by itself, `listeners`, which looks into a
sandbox, and `gate`, which waits in one.

`python -m whit.runtime.programs` compiles what a checkout has when its sources changed; the wheel has them for the
architecture that it was built on. All are static. As the BPF objects' build, this never runs in the agent, and needs
nothing but base/.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from whit.base.errors import CommandError, Unavailable, WhitError

PROGRAMS = Path(__file__).resolve().parent / "microvm" / "programs"
SOURCES = Path(__file__).resolve().parents[3] / "init"
STAMP = ".stamp"


def _room(name: str, *modules: str) -> tuple[str, ...]:
    """Sources of one room of init/ (its README.md draws them)."""
    return tuple(f"{name}/{module}.c" for module in modules)


_ROOT = (
    *_room("disk", "entry", "files", "root", "slots", "verity"),
    *_room("network", "lease"),
    *_room("setup", "setup"),
)
"""What the first process of every guest brings up."""
PARTS = {
    "guest": (
        *_room("guest", "guest", "group", "process", "restored"),
        *_room("channel", "stream", "wire"),
        *_ROOT,
    ),
    "appliance": (
        *_room("guest", "appliance", "process"),
        *_room("disk", "upgrade"),
        *_room("network", "listening"),
        *_ROOT,
    ),
    "supervisor": (
        *_room("supervisor", "supervisor", "button", "container", "debug", "http", "json"),
        *_room("supervisor", "report", "services", "system"),
        *_room("first_boot", "base64", "cloud_config", "first_boot", "flow", "nocloud", "yaml"),
        *_room("channel", "wire"),
        *_room("disk", "upgrade"),
        *_room("network", "listening"),
        *_room("setup", "place"),
        *_ROOT,
    ),
    "machine": (*_room("host", "machine", "client"), *_room("channel", "stream", "wire")),
}
BARE = {"listeners": _room("bare", "listeners"), "gate": _room("bare", "gate")}
"""Without a C library."""
FOREIGN = {"aarch64": "aarch64-linux-gnu-gcc"}
"""What compiles for other machines, where it is installed: only BOOTED."""
FOREIGN_PACKAGE = "gcc-aarch64-linux-gnu"
FLAGS = (
    *("-static", "-Os", "-s", "-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"),
    *("-I.", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result"),
)
"""What cannot be written in a guest's first process cannot be told to anybody either."""
SMALL = "musl-gcc"
"""Compiles what is in the first root of every image that boots, where it is installed: a tenth of glibc's size."""
BOOTED = ("appliance", "supervisor")
GCC_FLAGS = ("-Wno-format-truncation",)
"""What is cut is a message that is too long, on purpose; clang has no such warning."""
BARE_FLAGS = ("-nostdlib", "-ffreestanding", "-fno-stack-protector")


def path(name: str, programs: Path = PROGRAMS, *, machine: str = "") -> Path:
    """The program for this machine, or one of another kind. Raises Unavailable if it was not built."""
    found = programs / f"{name}-{machine or os.uname().machine}"
    if not found.is_file() and machine not in ("", os.uname().machine):
        raise Unavailable(
            f"the program {found.name}, with which images boot on {machine}, is missing",
            hint=f"apt install {FOREIGN_PACKAGE}, and run `python -m whit.runtime.programs`",
        )
    if not found.is_file():
        raise Unavailable(
            f"the program {found.name}, which sandboxes and microVMs need, is missing",
            hint="run `python -m whit.runtime.programs` in a checkout, or use another isolation",
        )
    return found


def build(sources: Path = SOURCES, programs: Path = PROGRAMS, *, force: bool = False) -> bool:
    """Compile all if their sources changed; returns whether it did. An installed wheel has no sources.

    Raises:
        Unavailable: clang is not installed.
        CommandError: a source does not compile.
    """
    if not sources.is_dir():
        return False
    digest, stamp = _digest(sources), programs / STAMP
    if not force and stamp.is_file() and stamp.read_text() == digest:
        return False
    programs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=programs) as scratch:
        for name, parts in PARTS.items():
            made = Path(scratch) / name
            compiler = SMALL if name in BOOTED and shutil.which(SMALL) else "clang"
            own = (*GCC_FLAGS, *_kernel_headers()) if compiler == SMALL else ()
            _compile([*FLAGS, *own, "-o", str(made), *parts], sources, compiler)
            made.replace(programs / f"{name}-{os.uname().machine}")
        for name, parts in BARE.items():
            made = Path(scratch) / name
            _compile([*FLAGS, *BARE_FLAGS, "-o", str(made), *parts], sources)
            made.replace(programs / f"{name}-{os.uname().machine}")
        for machine, compiler in _foreign().items():
            made = Path(scratch) / machine
            for name in BOOTED:
                _compile([*FLAGS, *GCC_FLAGS, "-o", str(made), *PARTS[name]], sources, compiler)
                made.replace(programs / f"{name}-{machine}")
    stamp.write_text(digest)
    return True


def _kernel_headers() -> tuple[str, ...]:
    """musl brings none of Linux's; after its own, those of the system are looked through."""
    return ("-idirafter", "/usr/include", "-idirafter", f"/usr/include/{os.uname().machine}-linux-gnu")


def _digest(sources: Path) -> str:
    tools = f"{os.uname().machine}{_foreign()}{shutil.which(SMALL)}"
    digest = hashlib.sha256(f"{FLAGS}{PARTS}{BARE}{BARE_FLAGS}{GCC_FLAGS}{BOOTED}{tools}".encode())
    for path in sorted(sources.rglob("*.[ch]")):
        digest.update(f"\0{path.relative_to(sources)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _foreign() -> dict[str, str]:
    """Compilers for other machines, by their names, that are there."""
    return {name: one for name, one in FOREIGN.items() if name != os.uname().machine and shutil.which(one)}


def _compile(arguments: list[str], sources: Path, compiler: str = "clang") -> None:
    path = shutil.which(compiler)
    if path is None:
        raise Unavailable(f"{compiler} is not installed", hint=f"apt-get install {compiler}")
    done = subprocess.run([path, *arguments], cwd=sources, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise CommandError([compiler, *arguments], done.returncode, done.stderr)


if __name__ == "__main__":
    try:
        print("built" if build(force="--force" in sys.argv) else "up to date")
    except WhitError as error:
        print(f"whit: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
