"""From a release to the instances that should run: pure, so that every rule of it is tested without a machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from whit.base.settings import Settings
from whit.model.instance import InstanceSpec, NetworkSpec, ResolvedMount
from whit.model.release import Release
from whit.model.service import DependencySpec, MountSpec, ScaleSpec, ServiceSpec
from whit.runtime.bundle.capabilities import effective_set
from whit.runtime.bundle.oci_config import command_line


@dataclass(frozen=True)
class Wanted:
    """One instance that should run, and what must be true of other services of its app first."""

    spec: InstanceSpec
    depends_on: Mapping[str, DependencySpec]
    scale: ScaleSpec | None = None
    """How it waits while nobody asks for it; None: it does not."""


def instance_names(release: Release) -> dict[str, tuple[str, int]]:
    """Name of each instance of the release, with its service and index."""
    return {
        f"{release.spec.name}-{service}-{index}": (service, index)
        for service, spec in release.spec.services.items()
        if not spec.is_elsewhere
        for index in range(1, spec.replicas + 1)
    }


def owners_of(releases: Iterable[Release]) -> dict[str, tuple[str, str]]:
    """App and service of each instance, by its name."""
    return {name: (one.spec.name, service) for one in releases for name, (service, _) in instance_names(one).items()}


def wanted_instances(release: Release, networks: Mapping[str, NetworkSpec], settings: Settings) -> dict[str, Wanted]:
    """The instances of a release by name. `networks` has what the mesh gave each."""
    found: dict[str, Wanted] = {}
    for name, (service, index) in instance_names(release).items():
        spec = release.spec.services[service]
        scale = spec.scale if spec.scale and index > spec.scale.min else None
        instance = _instance(release, service, index, networks[name], settings)
        found[name] = Wanted(instance, spec.depends_on, scale)
    return found


def _instance(release: Release, service: str, index: int, network: NetworkSpec, settings: Settings) -> InstanceSpec:
    spec, image = release.spec.services[service], release.images[service]
    instance = InstanceSpec(
        app=release.spec.name,
        service=service,
        index=index,
        image=image.model_copy(update={"cached": False}),
        args=command_line(service, spec.entrypoint, spec.command, image.config.entrypoint, image.config.command),
        env=image.config.env | spec.environment,
        working_dir=spec.working_dir or image.config.working_dir or "/",
        user=spec.user if spec.user is not None else image.config.user,
        mounts=tuple(_mount(mount, release.spec.name, settings) for mount in spec.mounts),
        limits=spec.limits,
        read_only=spec.read_only,
        capabilities=effective_set(spec.cap_add, spec.cap_drop),
        stop_signal=spec.stop_signal or image.config.stop_signal,
        stop_grace_period=spec.stop_grace_period,
        drain=spec.drain,
        healthcheck=spec.healthcheck,
        restart=spec.restart,
        isolation=spec.isolation,
        hostname=f"{service}-{index}",
        labels=spec.labels,
        listens=_tcp_ports(spec),
        detached=is_detached(spec),
        network=network,
        revision="",
    )
    return instance.model_copy(update={"revision": _revision(instance, release.restarts.get(service, 0))})


def is_detached(spec: ServiceSpec) -> bool:
    """One that may be written to a file: what a microVM shares with the node cannot be."""
    return spec.isolation == "microvm" and spec.scale is not None and not shares(spec)


def shares(spec: ServiceSpec) -> bool:
    """Whether it has directories of the node."""
    return any(mount.kind != "tmpfs" for mount in spec.mounts)


def _tcp_ports(spec: ServiceSpec) -> tuple[int, ...]:
    published = {port.target for port in spec.ports if port.protocol == "tcp"}
    return tuple(sorted(published | {port.port for port in spec.expose if port.protocol == "tcp"}))


def volume_directory(settings: Settings, app: str, volume: str) -> Path:
    return settings.volumes_dir / app / volume


def _mount(mount: MountSpec, app: str, settings: Settings) -> ResolvedMount:
    if mount.kind == "tmpfs":
        return ResolvedMount(kind="tmpfs", target=mount.target, size=mount.size, mode=mount.mode)
    source = volume_directory(settings, app, mount.source) if mount.kind == "volume" else Path(mount.source)
    return ResolvedMount(kind="bind", source=source, target=mount.target, read_only=mount.read_only)


def _revision(spec: InstanceSpec, restarts: int) -> str:
    """Changes when anything does that a running instance cannot take over."""
    content = spec.model_dump_json(exclude={"network", "revision", "index", "hostname", "drain", "listens"})
    return hashlib.sha256(f"{content}{restarts}".encode()).hexdigest()[:16]
