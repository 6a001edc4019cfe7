"""Answers `inspect`: what an instance was given, from its bundle, and whom it can talk to, from policy."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping

from whit.control.network import NodeNetwork
from whit.mesh.policy.reach import reached
from whit.model.instance import InstanceSpec
from whit.model.policy import Direction
from whit.model.surface import Reach, Surface
from whit.runtime.bundle.surface import surface_of
from whit.runtime.layout import Layout


async def surface(network: NodeNetwork, spec: InstanceSpec, layout: Layout, runtime: str) -> Surface:
    """Raises NotFound: the instance was never started."""
    found = await asyncio.to_thread(surface_of, spec, layout, runtime)
    reaches = {"reaches": await _reach(network, spec, "egress"), "reached_by": await _reach(network, spec, "ingress")}
    return found.model_copy(update=reaches)


async def _reach(network: NodeNetwork, spec: InstanceSpec, direction: Direction) -> tuple[Reach, ...]:
    lines, book = await network.lines(), network.books.identities
    found = await asyncio.to_thread(reached, lines, spec.network.identity, tuple(book.names), direction)
    return together({book.name(peer): ports for peer, ports in found.items()})


def together(found: Mapping[str, tuple[str, ...]]) -> tuple[Reach, ...]:
    """One for each peer; sets of networks that differ in nothing are named once."""
    names: dict[str, set[str]] = defaultdict(set)
    for peer, ports in found.items():
        names[peer].update(ports)
    return tuple(Reach(peer=peer, ports=tuple(sorted(ports))) for peer, ports in sorted(names.items()))
