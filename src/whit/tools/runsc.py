"""runsc, gVisor's OCI runtime: whether it works here, and what is different about calling it.

Whit uses the program that settings name, else an installed one that works, else it takes Debian's package and unpacks
it for itself: it is one static program, and nothing of the machine changes. Bookworm's own version is too old for
today's kernels, so there it is the one of the backports. What is known of a program is runsc_program.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whit.base.errors import CommandError, NotFound, Permanent, TimedOut, Unavailable
from whit.base.settings import Settings
from whit.kernel import temporary
from whit.kernel.network import sockets
from whit.kernel.network.sockets import Place
from whit.kernel.thread import in_thread
from whit.model.operation import Operation
from whit.tools import oci_runtime, process, runsc_package, runsc_processes, runsc_program, sentry
from whit.tools.oci_runtime import ContainerState, Runtime
from whit.tools.runsc_processes import HIDING

FLAGS = (
    # KVM needs a machine that lets its guests make guests; this platform works everywhere.
    "--platform=systrap",
    "--network=sandbox",
    # Writes go to the instance's layer, as in a container, not into a file that ends with the sandbox.
    "--overlay2=none",
    # The system-call filter of the bundle holds inside too.
    "--oci-seccomp",
    # Without it gVisor takes CAP_NET_RAW even from those that ask for it.
    "--net-raw",
)
BEGINNING = 0.002
"""Seconds. To run a program takes gVisor 6 ms at least, but to be asked early keeps it awake: where the machine had
rested, a first look after 1 to 3 ms instead of 6 saved 2 to 4 of 20; where it had not, it cost 1 of 13."""
_SIGNAL_TAKEN = 0.05
"""Seconds."""
NEWER = "a runsc newer than 2024 needs no work-around; WHIT_RUNSC names the one to use"

# gVisor until 2024 takes /proc/sys/net/core/dev_weight as the mark of the machine's own network namespace. Since
# Linux 6.16 every namespace has it. Hidden while a sandbox starts, it deceives nobody.
MISTAKEN = "cannot run with network enabled in root network namespace"

_lock = asyncio.Lock()


@dataclass(frozen=True)
class Runsc(Runtime):
    """gVisor of one agent. It may have to be made ready first: see `preparation`."""

    memory: Path = field(default=Path("/"), kw_only=True)
    settings: Settings = field(default_factory=Settings, kw_only=True)

    @property
    def label(self) -> str:
        found = self.finding()
        return f"runsc {found.version}" if found else "runsc"

    def preparation(self) -> list[Operation]:
        return [] if self.finding() else [MakeReady(self)]

    def finding(self) -> runsc_program.Finding | None:
        """What is known of the program that is in its place; None if nothing is."""
        return runsc_program.known(self.memory, self.path)

    def global_arguments(self, name: str) -> list[str]:
        """Each sandbox has a root of its own: runsc takes the start of a name for the name, if it finds but one."""
        return ["--root", str(self.root / name), *self.flags]

    @property
    def answers_for_frozen(self) -> bool:
        """It asks the sandbox, which stands still."""
        return False

    @property
    def has_own_kernel(self) -> bool:
        return True

    @property
    def undisturbed(self) -> float:
        return BEGINNING

    def exists(self, name: str) -> bool:
        return self._state_file(name).exists()

    def names(self) -> set[str]:
        return {path.name for path in self.root.glob("*")}

    async def containers(self) -> dict[str, ContainerState]:
        found: dict[str, ContainerState] = {}
        for name in sorted(self.names()):
            with contextlib.suppress(NotFound):
                found[name] = await self.state(name)
        return found

    def _state_file(self, name: str) -> Path:
        return self.root / name / f"{name}_sandbox:{name}.state"

    async def start(self, name: str) -> None:
        await process.run(self.starting(name, "start", name, hide=self._hides), timeout=60)

    def running(self, name: str) -> list[str]:
        return self.starting(name, "run", "--detach", hide=self._hides)

    def waiting(self, name: str, program: Path, fifo: Path) -> list[str]:
        """`beginning`, with `program` in the place of the container's own, to which it gets the arguments, and a fifo
        as its descriptor 3. The sandbox holds the fifo open for as long as `program` does."""
        command = shlex.join([*self.running(name), "--exec-fd", "3", "--pass-fd", "4:3"])
        files = f"3<{shlex.quote(str(program))} 4<>{shlex.quote(str(fifo))}"
        return ["/bin/sh", "-c", f'shift; exec {command} "$@" {files}', "sh"]

    @property
    def can_wait(self) -> bool:
        found = self.finding()
        return found is not None and found.can_wait

    @property
    def _hides(self) -> bool:
        found = self.finding()
        return found is not None and found.mistakes_namespaces

    async def delete(self, name: str) -> None:
        """Kill whatever runs in it and forget it; its cgroups are left to the caller.

        Not by runsc's own call: that waits for zombies of others, with pauses of half a second and more.
        """
        await runsc_processes.end_all(str(self.root / name))
        await in_thread(shutil.rmtree, self.root / name, ignore_errors=True)

    def starting(self, name: str, *arguments: str, hide: bool) -> list[str]:
        """The command line of a call that sets up a sandbox's network."""
        plain = self.arguments(name, *arguments)
        return [*HIDING, *plain] if hide else plain

    def exec_arguments(self, name: str, process_file: Path, pid_file: Path) -> list[str]:
        files = ["--process", str(process_file), "--pid-file", str(pid_file)]
        return self.arguments(name, "exec", *files, "--internal-pid-file", str(_inner_file(pid_file)), name)

    async def end_added(self, name: str, pid_file: Path) -> None:
        """All are stopped before the first is killed: what one starts in between would no longer be known as its."""
        try:
            first = int(_inner_file(pid_file).read_text())
        except (FileNotFoundError, ValueError):
            return
        stopped: list[int] = []
        while found := await self._running(name, first, stopped):
            for pid in found:
                await self._signal(name, pid, "STOP")
            stopped += found
        for pid in stopped:
            await self._signal(name, pid, "KILL")

    async def _running(self, name: str, first: int, stopped: Sequence[int]) -> list[int]:
        """The first and its descendants, without those that were told to stop. A signal is taken a moment after it was
        sent: who was starting another one may do so still, and is looked at twice."""
        found = await self._descendants(name, first, stopped)
        if not found and stopped:
            await asyncio.sleep(_SIGNAL_TAKEN)
            found = await self._descendants(name, first, stopped)
        return found

    async def _descendants(self, name: str, first: int, known: Sequence[int]) -> list[int]:
        try:
            found = descendants(first, await self.processes(name))
        except (NotFound, CommandError):
            return []
        return [pid for pid in found if pid not in known]

    async def _signal(self, name: str, pid: int, signal: str) -> None:
        """It may have ended meanwhile."""
        await process.run(self.arguments(name, "kill", "--pid", str(pid), name, signal), timeout=30, check=False)

    async def listening(self, name: str, program: Path) -> set[Place]:
        """`program` is init/bare/listeners.c. gVisor's tables do not show UDP sockets of IPv6, of both families too.

        Raises:
            CommandError, Permanent: it could not be run in the sandbox.
        """
        try:
            return sockets.shown(await in_thread(sentry.output_of, await self._control(name), name, program))
        except NotFound:
            return set()

    async def lookout(self, name: str, program: Path) -> sentry.Lookout:
        """The same as a process that stays there, and answers at once. Raises NotFound, Permanent."""
        return await in_thread(sentry.Lookout, await self._control(name), name, program)

    async def _control(self, name: str) -> Path:
        """Its control socket. Raises NotFound, Permanent."""
        try:
            state = json.loads(await in_thread(self._state_file(name).read_bytes))
            return Path(state["sandbox"]["controlSocketPath"])
        except FileNotFoundError:
            raise NotFound(f"there is no sandbox {name}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise Permanent(f"runsc keeps the state of {name} in another form", hint=NEWER) from error

    async def processes(self, name: str) -> dict[int, int]:
        """The parent of each process of a sandbox, both as numbered inside."""
        self._must_exist(name)
        table = await process.run(self.arguments(name, "ps", "--format", "table", name), timeout=30)
        rows = [line.split() for line in table.text.splitlines()[1:]]
        return {int(row[1]): int(row[2]) for row in rows if len(row) > 2}


def of(settings: Settings) -> Runsc:
    """The runtime of one agent; the program itself may not be there yet."""
    programs = settings.programs_dir
    return Runsc(
        kind="runsc",
        path=programs / "runsc",
        version="",
        root=settings.run_dir / "runsc",
        flags=FLAGS,
        makes_cgroup=True,
        begins_at_once=True,
        memory=programs / "runsc.json",
        settings=settings,
    )


def descendants(first: int, parents: dict[int, int]) -> list[int]:
    """`first`, if it lives, and all that descend from it, parents before children."""
    found = [first] if first in parents else []
    for pid in found:
        found += [child for child, parent in sorted(parents.items()) if parent == pid]
    return found


@dataclass(frozen=True)
class MakeReady:
    """Find a runsc that works here, or fetch Debian's. It is kept: undoing a start does not take it away."""

    runtime: Runsc

    def describe(self) -> str:
        there = runsc_program.installed(self.runtime.settings)
        if there:
            return f"try gVisor ({there[0]}) on this kernel, and fetch Debian's runsc if it does not work"
        return f"fetch gVisor (Debian's runsc) into {self.runtime.path.parent}, and try it on this kernel"

    async def do(self) -> None:
        """Raises Unavailable: what each that was tried said."""
        async with _lock:
            if self.runtime.finding() is None:
                await self._settle()

    async def _settle(self) -> None:
        self.runtime.path.parent.mkdir(parents=True, exist_ok=True)
        refusals: list[str] = []
        for candidate in runsc_program.installed(self.runtime.settings):
            refusal = await self._try(candidate)
            if refusal is None:
                return
            refusals.append(f"{candidate}: {refusal}")
        if self.runtime.settings.runsc is None:
            refusal = await self._try(await runsc_package.fetched(self.runtime.path.parent))
            if refusal is None:
                return
            refusals.append(f"Debian's runsc: {refusal}")
        raise Unavailable(f"gVisor does not work here: {'; '.join(refusals)}", hint=runsc_package.HINT)

    async def _try(self, program: Path) -> str | None:
        """Put it in its place and run something; why that did not work, or None."""
        link = self.runtime.path
        unfinished = link.with_name(f".runsc.{os.getpid()}")
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(program)
        unfinished.replace(link)
        try:
            mistakes, refusal = await _tried(self.runtime)
            if refusal is None:
                found = await runsc_program.found(link, mistakes_namespaces=mistakes)
                unfinished.write_text(json.dumps(found.__dict__))
                unfinished.replace(self.runtime.memory)
        except (CommandError, TimedOut, OSError) as error:
            refusal = str(error)
        return refusal

    async def undo(self) -> None:
        return


async def _tried(runtime: Runsc) -> tuple[bool, str | None]:
    """Whether it takes every network namespace for the machine's own, and what went wrong."""
    refusal = await refusal_of(runtime, hide=False)
    if refusal is None or MISTAKEN not in refusal:
        return False, refusal
    return True, await refusal_of(runtime, hide=True)


async def refusal_of(runtime: Runsc, *, hide: bool) -> str | None:
    """Run `true` in a sandbox with a network and limits; what went wrong, or None."""
    name = f"probe-{runtime.settings.id}-{os.getpid()}"
    async with oci_runtime.trial_group(runtime.settings, name) as group:
        return await _refusal_in(group, name, runtime, hide=hide)


async def _refusal_in(group: str, name: str, runtime: Runsc, *, hide: bool) -> str | None:
    with temporary.directory("probe") as bundle:
        (bundle / "rootfs").mkdir()
        (bundle / "config.json").write_text(json.dumps(_tiny_config(group)))
        try:
            await process.run(runtime.starting(name, "run", "--bundle", str(bundle), name, hide=hide), timeout=30)
        except (CommandError, TimedOut, Unavailable) as error:
            return error.stderr if isinstance(error, CommandError) else str(error)
        finally:
            await runtime.delete(name)
    return None


def _tiny_config(group: str) -> dict[str, Any]:
    config = oci_runtime.tiny_config(group)
    config["linux"]["namespaces"].append({"type": "network"})
    config["linux"]["resources"]["memory"]["limit"] = 512 << 20
    return config


def _inner_file(pid_file: Path) -> Path:
    return pid_file.with_suffix(".inner")
