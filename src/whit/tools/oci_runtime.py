"""OCI runtimes: programs that make a container out of a bundle (runtime-spec 1.0, "runtime command line").

Owns which of crun and runc works on this machine and the calls to either; what is different about runsc is in runsc.py.
Creating goes through conmon, which calls the runtime itself; what a bundle says is the runtime area's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shlex
import shutil
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from whit.base.errors import CommandError, NotFound, TimedOut, Unavailable, WhitError
from whit.base.settings import Settings
from whit.kernel import cgroup, temporary
from whit.kernel.thread import in_thread
from whit.model.operation import Operation
from whit.tools import process

log = logging.getLogger(__name__)

Kind = Literal["crun", "runc", "runsc"]
PREFERRED: tuple[Kind, ...] = ("crun", "runc")
"""crun starts a container in less than half the time of runc."""

_GATE_PATIENCE = 5.0

Status = Literal["creating", "created", "running", "stopped", "paused"]


@dataclass(frozen=True)
class ContainerState:
    """What the runtime says of a container. `pid` is 0 once it stopped."""

    id: str
    status: Status
    pid: int
    bundle: Path


@dataclass(frozen=True)
class Runtime:
    """One OCI runtime program with the directory of its state."""

    kind: Kind
    path: Path
    version: str
    root: Path
    flags: tuple[str, ...] = ()
    """Given with every call, before the command."""
    makes_cgroup: bool = False
    """It sets no limits in a cgroup that exists already."""
    begins_at_once: bool = False
    """To create and to start in one call saves time."""

    @property
    def label(self) -> str:
        """As `runc 1.1.5`."""
        return f"{self.kind} {self.version}"

    @property
    def answers_for_frozen(self) -> bool:
        """Whether calls about a container that stands still come back."""
        return True

    @property
    def has_own_kernel(self) -> bool:
        """Whether containers have a kernel that is not the machine's."""
        return False

    @property
    def undisturbed(self) -> float:
        """Seconds after its start in which a container is better not asked for anything."""
        return 0.0

    def preparation(self) -> list[Operation]:
        """What has to be done before it can be used."""
        return []

    def global_arguments(self, name: str) -> list[str]:
        """What stands between the program and the command, in a call for this container."""
        return ["--root", str(self.root), *self.flags]

    def arguments(self, name: str, *arguments: str) -> list[str]:
        """The command line of a call for this container."""
        return [str(self.path), *self.global_arguments(name), *arguments]

    def running(self, name: str) -> list[str]:
        """The call that creates and starts; what follows is as for `create`."""
        return self.arguments(name, "run", "--detach")

    def creating(self, name: str) -> list[str]:
        """What stands before the word `create` and its arguments."""
        return self.arguments(name)

    def beginning(self, name: str) -> list[str]:
        """`running` in the form of `creating`, for a monitor that knows of `create` only, and adds that word."""
        return ["/bin/sh", "-c", f'shift; exec {shlex.join(self.running(name))} "$@"', "sh"]

    def exists(self, name: str) -> bool:
        """Whether the runtime keeps anything of this container. crun and runc keep it in a directory of its name."""
        return (self.root / name).is_dir()

    def names(self) -> set[str]:
        """The containers of which it keeps anything."""
        return {path.name for path in self.root.glob("*") if path.is_dir()}

    async def state(self, name: str) -> ContainerState:
        """Raises NotFound, CommandError."""
        self._must_exist(name)
        try:
            answer = await process.run(self.arguments(name, "state", name), timeout=30)
        except CommandError:
            self._must_exist(name)
            raise
        return parse_state(json.loads(answer.stdout))

    async def containers(self) -> dict[str, ContainerState]:
        """Every container, by name."""
        if not self.root.is_dir():
            return {}
        answer = await process.run(self.arguments("", "list", "--format", "json"), timeout=30)
        states = [parse_state(document) for document in json.loads(answer.stdout or b"null") or []]
        return {state.id: state for state in states}

    async def start(self, name: str) -> None:
        """Let the created container's program run: without a process for it where that can be had, which takes crun 5
        and runc 15 ms."""
        gate = self.root / name / "exec.fifo"
        if self.kind == "runc" and await _open_gate(gate):
            return
        if self.kind == "crun" and _write_to_gate(gate):
            return
        await process.run(self.arguments(name, "start", name), timeout=30)

    async def kill(self, name: str, signal: str) -> bool:
        """Send a signal, as `SIGTERM`, to the main process; False if it had ended already."""
        try:
            # A task frozen by cgroup v1 cannot even be killed before it is thawed.
            if (await self.state(name)).status == "paused":
                await self.resume(name)
            await process.run(self.arguments(name, "kill", name, signal.removeprefix("SIG")), timeout=30)
        except NotFound:
            return False
        except CommandError:
            if await self.alive(name):
                raise
            return False
        return True

    async def alive(self, name: str) -> bool:
        """Whether it exists and has not stopped."""
        with contextlib.suppress(NotFound):
            return (await self.state(name)).status != "stopped"
        return False

    async def delete(self, name: str) -> None:
        """Kill whatever runs in it and forget it. It may be gone already, or be half made."""
        if not self.exists(name):
            return
        with contextlib.suppress(CommandError, NotFound):
            if (await self.state(name)).status == "paused":
                await self.resume(name)
        try:
            await process.run(self.arguments(name, "delete", "--force", name), timeout=30)
        except CommandError:
            if self.exists(name):
                raise

    async def pause(self, name: str) -> None:
        await process.run(self.arguments(name, "pause", name), timeout=30)

    async def resume(self, name: str) -> None:
        await process.run(self.arguments(name, "resume", name), timeout=30)

    def exec_arguments(self, name: str, process_file: Path, pid_file: Path) -> list[str]:
        """The call that runs one more process, described as in the bundle, and ends with its status."""
        return self.arguments(name, "exec", "--process", str(process_file), "--pid-file", str(pid_file), name)

    async def end_added(self, name: str, pid_file: Path) -> None:
        """End what `exec` added, with its children, where the machine itself cannot see them."""

    def _must_exist(self, name: str) -> None:
        if not self.exists(name):
            raise NotFound(f"there is no container {name} in {self.root}", hint="`whit ps` lists what there is")


def parse_state(document: Mapping[str, Any]) -> ContainerState:
    """The state document of runtime-spec, section "State"; `list` prints the same keys."""
    return ContainerState(
        id=document["id"],
        status=document["status"],
        pid=int(document.get("pid") or 0),
        bundle=Path(document["bundle"]),
    )


async def choose(settings: Settings) -> Runtime:
    """The first preferred runtime that really runs a container here. The finding is remembered until a reboot or
    until a binary changes.

    Raises:
        Unavailable: neither runs; the message has what each said.
    """
    binaries = {kind: path for kind in PREFERRED if (path := find(kind)) is not None}
    fingerprint = _fingerprint(binaries)
    memory = settings.run_dir / "runtime.json"
    if (known := _remembered(memory, fingerprint)) is not None:
        return known
    refusals: list[str] = []
    for kind, path in binaries.items():
        runtime = Runtime(kind, path, await version(path), settings.run_dir / "runtime")
        refusal = await refusal_of(runtime, settings)
        if refusal is None:
            _remember(memory, fingerprint, runtime)
            return runtime
        refusals.append(f"{kind}: {refusal}")
    said = "; ".join(refusals) or "neither crun nor runc is installed"
    raise Unavailable(f"no OCI runtime works here: {said}", hint="install crun or runc; `whit doctor` tries them")


async def _open_gate(gate: Path) -> bool:
    """What `runc start` does: runc's init waits for a reader of a fifo, writes a byte to it and goes on (runc 1.1,
    libcontainer/container_linux.go). While the fifo has a name, the container does not count as started: so it loses
    it first, which init does not look at, and whoever is killed here leaves none that runs and waits to be started.
    False: somebody else is to find out what is wrong."""
    try:
        descriptor = os.open(gate, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    gate.unlink(missing_ok=True)
    loop = asyncio.get_running_loop()
    opened = asyncio.Event()
    loop.add_reader(descriptor, opened.set)
    try:
        async with asyncio.timeout(_GATE_PATIENCE):
            await opened.wait()
        if not os.read(descriptor, 1):
            return False
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return True


def _write_to_gate(gate: Path) -> bool:
    """What `crun start` does: its init reads a byte from a fifo and goes on (crun 1.8, src/libcrun/status.c). Without
    the fifo the container counts as started. False: as of _open_gate."""
    try:
        descriptor = os.open(gate, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        # It is not there, or nobody waits behind it.
        return False
    try:
        gate.unlink()
        os.write(descriptor, b"\0")
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def find(kind: Kind) -> Path | None:
    """The installed program."""
    path = shutil.which(kind, path=process.CLEAN_ENVIRONMENT["PATH"])
    return Path(path) if path else None


async def version(path: Path) -> str:
    """As `1.1.5+ds1`, the last word of the first line that `--version` prints."""
    return (await process.run([str(path), "--version"], timeout=10)).text.splitlines()[0].split()[-1]


async def refusal_of(runtime: Runtime, settings: Settings) -> str | None:
    """Run `true` in a tiny container, with limits, beside the agent's cgroup; what went wrong, or None."""
    name = f"probe-{os.getpid()}"
    async with trial_group(settings, name) as group:
        return await _refusal_in(group, name, runtime)


async def _refusal_in(group: str, name: str, runtime: Runtime) -> str | None:
    with temporary.directory("probe") as bundle:
        (bundle / "rootfs").mkdir()
        (bundle / "config.json").write_text(json.dumps(tiny_config(group)))
        try:
            await process.run(runtime.arguments(name, "run", "--bundle", str(bundle), name), timeout=20)
        except (CommandError, TimedOut) as error:
            log.debug("%s does not work here: %s", runtime.kind, error)
            return error.stderr if isinstance(error, CommandError) else str(error)
        finally:
            with contextlib.suppress(WhitError):
                await runtime.delete(name)
    return None


@contextlib.asynccontextmanager
async def trial_group(settings: Settings, container: str) -> AsyncIterator[str]:
    """The path of a group for a container that is tried. The runtime makes it; the one above it, which is beside the
    agent's, is there already, as for instances: see cgroup.KeepCgroup. Afterwards both have gone."""
    hierarchies = await in_thread(cgroup.find)
    with contextlib.ExitStack() as stack:
        above = await in_thread(stack.enter_context, cgroup.lent(hierarchies, f"{settings.cgroup}-{container}"))
        try:
            yield f"{above}/{container}"
        finally:
            await in_thread(stack.close)


def tiny_config(group: str) -> dict[str, Any]:
    """The smallest bundle that shows whether namespaces, cgroups and limits work: the host's own `true`."""
    system = [path for path in (Path("/usr"), Path("/bin"), Path("/lib"), Path("/lib64")) if path.exists()]
    binds = [
        {"destination": str(path), "type": "bind", "source": str(path), "options": ["rbind", "ro"]} for path in system
    ]
    return {
        "ociVersion": "1.0.2",
        "process": {"cwd": "/", "args": ["true"], "env": ["PATH=/usr/bin:/bin"], "user": {"uid": 0, "gid": 0}},
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            *binds,
        ],
        "linux": {
            "cgroupsPath": group,
            "resources": {"pids": {"limit": 64}, "memory": {"limit": 64 << 20}},
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],
        },
    }


def _fingerprint(binaries: Mapping[Kind, Path]) -> dict[str, Any]:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return {"boot": boot, "binaries": {str(path): path.stat().st_mtime_ns for path in binaries.values()}}


def _remembered(memory: Path, fingerprint: Mapping[str, Any]) -> Runtime | None:
    try:
        document = json.loads(memory.read_text())
        if document["fingerprint"] != fingerprint:
            return None
        found = document["runtime"]
        return Runtime(found["kind"], Path(found["path"]), found["version"], Path(found["root"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _remember(memory: Path, fingerprint: Mapping[str, Any], runtime: Runtime) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    document = {"fingerprint": fingerprint, "runtime": asdict(runtime)}
    unfinished = memory.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps(document, default=str))
    unfinished.replace(memory)
