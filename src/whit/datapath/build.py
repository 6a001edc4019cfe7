"""Compiles bpf/progs/*.bpf.c into the objects that are shipped beside this file.

`python -m whit.datapath.build` compiles what a checkout has when its sources changed; hatch_build.py calls the same
function for the wheel. An installed wheel has objects and no sources: there is nothing to do and no compiler is needed.

Needs nothing but the standard library and base/, because it runs inside the isolated environment of a wheel build. For
the same reason, and because it never runs in the agent, it starts the compiler itself.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from whit.base.errors import CommandError, InputError, Unavailable, WhitError

OBJECTS = Path(__file__).resolve().parent / "objects"
SOURCES = Path(__file__).resolve().parents[3] / "bpf"
STAMP = ".stamp"
"""Holds the digest of the sources that the objects were made of. Its time of change is of no account."""

# v3 of the instruction set (32-bit jumps) is in every kernel since 5.1. Nothing here depends on the host's
# architecture: the object of one little-endian machine runs on every other.
FLAGS = ("-O2", "-g", "-target", "bpf", "-mcpu=v3", "-std=gnu11", "-Wall", "-Wextra", "-Werror")
# Line information holds the directory of the compilation; without this, each checkout would make other objects.
RELATIVE = "-fdebug-compilation-dir=."
INCLUDES = ("-Iinclude", "-Ilib", "-I.")


def has_sources(sources: Path = SOURCES) -> bool:
    """Whether this is a checkout; an installed wheel has none."""
    return (sources / "progs").is_dir()


def programs(sources: Path = SOURCES) -> list[Path]:
    return sorted((sources / "progs").glob("*.bpf.c"))


def object_path(name: str, objects: Path = OBJECTS) -> Path:
    """Path of the object `name`, as `datapath`. Raises Unavailable if it was not built."""
    path = objects / f"{name}.bpf.o"
    if not path.is_file():
        raise Unavailable(f"the BPF object {path} is missing", hint="run `python -m whit.datapath.build`")
    return path


def build(sources: Path = SOURCES, objects: Path = OBJECTS, *, force: bool = False) -> bool:
    """Compile all programs if their sources changed; returns whether it did.

    Raises:
        Unavailable: there is something to compile, but clang or llvm-strip is not installed.
        CommandError: a source does not compile.
    """
    if not has_sources(sources):
        return False
    digest = source_digest(sources)
    if not force and is_current(sources, objects, digest):
        return False
    tools = _tool("clang"), _tool("llvm-strip")
    objects.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=objects) as scratch:
        for program in programs(sources):
            _compile(tools, program, sources, Path(scratch) / program.with_suffix(".o").name)
        _publish(Path(scratch), objects, digest)
    return True


def is_current(sources: Path, objects: Path, digest: str) -> bool:
    stamp = objects / STAMP
    built = all((objects / program.with_suffix(".o").name).is_file() for program in programs(sources))
    return built and stamp.is_file() and stamp.read_text() == digest


def source_digest(sources: Path = SOURCES) -> str:
    """Digest of the names and contents of all C files, and of the compiler's flags."""
    digest = hashlib.sha256(" ".join((*FLAGS, RELATIVE, *INCLUDES)).encode())
    for path in sorted(sources.rglob("*.[ch]")):
        content = path.read_bytes()
        digest.update(f"\0{path.relative_to(sources)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise Unavailable(
            f"{name} is not installed, and the BPF objects are missing or older than their sources",
            hint="install clang and llvm (Debian: apt-get install clang llvm), or install Whit's wheel",
        )
    return path


def _compile(tools: tuple[str, str], program: Path, sources: Path, target: Path) -> None:
    """Compile and strip the debug information that BTF replaces. Paths are relative: the object must not name them."""
    clang, strip = tools
    headers = [f"-idirafter/usr/include/{os.uname().machine}-linux-gnu"]
    source = str(program.relative_to(sources))
    _run([clang, *FLAGS, RELATIVE, *INCLUDES, *headers, "-c", source, "-o", str(target)], sources)
    _run([strip, "-g", str(target)], sources)


def _run(argv: Sequence[str], directory: Path) -> None:
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise CommandError(argv, done.returncode, done.stderr, hint=f"run it in {shlex.quote(str(directory))}")


def _publish(scratch: Path, objects: Path, digest: str) -> None:
    """Rename the results into place, the stamp last; objects whose source is gone are removed."""
    names = {path.name for path in scratch.iterdir()}
    for name in names:
        (scratch / name).replace(objects / name)
    for path in objects.glob("*.bpf.o"):
        if path.name not in names:
            path.unlink()
    (scratch / STAMP).write_text(digest)
    (scratch / STAMP).replace(objects / STAMP)


def main(arguments: Sequence[str]) -> int:
    if list(arguments) not in ([], ["--force"]):
        raise InputError(f"unknown arguments: {shlex.join(arguments)}", hint="only --force is known")
    built = build(force=bool(arguments))
    print(f"{'built' if built else 'up to date'}: {', '.join(sorted(path.name for path in OBJECTS.glob('*.o')))}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except WhitError as error:
        print(f"whit: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
