"""What this kernel can do for the datapath, found by trying each thing, not by the kernel's version.

Trials on links happen in a network namespace of their own, so that nothing of the machine is touched.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

from whit.base.errors import Unavailable, WhitError
from whit.datapath import attach, clsact, libbpf
from whit.datapath.instructions import ALLOW, CGROUP_SOCK_ADDR, PASS_ON, REDIRECT_PEER, SCHED_CLS, loaded
from whit.datapath.pins import BPFFS, is_bpffs_mounted
from whit.kernel import libc, mount
from whit.kernel.network.netlink import NetlinkSocket
from whit.kernel.thread import in_fresh_thread
from whit.model.feature import Feature

_LOOPBACK = 1
_LPM_TRIE, _RINGBUF = 11, 27
_NO_PREALLOC = 1
_NEWER = "Whit needs Linux 6.1 or newer"
# A header, and `int` as the only type; the kernel wants at least one.
_SMALLEST_BTF = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 16, 16, 5) + struct.pack(
    "<IIII", 1, 1 << 24, 4, 1 << 24 | 32
)
_SMALLEST_BTF += b"\0int\0"


def probe_all() -> list[Feature]:
    """Every feature that the datapath uses. Takes some milliseconds; needs root."""
    return [system_call(), bpffs(), btf(), ring_buffer(), longest_prefix(), tcx(), clsact_filter(), sockets(), peer()]


def system_call() -> Feature:
    return _tried("BPF system call", _load_program, required=True, hint="run as root; is CONFIG_BPF_SYSCALL set?")


def bpffs() -> Feature:
    return _tried("bpffs", _find_bpffs, required=True, hint=f"mount -t bpf bpf {BPFFS}")


def btf() -> Feature:
    return _tried("BTF", _load_btf, required=True, hint=_NEWER)


def ring_buffer() -> Feature:
    return _tried("BPF ring buffer", lambda: _make_map(_RINGBUF, 0, 0, os.sysconf("SC_PAGE_SIZE")), hint=_NEWER)


def longest_prefix() -> Feature:
    return _tried("BPF longest-prefix map", lambda: _make_map(_LPM_TRIE, 8, 4, 1, _NO_PREALLOC), hint=_NEWER)


def tcx() -> Feature:
    """Not required: filters on clsact do the same."""
    found = _tried("TCX links", lambda: in_fresh_thread(_attach_tcx), required=False, hint="Linux 6.6 has it")
    return found if found.state == "works" else found.model_copy(update={"detail": f"clsact instead; {found.detail}"})


def clsact_filter() -> Feature:
    """Required only where TCX is missing."""
    return _tried("clsact filters", lambda: in_fresh_thread(_attach_clsact), required=False, hint="load sch_clsact")


def sockets() -> Feature:
    """Balancing for the node's own processes."""
    return _tried("BPF at cgroup sockets", _attach_sockets, hint="mount cgroup2 and set CONFIG_CGROUP_BPF")


def peer() -> Feature:
    """Delivery past the host's stack; without it packets take the longer way."""
    return _tried("bpf_redirect_peer", _load_redirect_peer, required=False, hint="Linux 5.10 has it")


def _tried(name: str, trial: Callable[[], str | None], *, hint: str, required: bool = True) -> Feature:
    """A trial returns a detail or None, and raises if the feature is missing."""
    try:
        return Feature(name=name, state="works", detail=trial() or "", required=required)
    except WhitError as error:
        return Feature(name=name, state="missing", detail=error.message, hint=error.hint or hint, required=required)


def _load_program() -> None:
    with loaded(SCHED_CLS, PASS_ON):
        pass


def _load_redirect_peer() -> None:
    with loaded(SCHED_CLS, REDIRECT_PEER):
        pass


def _load_btf() -> str:
    os.close(libbpf.call("bpf_btf_load", _SMALLEST_BTF, len(_SMALLEST_BTF), None))
    return "" if Path("/sys/kernel/btf/vmlinux").exists() else "the kernel's own types are missing"


def _find_bpffs() -> str:
    if is_bpffs_mounted():
        return str(BPFFS)
    if not any(line.split()[-1] == "bpf" for line in Path("/proc/filesystems").read_text().splitlines()):
        raise Unavailable("the kernel has no bpffs", hint=_NEWER)
    return "not mounted yet; the agent does it"


def _make_map(kind: int, key: int, value: int, entries: int, flags: int = 0) -> None:
    options = libbpf.MapCreateOptions(sz=ctypes.sizeof(libbpf.MapCreateOptions), map_flags=flags)
    os.close(libbpf.call("bpf_map_create", kind, b"whit_probe", key, value, entries, ctypes.byref(options)))


def _attach_tcx() -> None:
    libc.unshare(libc.CLONE_NEWNET)
    with loaded(SCHED_CLS, PASS_ON) as program:
        os.close(libbpf.call("bpf_link_create", program, _LOOPBACK, attach.TCX["ingress"], None))


def _attach_clsact() -> None:
    libc.unshare(libc.CLONE_NEWNET)
    with loaded(SCHED_CLS, PASS_ON) as program, NetlinkSocket() as netlink:
        clsact.attach(netlink, _LOOPBACK, "ingress", program, "whit_probe")


def _attach_sockets() -> str:
    """To the root of cgroup2 for an instant, with programs that let everything pass."""
    root = next((point.path for point in mount.table() if point.kind == "cgroup2"), None)
    if root is None:
        raise Unavailable("cgroup2 is not mounted")
    with libc.named("open", root):
        directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for number in attach.CGROUP_HOOKS.values():
            with loaded(CGROUP_SOCK_ADDR, ALLOW, number) as program:
                os.close(libbpf.call("bpf_link_create", program, directory, number, None))
    finally:
        os.close(directory)
    return str(root)
