"""What the datapath knows of instances that may sleep: whether it is to tell us of packets for them, or to hold these,
and when one last came. bpf/lib/warm.h is the other side.
"""

from __future__ import annotations

import time
from dataclasses import replace
from enum import IntEnum

from whit.datapath.abi import EndpointFlags, FlowFlags, FlowKey, FlowValue
from whit.datapath.address import Address
from whit.datapath.datapath import Datapath
from whit.datapath.maps import HashMap
from whit.mesh.network import endpoint_keys
from whit.model.instance import InstanceSpec

_TCP = 6


class Watch(IntEnum):
    """What is done about packets for an instance."""

    NONE = 0
    NOTE = EndpointFlags.WARM
    """When the last one came is written down."""
    TELL = EndpointFlags.WARM | EndpointFlags.ASLEEP
    """The next one is delivered, and told; it turns this into NOTE."""
    HOLD = EndpointFlags.WARM | EndpointFlags.HELD
    """Those that begin something come to us instead."""


_ALL = EndpointFlags.WARM | EndpointFlags.ASLEEP | EndpointFlags.HELD


def link_of(datapath: Datapath, spec: InstanceSpec) -> int | None:
    """The index of its link; None if it is not connected."""
    found = datapath.endpoints.get(endpoint_keys(spec)[0])
    return None if found is None else found.ifindex


def watch(datapath: Datapath, spec: InstanceSpec, how: Watch) -> int | None:
    """Returns the index of its link; None if it is not connected. What was noted before stays."""
    link: int | None = None
    for key in endpoint_keys(spec):
        found = datapath.endpoints.get(key)
        if found is None:
            continue
        link = found.ifindex
        if how and datapath.activity.get(link) is None:
            datapath.activity.put(link, time.monotonic_ns())
        flags = (found.flags & ~_ALL) | how
        if flags != found.flags:
            datapath.endpoints.put(key, replace(found, flags=flags))
    return link


def watched(datapath: Datapath, spec: InstanceSpec) -> Watch:
    """The least of what is done at its addresses: one that was asked for is awake to the others too."""
    found = [datapath.endpoints.get(key) for key in endpoint_keys(spec)]
    return Watch(min(value.flags & _ALL if value else 0 for value in found))


def is_held(datapath: Datapath, spec: InstanceSpec) -> bool:
    """Whether what comes for any of its addresses comes to us instead."""
    found = [datapath.endpoints.get(key) for key in endpoint_keys(spec)]
    return any(value is not None and value.flags & EndpointFlags.HELD for value in found)


def note(datapath: Datapath, spec: InstanceSpec) -> None:
    """As if a packet had come now, if that is looked at."""
    link = link_of(datapath, spec)
    if link is not None and datapath.activity.get(link) is not None:
        datapath.activity.put(link, time.monotonic_ns())


def silence(datapath: Datapath, link: int) -> float:
    """Seconds since the last packet came by the link for its instance."""
    last = datapath.activity.get(link)
    return 0.0 if last is None else max(0.0, (time.monotonic_ns() - last) / 1e9)


def has_clients(flows: HashMap[FlowKey, FlowValue], spec: InstanceSpec) -> bool:
    """Whether a TCP connection to the instance is open. Looks at every flow, some 5 us each: not for the event loop."""
    own = frozenset(map(Address.from_ip, spec.network.addresses))
    wanted, unwanted = FlowFlags.ESTABLISHED, FlowFlags.REPLY | FlowFlags.CLOSING
    return any(
        key.protocol == _TCP and value.translation in own and value.flags & (wanted | unwanted) == wanted
        for key, value in flows.items()
    )
