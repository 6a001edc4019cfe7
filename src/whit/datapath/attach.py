"""Where programs are attached: the one seam for links of the network, in two forms, and for cgroups.

TCX (Linux 6.6) is a BPF link that is pinned; before, a cls_bpf filter whose name is that pin's path (clsact.py). Both
are replaced with no packet in between passing without a program, and both outlive the process. Links are found by
their index in the caller's network namespace, so everything here is called in the host's.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whit.base.errors import NotFound, SystemCallError, Unavailable
from whit.datapath import clsact, libbpf
from whit.datapath.clsact import Direction
from whit.datapath.instructions import PASS_ON, SCHED_CLS, loaded
from whit.kernel.network.netlink import NetlinkSocket

Form = Literal["tcx", "clsact"]
"""How a program is attached to a link."""

TCX: dict[Direction, int] = {"ingress": 46, "egress": 47}
CGROUP_HOOKS = {
    "connect4": 10,
    "connect6": 11,
    "sendmsg4": 14,
    "sendmsg6": 15,
    "recvmsg4": 19,
    "recvmsg6": 20,
    "getpeername4": 29,
    "getpeername6": 30,
}
"""enum bpf_attach_type, by the names of our programs."""
_HOOK_NAMES = {number: name for names in (TCX, CGROUP_HOOKS) for name, number in names.items()}
_LINK_TYPE_CGROUP = 3
_NO_SUCH_LINK = 0x7FFFFFF0


@dataclass(frozen=True)
class Attachment:
    """One program at one place. `pin` is its path in bpffs, or would be if it is a filter."""

    pin: Path
    form: Literal["tcx", "clsact", "cgroup"]
    hook: str
    """ingress or egress, or the name of a cgroup hook."""
    ifindex: int
    """0 for a cgroup, and for a link that is gone."""
    program_id: int


@functools.cache
def best_form() -> Form:
    """TCX where the kernel has it, found by trying: only a kernel that knows it gets as far as missing the link."""
    with loaded(SCHED_CLS, PASS_ON) as program:
        result = libbpf.function("bpf_link_create")(program, _NO_SUCH_LINK, TCX["ingress"], None)
    return "tcx" if result == -errno.ENODEV else "clsact"


def attach(ifindex: int, direction: Direction, program_fd: int, pin: Path, form: Form | None = None) -> None:
    """Attach a TC program to a link, or replace the one that `pin` stands for. `form` None takes the best.

    Raises:
        SystemCallError: there is no such link, or the kernel refused.
    """
    if (form or best_form()) == "tcx":
        _attach_link(ifindex, TCX[direction], program_fd, pin, (ifindex, TCX[direction]))
        return
    with NetlinkSocket() as netlink:
        clsact.attach(netlink, ifindex, direction, program_fd, str(pin))


def attach_cgroup(cgroup: Path, program: str, program_fd: int, pin: Path) -> None:
    """Attach a socket address program (its name is the hook's) to a cgroup and all below, or replace it.

    Raises:
        Unavailable: `cgroup` is no directory of a cgroup2 hierarchy.
    """
    number = CGROUP_HOOKS[program]
    try:
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SystemCallError("open", error.errno or 0, str(cgroup)) from error
    try:
        identity = os.fstat(directory).st_ino
        _attach_link(directory, number, program_fd, pin, (identity & 0xFFFFFFFF, identity >> 32, number))
    except SystemCallError as error:
        if error.errno == errno.EBADF:
            raise Unavailable(f"{cgroup} is not part of a cgroup2 hierarchy", hint="run `whit doctor`") from error
        raise
    finally:
        os.close(directory)


def _attach_link(target: int, kind: int, program_fd: int, pin: Path, place: tuple[int, ...]) -> None:
    if update_link(pin, program_fd, place):
        return
    pin.unlink(missing_ok=True)  # of a link that is gone: the number of an instance may come again
    link = libbpf.call("bpf_link_create", program_fd, target, kind, None, path=pin.name)
    try:
        libbpf.pin(link, pin)
    finally:
        os.close(link)


def update_link(pin: Path, program_fd: int, place: tuple[int, ...] | None = None) -> bool:
    """Replace the program of a pinned link. False if there is none, or if it is not, or no longer, at `place`."""
    with suppress(NotFound), libbpf.opened_pin(pin) as link:
        info = libbpf.link_info(link)
        if place is not None and place != (info.first, info.second, info.third)[: len(place)]:
            return False
        result = libbpf.function("bpf_link_update")(link, program_fd, None)
        if result == -errno.ENOLINK:
            return False
        if result < 0:
            raise SystemCallError("bpf_link_update", -result, str(pin))
        return True
    return False


def replace_all(below: Path, program_for: Callable[[Path], int]) -> None:
    """Give everything attached below `below` the program for its pin; pins of what is gone are removed."""
    for found in attachments(below):
        if found.form == "clsact":
            direction: Direction = "ingress" if found.hook == "ingress" else "egress"
            attach(found.ifindex, direction, program_for(found.pin), found.pin, "clsact")
        elif not update_link(found.pin, program_for(found.pin)):
            found.pin.unlink(missing_ok=True)


def take_over(old: Path, new: Path, program_fd: int) -> None:
    """Have what is attached under one pin run another program under another pin, with no packet in between that meets
    none. What stands under the new one already is left, and the old goes. Safe after a kill."""
    with suppress(NotFound), libbpf.opened_pin(old) as link:
        if not new.exists():
            if update_link(old, program_fd):
                libbpf.pin(link, new)
        elif _link_id(new) != libbpf.link_info(link).id:
            libbpf.function("bpf_link_detach")(link)
        else:
            update_link(new, program_fd)
        old.unlink()


def _link_id(pin: Path) -> int:
    with libbpf.opened_pin(pin) as link:
        return libbpf.link_info(link).id


def detach(pin: Path, form: Form | None = None) -> bool:
    """Take away what `pin` stands for, also if its network link is gone. Returns whether there was anything."""
    if _detach_link(pin):
        return True
    return (form or best_form()) == "clsact" and _detach_filters(str(pin), exact=True)


def detach_all(below: Path) -> None:
    """Take away all links pinned below a directory, and all filters that are named so. Safe twice."""
    for pin in _pins(below):
        _detach_link(pin)
    _detach_filters(f"{below}/")


def attachments(below: Path) -> list[Attachment]:
    """What is attached under the pins below a directory, in both forms."""
    with NetlinkSocket() as netlink:
        named = clsact.filters(netlink, f"{below}/")
    filters = [
        Attachment(Path(found.name), "clsact", found.direction, found.ifindex, found.program_id) for found in named
    ]
    return [*(_describe(pin) for pin in _pins(below)), *filters]


def programs_on(ifindex: int, hook: str) -> list[int]:
    """The ids of the TCX programs at one hook of a link, whosever, in their order. Empty if the link is gone."""
    ids = (ctypes.c_uint32 * 64)()
    options = libbpf.ProgQueryOptions(
        sz=ctypes.sizeof(libbpf.ProgQueryOptions), prog_ids=ctypes.addressof(ids), prog_cnt=len(ids)
    )
    kind = TCX["ingress" if hook == "ingress" else "egress"]
    if libbpf.function("bpf_prog_query_opts")(ifindex, kind, ctypes.byref(options)) < 0:
        return []
    return list(ids[: options.prog_cnt])


def _describe(pin: Path) -> Attachment:
    with libbpf.opened_pin(pin) as link:
        info = libbpf.link_info(link)
    if info.type == _LINK_TYPE_CGROUP:
        return Attachment(pin, "cgroup", _HOOK_NAMES.get(info.third, str(info.third)), 0, info.prog_id)
    return Attachment(pin, "tcx", _HOOK_NAMES.get(info.second, str(info.second)), info.first, info.prog_id)


def _pins(below: Path) -> Iterator[Path]:
    return (path for path in sorted(below.rglob("*")) if path.parent.name == "links" and path.is_file())


def _detach_link(pin: Path) -> bool:
    """Detach first: the kernel lets go of an unpinned link only in the background."""
    try:
        with libbpf.opened_pin(pin) as link:
            # A link whose device or cgroup is gone has nothing to detach; whatever it says, the pin goes.
            libbpf.function("bpf_link_detach")(link)
    except NotFound:
        return False
    pin.unlink(missing_ok=True)
    return True


def _detach_filters(name: str, *, exact: bool = False) -> bool:
    with NetlinkSocket() as netlink:
        found = [entry for entry in clsact.filters(netlink, name) if not exact or entry.name == name]
        for entry in found:
            clsact.detach(netlink, entry)
    return bool(found)
