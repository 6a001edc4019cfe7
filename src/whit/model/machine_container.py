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
    interfaces: tuple[InterfaceSpec, ...] = Field(default=(), description="Links that it gets, made or moved.")
    bind_ns: dict[str, str] = Field(default_factory=dict, description="Its namespaces by the path they are kept at.")


class ContainerDefaults(Noun):
    """All of it; None is what was not said."""

    capabilities: tuple[str, ...] | None = Field(default=None, description="As CAP_KILL; none unless said.")
    capabilities_add: tuple[str, ...] | None = Field(default=None, description="Beside those that the image says.")
    ambient: tuple[str, ...] | None = Field(
        default=None, description="Those that stay over execve for other users than root."
    )
    binds: tuple[str, ...] | None = Field(default=None, description="SOURCE:DESTINATION[:OPTIONS]")
    binds_add: tuple[str, ...] | None = Field(default=None, description="Beside those that the image says.")
    mounts: tuple[ContainerMount, ...] | None = Field(default=None, description="Mounts as runtime-spec has them.")
    tmpfs: tuple[str, ...] | None = Field(default=None, description="DESTINATION[:OPTIONS]")
    devices: tuple[DeviceSpec, ...] | None = Field(
        default=None, description="Device nodes that it gets; `path: all` allows all of a type."
    )
    command: tuple[str, ...] | None = Field(
        default=None, description="What runs; the image's entrypoint and command if left out."
    )
    env: tuple[str, ...] | None = Field(default=None, description="The whole environment; the image's if left out.")
    cwd: str | None = Field(default=None, description="Where it runs; the image's if left out.")
    net: Namespace | None = Field(default=None, description="The network; host unless said.")
    pid: Namespace | None = Field(default=None, description="The process tree; new unless said.")
    ipc: Namespace | None = Field(default=None, description="Shared memory and queues; host unless said.")
    uts: Namespace | None = Field(default=None, description="The host name; host unless said.")
    userns: Namespace | None = Field(default=None, description="The users; host unless said.")
    uid_mappings: tuple[IdMapping, ...] | None = Field(
        default=None, description="Which users of the machine those of its namespace are."
    )
    gid_mappings: tuple[IdMapping, ...] | None = Field(default=None, description="The same of groups.")
    uid: int | str | None = Field(default=None, description="A number, or the name of a service whose user it is.")
    gid: int | str | None = Field(default=None, description="As uid.")
    additional_gids: tuple[int | str, ...] | None = Field(default=None, description="More groups.")
    readonly: bool | None = Field(
        default=None, description="Nothing of its root can be written; else what is written is memory."
    )
    masked_paths: tuple[str, ...] | None = Field(default=None, description="What it cannot see.")
    readonly_paths: tuple[str, ...] | None = Field(default=None, description="What it cannot write.")
    no_new_privileges: bool | None = Field(default=None, description="It gains nothing by set-user-ID programs.")
    hostname: str | None = Field(default=None, description="With `uts: new`.")
    oom_score_adj: int | None = Field(default=None, ge=-1000, le=1000, description="Who dies first without memory.")
    rootfs_propagation: Literal["private", "slave", "shared", "unbindable"] | None = Field(
        default=None, description="Whether mounts in it are seen outside."
    )
    cgroups_path: str | None = Field(default=None, description="Its control group; /STAGE/NAME unless said.")
    annotations: dict[str, str] | None = Field(default=None, description="Passed on to the runtime.")
    sysctl: dict[str, str] | None = Field(
        default=None, description="Settings of its namespaces, or of the machine where those are the machine's."
    )
    rlimits: tuple[Limit, ...] | None = Field(default=None, description="setrlimit(2); `unlimited` is a number too.")
    resources: dict[str, Any] | None = Field(default=None, description="As linux.resources of runtime-spec.")
    runtime: RuntimeSpec | None = Field(default=None, description="What the machine does before it starts.")
