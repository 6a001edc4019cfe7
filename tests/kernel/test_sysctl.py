"""Kernel settings."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from whit.base.errors import SystemCallError
from whit.kernel import libc, sysctl
from whit.kernel.network import links, netns
from whit.kernel.network.links import End
from whit.kernel.network.netlink import NetlinkSocket
from whit.kernel.sysctl import WriteSysctl
from whit.kernel.thread import in_fresh_thread


def test_a_setting_that_the_kernel_has_not_is_named() -> None:
    with pytest.raises(SystemCallError, match="/proc/sys/net/nothing: ENOENT"):
        sysctl.read("net/nothing")


@pytest.mark.root
@pytest.mark.machine
def test_a_link_with_a_dot_in_its_name(node: Path) -> None:
    def inside() -> tuple[str, str]:
        with NetlinkSocket() as netlink:
            netlink.execute([links.create_single(End("a.7", "0a:58:00:00:00:01"), mtu=1500, kind="bridge")])
        sysctl.write("net/ipv4/conf/a.7/rp_filter", 2)
        return sysctl.read("net/ipv4/conf/a.7/rp_filter"), sysctl.read("net/ipv4/conf/lo/rp_filter")

    assert netns.call_in(node, inside) == ("2", "0")


@pytest.mark.root
def test_a_value_that_the_kernel_refuses_is_an_error(node: Path) -> None:
    with pytest.raises(SystemCallError, match=r"write many to .*: EINVAL"):
        netns.call_in(node, lambda: sysctl.write("net/ipv4/ip_forward", "many"))


@pytest.mark.root
def test_a_global_setting_gets_its_old_value_back_also_from_a_later_agent(tmp_path: Path) -> None:
    """In a namespace of a thread of its own, so that the machine's own setting stays as it is."""
    keep = tmp_path / "new" / "ip_forward"

    async def use() -> None:
        sysctl.write("net/ipv4/ip_forward", 0)
        await WriteSysctl("net/ipv4/ip_forward", "1", keep).do()
        assert sysctl.read("net/ipv4/ip_forward") == "1"
        # A second agent finds the value set, and must not remember it as the value from before.
        later = WriteSysctl("net/ipv4/ip_forward", "1", keep)
        await later.do()
        await later.undo()
        assert sysctl.read("net/ipv4/ip_forward") == "0"
        sysctl.write("net/ipv4/ip_forward", 1)
        await later.undo()
        assert sysctl.read("net/ipv4/ip_forward") == "1"

    def isolated() -> None:
        libc.unshare(libc.CLONE_NEWNET)
        asyncio.run(use())

    in_fresh_thread(isolated)
    assert not keep.exists()
