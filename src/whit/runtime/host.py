"""What a bundle must know of this machine: cgroup version, hard limits, the runtime. Read once, then passed along."""

from __future__ import annotations

import platform
import resource
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from whit.base.settings import Settings
from whit.tools.oci_runtime import Runtime, choose

CgroupMode = Literal["v1", "hybrid", "v2"]
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class HostFacts:
    """The machine as the planners see it."""

    runtime: Runtime
    cgroups: CgroupMode = "v2"
    swap_accounting: bool = True
    """Whether memory and swap can be limited together."""
    open_files: int = 1 << 20
    """The agent's hard limit: without CAP_SYS_RESOURCE no child may have more."""
    processes: int = -1
    """Likewise; -1 is unlimited."""
    machine: str = field(default_factory=platform.machine)

    @classmethod
    async def read(cls, settings: Settings) -> HostFacts:
        """Raises Unavailable if no runtime works."""
        mode = cgroup_mode()
        return cls(
            runtime=await choose(settings),
            cgroups=mode,
            swap_accounting=accounts_swap(mode),
            open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            processes=resource.getrlimit(resource.RLIMIT_NPROC)[1],
        )


def cgroup_mode(root: Path = CGROUPS) -> CgroupMode:
    """v2 if the root itself is cgroup2, hybrid if it is mounted at `unified` beside v1 controllers."""
    if (root / "cgroup.controllers").exists():
        return "v2"
    return "hybrid" if (root / "unified" / "cgroup.controllers").exists() else "v1"


def accounts_swap(mode: CgroupMode, root: Path = CGROUPS) -> bool:
    if mode == "v2":
        # The root group has no limits, so its children are asked.
        return any(root.glob("*/memory.swap.max"))
    return (root / "memory" / "memory.memsw.limit_in_bytes").exists()
