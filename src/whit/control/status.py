"""Statuses of apps and services from what is wanted and seen; what `up` would do; looking things up by name. Pure but
for volumes, which it removes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from whit.base.errors import NotFound
from whit.control.plan import Seen
from whit.model.app import AppSpec
from whit.model.instance import REACHABLE, Health, InstanceStatus, State
from whit.model.release import Release
from whit.model.service import PortSpec
from whit.model.status import AppState, AppStatus, ServiceStatus

_WORST_FIRST: tuple[State, ...] = (
    "failed", "restarting", "pending", "building", "exited", "running", "frozen", "created", "snapshot", "stopped",
)  # fmt: skip
_LEAST_HEALTHY_FIRST: tuple[Health, ...] = ("unhealthy", "starting", "healthy", "none")


def app_status(release: Release, seen: Mapping[str, Seen], addresses: Callable[[str, str], Sequence[str]]) -> AppStatus:
    app = release.spec
    instances = [with_ports(there.status, release) for there in seen.values() if there.status.app == app.name]
    services = tuple(
        _service_status(release, name, [one for one in instances if one.service == name], addresses(app.name, name))
        for name in app.services
    )
    return AppStatus(
        name=app.name,
        mode=app.mode,
        state=_app_state(services),
        services=services,
        instances=tuple(sorted(instances, key=lambda one: one.name)),
    )


def _service_status(
    release: Release, name: str, instances: list[InstanceStatus], addresses: Sequence[str]
) -> ServiceStatus:
    spec = release.spec.services[name]
    states: set[State] = {one.state for one in instances} or {"running" if spec.is_elsewhere else "pending"}
    healths = {one.health for one in instances} or {"none"}
    return ServiceStatus(
        app=release.spec.name,
        name=name,
        state=next(state for state in _WORST_FIRST if state in states),
        health=next(health for health in _LEAST_HEALTHY_FIRST if health in healths),
        wanted=0 if spec.is_elsewhere else spec.replicas,
        running=sum(one.state in REACHABLE for one in instances),
        address=addresses[0],
        address6="".join(addresses[1:]),
        ports=tuple(map(port_text, spec.ports)),
        image=release.images[name].name if name in release.images else "",
        message="; ".join(one.message for one in instances if one.message),
    )


def _app_state(services: tuple[ServiceStatus, ...]) -> AppState:
    if any(service.state == "failed" for service in services):
        return "failed"
    if all((s.running == s.wanted and s.health in ("none", "healthy")) or s.state == "exited" for s in services):
        return "running"
    return "degraded" if any(service.health == "unhealthy" for service in services) else "starting"


def with_ports(status: InstanceStatus, release: Release | None) -> InstanceStatus:
    spec = release.spec.services.get(status.service) if release else None
    return status.model_copy(update={"ports": tuple(map(port_text, spec.ports))}) if spec else status


def port_text(port: PortSpec) -> str:
    host = f"[{port.host_ip}]" if ":" in port.host_ip else port.host_ip
    return f"{host}:{port.published}->{port.target}/{port.protocol}"


def service_of(app: AppSpec, given: str) -> str:
    """A service by its name, or by that of one of its instances. Raises NotFound."""
    name = given.removeprefix(f"{app.name}/")
    instance = name.removeprefix(f"{app.name}-").rpartition("-")[0]
    for candidate in (name, instance):
        if candidate in app.services:
            return candidate
    raise NotFound(f"{app.name} has no service {given}", hint=f"services: {', '.join(app.services)}")


async def remove_volume(path: Path) -> None:
    await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
