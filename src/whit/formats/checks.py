"""Checks: what can only be said when every service of the file has been read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath

from whit.base.errors import InputError, Place
from whit.formats.draft import Draft, Placed
from whit.formats.problems import Problems, near
from whit.model.service import PortSpec

ANYWHERE = "0.0.0.0"


def check(drafts: Mapping[str, Draft], volumes: Collection[str], problems: Problems) -> None:
    """Adds a problem for each name that is not there, each cycle, and each thing that is taken twice."""
    for draft in drafts.values():
        for problem in (*_names(draft, drafts), *_volumes(draft, volumes), *_targets(draft)):
            problems.add(problem)
    for problem in (*_ports(drafts), *_cycles(drafts)):
        problems.add(problem)


def _names(draft: Draft, drafts: Mapping[str, Draft]) -> Iterator[InputError]:
    used = [(use.value.service, use.place) for use in draft.uses if use.value.service is not None]
    for name, place in [*used, *((name, found.place) for name, found in draft.depends_on.items())]:
        if name not in drafts:
            yield InputError(f"there is no service {name!r}", place=place, hint=near(name, drafts))
    for name, found in draft.depends_on.items():
        waits = found.value.condition == "service_healthy"
        if waits and name in drafts and "healthcheck" not in drafts[name].places:
            hint = f"add a healthcheck to {name}, or wait for service_started"
            yield InputError(f"waits until {name} is healthy, which has no healthcheck", place=found.place, hint=hint)


def _volumes(draft: Draft, volumes: Collection[str]) -> Iterator[InputError]:
    for mount in draft.mounts:
        if mount.value.kind == "volume" and mount.value.source not in volumes:
            name = mount.value.source
            hint = f"{near(name, volumes)}; add it to the top-level volumes, or begin with ./ for a path"
            yield InputError(f"there is no volume {name!r}", place=mount.place, hint=hint)


def _targets(draft: Draft) -> Iterator[InputError]:
    taken: dict[PurePosixPath, Place] = {}
    for mount in draft.mounts:
        target = PurePosixPath(mount.value.target)
        if target in taken:
            yield InputError(
                f"{target} is mounted twice, first in line {taken[target].line}", place=mount.place, hint="keep one"
            )
        taken.setdefault(target, mount.place)


def _ports(drafts: Mapping[str, Draft]) -> Iterator[InputError]:
    taken: list[tuple[str, Placed[PortSpec]]] = []
    for draft in drafts.values():
        for port in draft.ports:
            for owner, other in taken:
                if _clash(port.value, other.value):
                    text = f"port {port.value.published}/{port.value.protocol} is published by {owner} already"
                    yield InputError(text, place=port.place, hint="publish another port of the node")
                    break
            taken.append((draft.name, port))


def _clash(one: PortSpec, other: PortSpec) -> bool:
    same = (one.published, one.protocol) == (other.published, other.protocol)
    return same and (one.host_ip == other.host_ip or ANYWHERE in (one.host_ip, other.host_ip))


def _cycles(drafts: Mapping[str, Draft]) -> Iterator[InputError]:
    """One problem a cycle, at the dependency that closes it."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[InputError]:
        for needed, found in drafts[name].depends_on.items():
            if needed in path:
                circle = " -> ".join((*path[path.index(needed) :], needed))
                yield InputError(f"services wait for each other: {circle}", place=found.place, hint="leave one out")
            elif needed in drafts and needed not in done:
                yield from visit(needed, (*path, needed))
        done.add(name)

    for name in drafts:
        if name not in done:
            yield from visit(name, (name,))
