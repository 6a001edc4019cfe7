"""What a bundle must know of this machine: cgroup version, hard limits, the runtime. Read once, then passed along."""

from __future__ import annotations

import platform
import resource
from dataclasses import dataclass, field
from pathlib import Path

from whit.base.settings import Settings
from whit.kernel import cgroup
from whit.runtime.bundle.capabilities import KNOWN
from whit.tools.oci_runtime import Runtime, choose

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class HostFacts:
    """The machine as the planners see it."""

    runtime: Runtime
    cgroups: cgroup.Mode = "v2"
    swap_accounting: bool = True
    """Whether memory and swap can be limited together."""
    open_files: int = 1 << 20
    """The agent's hard limit: without CAP_SYS_RESOURCE no child may have more."""
    capabilities: tuple[str, ...] = KNOWN
    """Those of the agent: no child may have others."""
    machine: str = field(default_factory=platform.machine)
    hierarchies: cgroup.Hierarchies = field(default_factory=cgroup.find)
    """Looked for once: with many instances the table of mounts is long."""

    @classmethod
    async def read(cls, settings: Settings) -> HostFacts:
        """Raises Unavailable if no runtime works."""
        hierarchies = cgroup.find()
        mode = hierarchies.mode
        return cls(
            runtime=await choose(settings),
            cgroups=mode,
            swap_accounting=accounts_swap(mode),
            open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            capabilities=held(Path("/proc/self/status").read_text()),
            hierarchies=hierarchies,
        )


def accounts_swap(mode: cgroup.Mode, root: Path = CGROUPS) -> bool:
    if mode == "v2":
        # The root group has no limits, so its children are asked.
        return any(root.glob("*/memory.swap.max"))
    return (root / "memory" / "memory.memsw.limit_in_bytes").exists()


def held(status: str) -> tuple[str, ...]:
    """The permitted capabilities in the text of a `/proc/<pid>/status`."""
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapPrm:"))
    return tuple(name for number, name in enumerate(KNOWN) if mask >> number & 1)
