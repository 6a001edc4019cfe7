"""A lab for each test, and links that packets can be said to come from."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.leftovers import leftovers_after
from support.packet_lab import CLIENT, OUTSIDE, OUTSIDE_MAC, SECOND, SERVER, UPLINK_MAC, Lab, laboratory

from whit.base.settings import Settings
from whit.kernel.network import links
from whit.kernel.network.links import End
from whit.kernel.network.netlink import NetlinkSocket


@pytest.fixture(scope="session")
def lab_links() -> Iterator[dict[str, int]]:
    """Two veth pairs: a test run of a program wants the index of a link that exists. The uplink's has the MAC address
    by which the kernel tells that a frame is for this node."""
    ends = [f"lab{os.getpid()}{letter}" for letter in "abcd"]
    pairs = [(End(ends[0], UPLINK_MAC), End(ends[1], OUTSIDE_MAC))]
    pairs.append((End(ends[2], "02:00:00:00:09:01"), End(ends[3], "02:00:00:00:09:02")))
    links.delete_all([name for name in left_by_killed_runs() if name[-1] in "ac"])
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        with NetlinkSocket() as netlink:
            netlink.execute([links.create_veth(*pair, mtu=1500, netns=here) for pair in pairs])
        names = dict(zip((OUTSIDE, CLIENT, SERVER, SECOND), ends, strict=True))
        yield {address: socket.if_nametoindex(name) for address, name in names.items()}
    finally:
        os.close(here)
        links.delete_all([ends[0], ends[2]])


def left_by_killed_runs() -> list[str]:
    named = [name for _, name in socket.if_nameindex() if re.fullmatch(r"lab\d+[a-d]", name)]
    return [name for name in named if not Path(f"/proc/{name[3:-1]}").exists()]


@pytest.fixture(scope="session")
def loaded_lab(tmp_path_factory: pytest.TempPathFactory, lab_links: dict[str, int]) -> Iterator[Lab]:
    """One for the whole session: what takes time is that the kernel verifies the programs. Its maps are small, so that
    they are soon cleared."""
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("lab"))
    small = dict.fromkeys(("flows", "sockets", "fragments", "identities", "policies", "backends", "edges"), 4096)
    yield from laboratory(settings, lab_links, sizes=small)
    assert not leftovers_after(settings)


@pytest.fixture
def lab(loaded_lab: Lab) -> Lab:
    """With nothing in its maps but the instances and the node."""
    loaded_lab.reset()
    loaded_lab.populate()
    return loaded_lab
