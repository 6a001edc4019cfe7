"""kbuild: configures and builds Linux from its source. Options: Documentation/kbuild/kbuild.rst and kconfig.rst.

Everything that the kernel would write about who built it, where and when is given a fixed value, so that the same
source, configuration and compiler give the same bytes.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import CommandError, Permanent, Unavailable
from whit.tools import process

PROGRAMS = {
    "make": "make",
    "gcc": "gcc",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "xz": "xz-utils",
    "zstd": "zstd",
}
HEADERS = {"/usr/include/gelf.h": "libelf-dev"}
"""What has to be installed, and the Debian packages that bring it."""
ARCHITECTURES = ("amd64", "arm64")
_NAMES = {"amd64": "x86_64", "arm64": "arm64"}
_IMAGES = {"amd64": "arch/x86/boot/bzImage", "arm64": "arch/arm64/boot/Image"}
_COMPILERS = {"amd64": "x86_64-linux-gnu-", "arm64": "aarch64-linux-gnu-"}
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_WHO = {
    "KBUILD_BUILD_TIMESTAMP": "@0",
    "KBUILD_BUILD_USER": "whit",
    "KBUILD_BUILD_HOST": "whit",
    "KBUILD_BUILD_VERSION": "1",
}
FLAGS = {"amd64": "-mstringop-strategy=libcall"}
"""For the compiler. Where size counts, gcc fills and copies memory byte by byte with one instruction, which is slow
where instructions are translated; Linux's own functions choose what the processor is good at."""
_CONFIGURE_TIMEOUT, _BUILD_TIMEOUT = 600.0, 4 * 3600.0


def missing(architecture: str) -> list[str]:
    """Debian packages that would have to be installed to build for it."""
    compiler = compiler_of(architecture)
    found = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if shutil.which(compiler) is None and compiler != "gcc":
        found.append(compiler_package(architecture))
    return found + [package for header, package in HEADERS.items() if not Path(header).exists()]


def require(architecture: str) -> None:
    """Raises Unavailable if a program is missing."""
    if packages := missing(architecture):
        raise Unavailable(
            f"building a kernel for {architecture} needs programs that are not installed",
            hint=f"apt-get install {' '.join(packages)}",
        )


def compiler_of(architecture: str) -> str:
    return "gcc" if platform.machine() == _MACHINES[architecture] else f"{_COMPILERS[architecture]}gcc"


def compiler_package(architecture: str) -> str:
    """Debian's name of the package that brings it."""
    return f"gcc-{compiler_of(architecture).removesuffix('-gcc').replace('_', '-')}"


@dataclass(frozen=True)
class Source:
    """An unpacked source. `start` is what its commands are started with: as whom, and without which rights."""

    path: Path
    architecture: str
    start: Sequence[str] = ()

    @property
    def image(self) -> Path:
        return self.path / _IMAGES[self.architecture]

    @property
    def configuration(self) -> Path:
        return self.path / ".config"

    async def configure(self, options: Path) -> None:
        """Everything that can be left out is, but for what the file `options` asks for (`CONFIG_…=y`).

        Raises:
            Permanent: this kernel does not have some of it, or not without more.
        """
        environment = {"KCONFIG_ALLCONFIG": str(options)}
        await process.run(
            self._make("-s", "allnoconfig"), env=environment, cwd=str(self.path), timeout=_CONFIGURE_TIMEOUT
        )
        got = set(self.configuration.read_text().splitlines())
        lost = [line for line in options.read_text().splitlines() if line.startswith("CONFIG_") and line not in got]
        if lost:
            raise Permanent(f"this Linux does not take {', '.join(lost)}", hint="they may need other options")

    async def build(self, say: Callable[[str], None]) -> str:
        """Build the image. Returns the release, as uname(1) tells it. `say` hears how many files were compiled.

        Raises:
            CommandError: it failed; with the compiler's last words.
        """
        count = 0

        def hear(line: bytes) -> None:
            nonlocal count
            count += 1
            if count % 100 == 0:
                say(f"kernel: {count} steps")

        argv = self._make(f"-j{os.cpu_count() or 1}", self.image.name)
        ended = await process.stream_lines([*argv], hear, timeout=_BUILD_TIMEOUT)
        if ended.returncode != 0:
            raise CommandError(argv, ended.returncode, ended.stderr)
        return (self.path / "include/config/kernel.release").read_text().strip()

    def _make(self, *arguments: str) -> list[str]:
        prefix = "" if compiler_of(self.architecture) == "gcc" else _COMPILERS[self.architecture]
        name = _NAMES[self.architecture]
        fixed = [f"ARCH={name}", f"CROSS_COMPILE={prefix}", *(f"{key}={value}" for key, value in _WHO.items())]
        flags = [f"KCFLAGS={FLAGS[self.architecture]}"] if self.architecture in FLAGS else []
        return [*self.start, "make", "-C", str(self.path), *fixed, *flags, *arguments]
