"""What a container of a machine may say of itself; its image may say the same in the label org.mobyproject.config.

None is "not said". Resources are kept as runtime-spec 1.0 (config-linux.md) has them, because that is where they go.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from whit.model.base import Noun

Namespace = str
"""`host`, `new`, or a path of a namespace; `none` of a network is a new one with nothing in it."""

NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


class ReadySpec(Noun):
    """What tells that a service is ready. With nothing given, that it was started does."""

    tcp: int | None = Field(default=None, gt=0, lt=65536, description="It listens at this port.")
    path: str = Field(default="", description="This file of the machine is there.")
    timeout: float = Field(default=30.0, gt=0, description="Seconds; after them it has failed.")


class ContainerMount(Noun):
    """A mount as runtime-spec has it."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()


class DeviceSpec(Noun):
    """A device node. `all` as a path allows a whole class and makes none."""

    path: str
    type: Literal["b", "c", "u", "p"]
    major: int = 0
    minor: int = 0
    mode: int = 0o666


class IdMapping(Noun):
    container_id: int = Field(ge=0)
    host_id: int = Field(ge=0)
    size: int = Field(gt=0)


class Limit(Noun):
    """A resource limit (setrlimit(2)); None is unlimited."""

    name: str
    soft: int | None
    hard: int | None


class InterfaceSpec(Noun):
    """A link that is moved into the container's network, or made."""

    name: str
    add: str = Field(default="", description="The kind of link that is made, as veth; none moves one that is there.")
    peer: str = Field(default="", description="The other end of a veth, which stays in the machine.")
    create_in_root: bool = Field(default=False, description="Made in the machine, then moved.")


class RuntimeSpec(Noun):
    """What the machine does for a container before it starts."""

    cgroups: tuple[str, ...] = Field(default=(), description="Control groups that are made.")
    mounts: tuple[ContainerMount, ...] = Field(default=(), description="Mounts that are made in the machine.")
    mkdir: tuple[str, ...] = Field(default=(), description="Directories that are made in the machine.")
    interfaces: tuple[InterfaceSpec, ...] = ()
    bind_ns: dict[str, str] = Field(default_factory=dict, description="Its namespaces by the path they are kept at.")


class ContainerDefaults(Noun):
    """All of it; None is what was not said."""

    capabilities: tuple[str, ...] | None = Field(default=None, description="As CAP_KILL; none unless said.")
    capabilities_add: tuple[str, ...] | None = None
    ambient: tuple[str, ...] | None = None
    binds: tuple[str, ...] | None = Field(default=None, description="SOURCE:DESTINATION[:OPTIONS]")
    binds_add: tuple[str, ...] | None = None
    mounts: tuple[ContainerMount, ...] | None = None
    tmpfs: tuple[str, ...] | None = Field(default=None, description="DESTINATION[:OPTIONS]")
    devices: tuple[DeviceSpec, ...] | None = None
    command: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    cwd: str | None = None
    net: Namespace | None = None
    pid: Namespace | None = None
    ipc: Namespace | None = None
    uts: Namespace | None = None
    userns: Namespace | None = None
    uid_mappings: tuple[IdMapping, ...] | None = None
    gid_mappings: tuple[IdMapping, ...] | None = None
    uid: int | str | None = Field(default=None, description="A number, or the name of a service whose user it is.")
    gid: int | str | None = None
    additional_gids: tuple[int | str, ...] | None = None
    readonly: bool | None = None
    masked_paths: tuple[str, ...] | None = None
    readonly_paths: tuple[str, ...] | None = None
    no_new_privileges: bool | None = None
    hostname: str | None = None
    oom_score_adj: int | None = Field(default=None, ge=-1000, le=1000)
    rootfs_propagation: Literal["private", "slave", "shared", "unbindable"] | None = None
    cgroups_path: str | None = None
    annotations: dict[str, str] | None = None
    sysctl: dict[str, str] | None = None
    rlimits: tuple[Limit, ...] | None = None
    resources: dict[str, Any] | None = Field(default=None, description="As linux.resources of runtime-spec.")
    runtime: RuntimeSpec | None = None
