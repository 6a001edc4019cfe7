"""What is refused before anything is built or started: clashes with what runs already."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from whit.base.errors import Conflict, InputError
from whit.control.desired import shares
from whit.model.app import AppSpec
from whit.model.release import Release
from whit.model.service import PortSpec, ServiceSpec


def admit(spec: AppSpec, others: Iterable[Release]) -> None:
    """Raises Conflict or InputError if the app cannot run beside the others."""
    for other in others:
        if other.spec.name != spec.name:
            _refuse_same_ports(spec, other.spec)
    for name, service in spec.services.items():
        _refuse_snapshot(name, service)
        for mount in service.mounts:
            if mount.kind == "volume" and mount.source not in spec.volumes:
                raise InputError(
                    f"service {name} mounts the volume {mount.source}, which the app does not name",
                    hint=f"add `{mount.source}:` below the top-level key `volumes`",
                )


def _refuse_snapshot(name: str, service: ServiceSpec) -> None:
    """Only of a machine that has everything to itself a file is the whole."""
    if service.scale is None or service.scale.idle != "snapshot":
        return
    if service.isolation != "microvm":
        raise InputError(
            f"service {name}: `idle: snapshot` is for microVMs; a {service.isolation} has no machine to be written",
            hint="use `isolation: microvm`, or `idle: frozen`",
        )
    if shares(service):
        raise InputError(
            f"service {name}: `idle: snapshot` is for services without volumes and bind mounts, which others write too",
            hint="use `idle: frozen`, or `tmpfs`",
        )


def _refuse_same_ports(spec: AppSpec, other: AppSpec) -> None:
    taken = {
        (port.published, port.protocol): name for name, service in other.services.items() for port in service.ports
    }
    for name, service in spec.services.items():
        for port in service.ports:
            holder = taken.get((port.published, port.protocol))
            if holder is not None:
                raise Conflict(
                    f"{spec.name}/{name} publishes {port.published}/{port.protocol}, as {other.name}/{holder} does",
                    hint="publish another port, or `whit down` the other app",
                )


def refuse_ports_in_use(ports: Iterable[PortSpec]) -> None:
    """A process of the host that listens on a port would no longer be reached once the port is published.

    Raises:
        Conflict: something listens there.
    """
    for port in ports:
        kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
        family = socket.AF_INET6 if ":" in port.host_ip else socket.AF_INET
        with socket.socket(family, kind) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((port.host_ip, port.published))
                if kind == socket.SOCK_STREAM:
                    probe.listen(1)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise Conflict(
                        f"port {port.published}/{port.protocol} is in use by a process of this machine",
                        hint=f"`ss -lntup | grep :{port.published}` names it; stop it or publish another port",
                    ) from None
                if error.errno == errno.EADDRNOTAVAIL:
                    raise InputError(
                        f"{port.host_ip} is not an address of this machine",
                        hint="`ip address` lists them; 0.0.0.0 publishes on every one",
                    ) from None
                raise
