"""Checks: what can only be said when every service of the file has been read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import PurePosixPath

from whit.base.errors import InputError, Place
from whit.formats.app.draft import Draft
from whit.formats.problems import Problems, near

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
    for use in draft.uses:
        if use.value.entity is not None and use.value.entity in drafts:
            hint = "give the service another name"
            yield InputError(f"{use.value.entity} is also a service of this app", place=use.place, hint=hint)
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
    taken: dict[tuple[int, str], list[tuple[str, str]]] = {}
    for draft in drafts.values():
        for port in draft.ports:
            others = taken.setdefault((port.value.published, port.value.protocol), [])
            if owner := next((owner for owner, address in others if _overlap(address, port.value.host_ip)), None):
                text = f"port {port.value.published}/{port.value.protocol} is published by {owner} already"
                yield InputError(text, place=port.place, hint="publish another port of the node")
            others.append((draft.name, port.value.host_ip))


def _overlap(one: str, other: str) -> bool:
    """0.0.0.0 is every address of both families, `::` every IPv6 one."""
    if one == other or ANYWHERE in (one, other):
        return True
    return "::" in (one, other) and ":" in one and ":" in other


def _cycles(drafts: Mapping[str, Draft]) -> Iterator[InputError]:
    """One problem a cycle, at the dependency that closes it when one begins with the first service of the file."""
    waits = {name: [needed for needed in draft.depends_on if needed in drafts] for name, draft in drafts.items()}
    order = {name: number for number, name in enumerate(drafts)}
    while circle := _circle(waits):
        first = min(range(len(circle)), key=lambda at: order[circle[at]])
        circle = [*circle[first:], *circle[:first]]
        waits[circle[-1]].remove(circle[0])
        text = " -> ".join((*circle, circle[0]))
        place = drafts[circle[-1]].depends_on[circle[0]].place
        yield InputError(f"services wait for each other: {text}", place=place, hint="leave one out")


def _circle(waits: Mapping[str, Collection[str]]) -> list[str]:
    """Services of which each waits for the next, and the last for the first; none if there is no cycle."""
    try:
        TopologicalSorter(waits).prepare()
    except CycleError as error:
        # It comes with the first again at the end, and each before what waits for it.
        return list(reversed(error.args[1][1:]))
    return []
