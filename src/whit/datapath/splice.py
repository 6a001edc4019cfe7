"""Splices two links of one network namespace: what comes in by one leaves by the other, and the stack sees none of it.

So a virtual machine's tap stands in an instance's namespace behind the same link as every other instance has, and the
node's side need not know. The programs are filters on clsact: they live as long as the links, and on every kernel.
"""

from __future__ import annotations

from whit.datapath import clsact
from whit.datapath.instructions import SCHED_CLS, loaded, redirect_to
from whit.kernel.network import links
from whit.kernel.network.netlink import NetlinkSocket

_NAME = "whit_splice"


def splice(first: str, second: str) -> None:
    """In the calling thread's namespace. Safe to repeat. Raises NotFound, SystemCallError."""
    with NetlinkSocket() as netlink:
        one, other = (links.by_name(netlink, name).index for name in (first, second))
        netlink.execute([links.set_up(other)])
        for source, target in ((one, other), (other, one)):
            with loaded(SCHED_CLS, redirect_to(target)) as program:
                clsact.attach(netlink, source, "ingress", program, _NAME)
