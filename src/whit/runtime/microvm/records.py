"""Records: what a guest's first process is told of its system and of each process (init/channel/records.h). Pure.

The guest makes no decision of its own: users, capabilities, addresses and routes are worked out here, as for a
container, and it does as it is told.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path
from typing import Any

from whit.kernel.network import addresses
from whit.kernel.network.instance_link import NOT_BY_ITSELF, InstanceLink, inside_messages
from whit.kernel.network.links import set_hardware
from whit.kernel.network.netlink import NLM_F_ACK, NLM_F_REQUEST, Message
from whit.model.instance import InstanceSpec
from whit.runtime.bundle.capabilities import KNOWN
from whit.runtime.bundle.oci_config import DEFAULT_PIDS, SYSCTLS
from whit.runtime.layout import Layout

LINK = "eth0"
_LINK_INDEX = 2
"""The loopback is 1, and there is no other link."""
_HEADER = struct.Struct("=IHHII")
"""struct nlmsghdr."""
_OPTIONS = ("mode=", "size=")
"""Of a file system in memory; how it is mounted is the same for all."""


def encoded(records: Sequence[str]) -> bytes:
    return b"".join(record.encode("utf-8", "surrogateescape") + b"\0" for record in records)


def of_process(process: Mapping[str, Any]) -> list[str]:
    """From the `process` object of runtime-spec."""
    user, sets = process["user"], process["capabilities"]
    found = [f"arg={word}" for word in process["args"]]
    found += [f"env={setting}" for setting in process["env"]]
    found += [f"group={group}" for group in user["additionalGids"]]
    found += [f"{key}={_mask(sets[key]):x}" for key in ("bounding", "permitted", "ambient")]
    found += [f"nofile={one['soft']}:{one['hard']}" for one in process["rlimits"] if one["type"] == "RLIMIT_NOFILE"]
    found += [f"uid={user['uid']}", f"gid={user['gid']}", f"cwd={process['cwd']}"]
    return found


def of_guest(spec: InstanceSpec, layout: Layout, mounts: Sequence[Mapping[str, Any]], disk: str = "") -> list[str]:
    """`mounts` as in a bundle, with places that have no links in them; `disk`: the serial number of its own root."""
    link = instance_link(spec, layout)
    found = [f"hostname={spec.hostname}", f"pids={spec.limits.pids or DEFAULT_PIDS}"]
    found += [f"sysctl={path.replace('.', '/')}={value}" for path, value in SYSCTLS.items()]
    found += [f"sysctl=net/ipv6/conf/{LINK}/{name}={value}" for name, value in _ipv6(link).items()]
    found += [f"netlink={_packed(message).hex()}" for message in inside_messages(link, _LINK_INDEX)]
    found += ["readonly=1"] if spec.read_only else []
    if spec.detached:
        found += [f"root=disk:{disk}"]
        found += [_file(mount) for mount in mounts if mount["type"] == "bind"]
        mounts = [mount for mount in mounts if mount["type"] != "bind"]
    found += [record for mount in mounts if (record := _mount(mount))]
    return found


def of_restored(entropy: bytes, now: int) -> list[str]:
    """What a guest is told that comes out of a file (init/guest/restored.h). `now` in nanoseconds since 1970."""
    return [f"entropy={entropy.hex()}", f"time={now // 10**9}.{now % 10**9:09}"]


def of_twin(spec: InstanceSpec, layout: Layout, origin: InstanceSpec, mounts: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a guest is told besides that comes out of the file of another replica, `origin`.

    The old addresses go last: with the only one, all routes of the link would go too.
    """
    link = instance_link(spec, layout)
    old = map(ip_interface, origin.network.addresses)
    messages = [
        set_hardware(_LINK_INDEX, link.inner.mac, link.mtu),
        *inside_messages(link, _LINK_INDEX),
        *(addresses.remove(address, _LINK_INDEX) for address in old),
    ]
    found = [f"hostname={spec.hostname}", *(f"netlink={_packed(message).hex()}" for message in messages)]
    found += ["readonly=1"] if spec.read_only else []
    return found + [_file(mount) for mount in mounts if mount["type"] == "bind"]


def _file(mount: Mapping[str, Any]) -> str:
    """One of the network files, which a guest with a disk of its own gets when it boots."""
    return f"file={mount['destination']}={Path(mount['source']).read_bytes().hex()}"


def instance_link(spec: InstanceSpec, layout: Layout) -> InstanceLink:
    """The instance's link as the mesh made it; the guest's own has the same addresses."""
    network = spec.network
    return InstanceLink(
        name=layout.settings.link(network.number),
        netns=layout.netns,
        address=IPv4Address(network.address),
        node_address=IPv4Address(network.address),  # not looked at inside
        address6=IPv6Address(network.address6) if network.address6 else None,
    )


def _ipv6(link: InstanceLink) -> Mapping[str, int]:
    return NOT_BY_ITSELF if link.address6 is not None else {"disable_ipv6": 1}


def _packed(message: Message) -> bytes:
    flags = message.flags | NLM_F_REQUEST | NLM_F_ACK
    return _HEADER.pack(_HEADER.size + len(message.body), message.type, flags, 1, 0) + message.body


def _mask(names: Sequence[str]) -> int:
    return sum(1 << KNOWN.index(name) for name in names)


def _mount(mount: Mapping[str, Any]) -> str:
    """Empty for what every guest has by itself."""
    place, options = mount["destination"], mount["options"]
    if mount["type"] == "bind":
        return f"bind-ro={place}" if "ro" in options else f"bind={place}"
    if mount["type"] != "tmpfs" or place == "/dev" or place.startswith("/dev/"):
        return ""
    return f"tmpfs={place}={','.join(option for option in options if option.startswith(_OPTIONS))}"
