"""Removes all that an agent id left on the machine: found on the machine itself, not in any record.

Volumes, images, logs and the database stay: what `whit doctor --clean` takes away is what runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from whit.base.errors import Unavailable
from whit.base.settings import Settings
from whit.control import resolver
from whit.control.machines import guests
from whit.datapath.datapath import uninstall
from whit.kernel import cgroup, links, mount, netns, pidfd, sysctl
from whit.kernel.netlink import NetlinkSocket
from whit.model.operation import carry_out
from whit.runtime.drivers import Drivers
from whit.tools import iptables, nft

PATIENCE = 5.0
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


async def clean(settings: Settings) -> list[str]:
    """Take everything away, in the order in which it depends on each other. Returns what was removed.

    Safe to repeat, also after it was killed itself.
    """
    steps: list[Callable[[Settings], Awaitable[list[str]]]] = [
        _agent,
        _resolver,
        _instances,
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
    """The agent first: it would put back what is taken away."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid = int((settings.run_dir / "agent.lock").read_text())
        if _is_agent(pid):
            await _end(pid)
            return [f"agent (pid {pid})"]
    return []


def _is_agent(pid: int) -> bool:
    words = _words(pid)
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


async def _instances(settings: Settings) -> list[str]:
    """Through the runtime, which knows best what a container has."""
    if not settings.run_dir.exists():
        return []
    try:
        drivers = await Drivers.open(settings, guests.obtain)
    except Unavailable:
        return []
    names = {path.name for path in settings.instances_dir.iterdir()} if settings.instances_dir.is_dir() else set()
    names |= set(drivers.leftovers())
    for name in sorted(names):
        await carry_out(drivers.plan_remove(name, keep_log=True))
    return [f"instance {name}" for name in sorted(names)]


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
    hierarchies = cgroup.find()
    found = [str(path) for path in hierarchies.directories(settings.cgroup)]
    await asyncio.to_thread(cgroup.destroy, hierarchies, settings.cgroup)
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
