"""Workshop: the agent's side of a build. Gives a worker a directory and a user, and takes its layer into the layout.

What a worker leaves is copied while its digest is computed, never renamed: it might still hold the file open. Sources
that only root may read are put into the worker's directory by this side, so the worker needs no rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from whit.base.errors import Permanent, Temporary
from whit.image.sandbox import confine
from whit.image.sandbox.processes import ask, module_environment

_TIMEOUT = 3600.0
_LOCK_PAUSE = 0.05


@dataclass(frozen=True)
class Bench:
    """A worker's directory, and the user that it belongs to."""

    path: Path
    uid: int
    debian: bool = False

    @contextlib.contextmanager
    def output(self, name: str, directory: str = "") -> Iterator[IO[bytes]]:
        """Open a file that the worker left, perhaps in a directory. Raises Permanent if it is something else."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            within = os.open(self.path / "out" / directory, flags | os.O_DIRECTORY)
            try:
                fd = os.open(Path(name).name, flags | os.O_NONBLOCK, dir_fd=within)
            finally:
                os.close(within)
        except OSError as error:
            raise Permanent(f"the build left no {name}: {error.strerror}") from error
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise Permanent(f"the build left a {name} that is not a file")
            yield file

    def give(self, name: str, data: bytes) -> None:
        path = self.path / "in" / name
        path.write_bytes(data)
        self.own(path)

    def own(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.uid)


@dataclass(frozen=True)
class Workshop:
    """Everything that builds keep between and during their runs, below `root`."""

    root: Path

    @property
    def shared(self) -> Path:
        """Package lists and packages, owned by the user that runs apt."""
        return self.root / "apt"

    def wheel(self, sha256: str) -> Path:
        """Where a wheel with this digest is kept."""
        return self.root / "wheels" / sha256

    def prepare(self) -> None:
        """Make the directories and remove what killed builds left, unless builds are running."""
        for name in ("apt", "wheels", "work", "slots"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(self.shared, confine.DEBIAN_UID, confine.DEBIAN_UID)
        with contextlib.suppress(BlockingIOError), self.all_quiet():
            for left in (self.root / "work").iterdir():
                shutil.rmtree(left, ignore_errors=True)

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """While this is held nothing is cleaned up, in whatever process."""
        while True:
            try:
                with self._lock(fcntl.LOCK_SH | fcntl.LOCK_NB):
                    yield
                    return
            except BlockingIOError:
                await asyncio.sleep(_LOCK_PAUSE)

    @contextlib.contextmanager
    def all_quiet(self) -> Iterator[None]:
        """Raises BlockingIOError while something is built."""
        with self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield

    @contextlib.contextmanager
    def _lock(self, how: int) -> Iterator[None]:
        with (self.root / "lock").open("a") as lock:
            fcntl.flock(lock, how)
            yield

    @contextlib.asynccontextmanager
    async def bench(self, *, debian: bool = False) -> AsyncIterator[Bench]:
        """A fresh directory for one worker, removed afterwards."""
        with self._slot() as slot:
            path = Path(tempfile.mkdtemp(dir=self.root / "work"))
            bench = Bench(path, confine.DEBIAN_UID if debian else confine.FIRST_UID + slot, debian)
            try:
                for directory in (path / "in", path / "shared", path):
                    directory.mkdir(exist_ok=True)
                    bench.own(directory)
                yield bench
            finally:
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    @contextlib.contextmanager
    def _slot(self) -> Iterator[int]:
        """A number that no other running build has, also none of another agent on the same state."""
        for slot in range(confine.SLOTS):
            with (self.root / "slots" / str(slot)).open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield slot
                return
        raise Temporary(f"{confine.SLOTS} builds are running", hint="try again when one has ended")

    async def run(
        self,
        module: str,
        bench: Bench,
        request: Mapping[str, Any],
        say: Callable[[str], None],
        *,
        shared: Path | None = None,
    ) -> dict[str, Any]:
        """Let a worker, a module of this package, answer `request` on `bench`. It sees `shared`, or the packages if it
        is Debian's.

        Raises what it failed with.
        """
        seen = shared or (self.shared if bench.debian else None)
        whole = {**request, "uid": bench.uid, "work": str(bench.path), "shared": str(seen or "")}
        command = confine.command(module, bench.path, network=request.get("fetch", True))
        result: dict[str, Any] = await ask(command, whole, say, env=module_environment(), timeout=_TIMEOUT)
        return result
