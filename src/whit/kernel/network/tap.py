"""Taps: links whose other end is a file that a virtual machine's monitor holds. Linux, tuntap.rst and if_tun.h.

A tap that is made here stays when nobody has it open, until its link is deleted (links.py).
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

from whit.kernel import libc

_DEVICE = Path("/dev/net/tun")
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_REQUEST = struct.Struct("16sH22x")
"""struct ifreq with flags."""


def open_tap(name: str, *, vnet_header: bool = True) -> int:
    """A descriptor of the tap, which is made if it is not there; for the caller to close. With `vnet_header`, frames
    come with the header in which a guest is told of checksums and segments that are still to be made.

    Raises:
        SystemCallError: EBUSY if somebody has it open, ENOENT without the tun driver.
    """
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if vnet_header else 0)
    with libc.named("open", _DEVICE):
        descriptor = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        with libc.named("ioctl TUNSETIFF", name):
            fcntl.ioctl(descriptor, _TUNSETIFF, _REQUEST.pack(name.encode(), flags))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def create(name: str, *, owner: int | None = None) -> None:
    """In the calling thread's namespace, down, and with a MAC address of chance. The user `owner` may open it, too."""
    descriptor = open_tap(name)
    try:
        if owner is not None:
            with libc.named("ioctl TUNSETOWNER", name):
                fcntl.ioctl(descriptor, _TUNSETOWNER, owner)
        with libc.named("ioctl TUNSETPERSIST", name):
            fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)
