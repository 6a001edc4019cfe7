"""Removes all that an agent id left on the machine: found on the machine itself, not in any record.

Volumes, images, logs and the database stay: what `whit doctor --clean` takes away is what runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

from whit.base.errors import NotFound, Permanent, Unavailable, WhitError
from whit.base.settings import Settings
from whit.control import resolver
from whit.control.machines import guests
from whit.datapath.datapath import uninstall
from whit.kernel import cgroup, mount, pidfd, sysctl
from whit.kernel.network import links, netns
from whit.kernel.network.netlink import NetlinkSocket
from whit.model.operation import Operation, carry_out
from whit.model.progress import Progress, Report
from whit.runtime.drivers import Drivers
from whit.tools import iptables, nft

PATIENCE = 5.0
AT_ONCE = 8
"""Instances that are removed side by side: most of the time each waits for the kernel."""
REMOVAL_PATIENCE = 60.0
"""Seconds for one of them."""
_TOOLS = (
    "conmon",
    "crun",
    "runc",
    "runsc",
    "runsc-sandbox",
    "runsc-gofer",
    "setpriv",
    "unshare",
    "dpkg-deb",
    "apt-get",
)


def _untold(_: Progress) -> None:
    """Nobody wants to know how far it is."""


async def clean(settings: Settings, report: Report = _untold) -> list[str]:
    """Take everything away, in the order in which it depends on each other. Returns what was removed.

    Safe to repeat, also after it was killed itself.

    Raises:
        Permanent: some instances could not be removed; all others are, and what they stand on is left.
    """
    steps: list[Callable[[Settings], Awaitable[list[str]]]] = [
        _agent,
        _resolver,
        partial(_instances, report=report),
        _processes,
        _cgroups,
        _mounts,
        _links,
        _filters,
        _datapath,
        _settings,
        _directories,
    ]
    removed: list[str] = []
    for step in steps:
        removed += await step(settings)
    return removed


async def _agent(settings: Settings) -> list[str]:
    """The agent first: it would put back what is taken away. Also one that has only begun and holds no lock yet."""
    found = _starting(settings)
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid = int((settings.run_dir / "agent.lock").read_text())
        if _is_agent(_words(pid)):
            found.add(pid)
    for pid in found:
        with contextlib.suppress(NotFound):
            await _end(pid)
    return [f"agent (pid {pid})" for pid in sorted(found)]


def _starting(settings: Settings) -> set[int]:
    """Agents that were started with this id."""
    found = ((int(path.name), _words(int(path.name))) for path in Path("/proc").glob("[0-9]*"))
    named = ("--id", settings.id)
    return {pid for pid, words in found if _is_agent(words) and named in itertools.pairwise(words)}


def _is_agent(words: list[str]) -> bool:
    return "whit.api.daemon" in words or any(word.endswith("whitd") for word in words)


async def _end(pid: int) -> None:
    """Ask, then kill. A pidfd, so that a pid that was given to somebody else is never hit."""
    with pidfd.opened(pid) as descriptor:
        for number in (signal.SIGTERM, signal.SIGKILL):
            pidfd.send_signal(descriptor, number)
            if await pidfd.wait_end(descriptor, PATIENCE):
                return


async def _resolver(settings: Settings) -> list[str]:
    return ["resolver"] if await asyncio.to_thread(resolver.stop, settings) else []


async def _instances(settings: Settings, report: Report) -> list[str]:
    """Through the runtime, which knows best what a container has."""
    if not settings.run_dir.exists():
        return []
    try:
        drivers = await Drivers.open(settings, guests.obtain)
    except Unavailable:
        return []
    names = {path.name for path in settings.instances_dir.iterdir()} if settings.instances_dir.is_dir() else set()
    names |= set(drivers.leftovers())
    await remove_all(sorted(names), partial(drivers.plan_remove, keep_log=True), report)
    return [f"instance {name}" for name in sorted(names)]


async def remove_all(
    names: Sequence[str], plan: Callable[[str], list[Operation]], report: Report, patience: float = REMOVAL_PATIENCE
) -> None:
    """Several at a time, the steps of each in their order. One that fails or hangs does not stop the others.

    Raises:
        Permanent: names those that are still there, when all others have gone.
    """
    gate, gone = asyncio.Semaphore(AT_ONCE), list[str]()
    failures: dict[str, str] = {}

    async def remove(name: str) -> None:
        async with gate:
            failure = await _failure_of(plan(name), patience)
        if failure:
            failures[name] = failure
            report(Progress(subject=name, step=failure, failed=True))
        else:
            gone.append(name)
            report(Progress(subject="instances", step=f"removed {len(gone)} of {len(names)}"))

    async with asyncio.TaskGroup() as tasks:
        for name in names:
            tasks.create_task(remove(name))
    if failures:
        reasons = "".join(f"\n  {name}: {failure}" for name, failure in sorted(failures.items()))
        raise Permanent(
            f"{len(failures)} of {len(names)} instances could not be removed:{reasons}",
            hint="the others are; when what holds these is out of the way, clean again",
        )
    if names:
        report(Progress(subject="instances", step=f"removed all {len(names)}", done=True))


async def _failure_of(operations: Sequence[Operation], patience: float) -> str:
    """Carry them out; why that did not work, or nothing."""
    try:
        async with asyncio.timeout(patience):
            await carry_out(operations)
    except TimeoutError:
        return f"it was not done after {patience:g} s"
    except (WhitError, OSError) as error:
        return error.message if isinstance(error, WhitError) else str(error)
    return ""


async def _processes(settings: Settings) -> list[str]:
    """Monitors and builds whose instance has gone: their words name the agent's directories."""
    places = (f"{settings.run_dir}/", f"{settings.state_dir}/")
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        words = _words(pid)
        if pid != os.getpid() and words and _is_ours(words, places):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                found.append(f"process {pid} ({Path(words[0]).name})")
    return found


def _is_ours(words: list[str], places: tuple[str, str]) -> bool:
    """A tool that Whit started, or a module of Whit: whoever else works in our directories is let be."""
    name = Path(words[0]).name
    started = name in _TOOLS or (name.startswith("python") and any(word.startswith("whit.") for word in words))
    return started and any(place in word for word in words for place in places)


def _words(pid: int) -> list[str]:
    """The command line of a process; empty if it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


async def _cgroups(settings: Settings) -> list[str]:
    """The agent's, those of its trials that were cut short, and Whit's own if no other agent has one."""
    hierarchies = cgroup.find()
    groups = [settings.cgroup, *cgroup.matching(hierarchies, f"{settings.cgroup}-*")]
    found = [str(path) for group in groups for path in hierarchies.directories(group)]
    for group in groups:
        await asyncio.to_thread(cgroup.uproot, hierarchies, group)
    return [f"cgroup {path}" for path in found]


async def _mounts(settings: Settings) -> list[str]:
    found = []
    for path in netns.kept_in(settings.netns_dir):
        await asyncio.to_thread(netns.remove, path)
        found.append(f"network namespace {path.name}")
    for place in (settings.run_dir, settings.state_dir):
        found += [f"mount {point}" for point in _mounted_below(place)]
        await asyncio.to_thread(mount.unmount_below, place)
    return found


def _mounted_below(place: Path) -> list[Path]:
    return [one.path for one in mount.table() if one.path.is_relative_to(place)]


async def _links(settings: Settings) -> list[str]:
    with NetlinkSocket() as netlink:
        found = [link.name for link in links.all_links(netlink) if link.name.startswith(settings.link_prefix)]
    await asyncio.to_thread(links.delete_all, found)
    return [f"link {name}" for name in found]


async def _filters(settings: Settings) -> list[str]:
    found = []
    with contextlib.suppress(Unavailable):
        if settings.nft_table in await nft.tables():
            await nft.remove(settings.nft_table)
            found.append(f"nft table {settings.nft_table}")
    rules = await iptables.found(settings.id)
    await iptables.remove(settings.id)
    return found + [f"iptables rule {rule}" for rule in rules]


async def _datapath(settings: Settings) -> list[str]:
    there = settings.bpf_dir.exists()
    await asyncio.to_thread(uninstall, settings)
    return [f"datapath {settings.bpf_dir}"] if there else []


async def _settings(settings: Settings) -> list[str]:
    """Give back what the settings of the machine's links were."""
    found = []
    for remembered in sorted((settings.run_dir / "sysctl").glob("*")):
        name = remembered.name.replace("%", "/")
        if sysctl.exists(name):
            sysctl.write(name, remembered.read_text().strip())
            found.append(f"setting {name}")
    return found


async def _directories(settings: Settings) -> list[str]:
    if not settings.run_dir.exists():
        return []
    await asyncio.to_thread(shutil.rmtree, settings.run_dir)
    return [str(settings.run_dir)]
