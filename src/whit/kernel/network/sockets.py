"""Which ports somebody listens at, in a network namespace, or in another kernel that shows its tables.

Formats: /proc/net/tcp and its like, Documentation/networking/proc_net_tcp.rst of the kernel.
"""

from __future__ import annotations

import socket
from pathlib import Path

from whit.base.errors import NotFound, SystemCallError
from whit.kernel.network import netns
from whit.kernel.network.sock_diag import SockDiag

_LISTEN, _UNCONNECTED = "0A", "07"
_TABLES = {"tcp": (6, _LISTEN), "tcp6": (6, _LISTEN), "udp": (17, _UNCONNECTED), "udp6": (17, _UNCONNECTED)}

Place = tuple[int, int]
"""Protocol and port."""


def listening(namespace: Path) -> set[Place]:
    """Where TCP is accepted and UDP received in the network namespace kept at `namespace`; nothing if it has gone."""
    try:
        return netns.call_in(namespace, _listening_here)
    except NotFound:
        return set()


def _listening_here() -> set[Place]:
    try:
        with SockDiag() as asking:
            return {(one.protocol, one.port) for one in asking.listeners(socket.IPPROTO_TCP, socket.IPPROTO_UDP)}
    except SystemCallError:
        return in_tables()


def in_tables() -> set[Place]:
    """The same of the calling thread's namespace, also of a kernel without tcp_diag or udp_diag. The tables take 15 ms:
    they go through every connection of the machine."""
    return {place for name in _TABLES for place in _places(name, _read(name))}


def shown(text: str) -> set[Place]:
    """The same of tables that init/bare/listeners.c printed: each behind a line `table NAME`."""
    parts = (part.partition("\n") for part in f"\n{text}".split("\ntable ")[1:])
    return {place for name, _, table in parts if name in _TABLES for place in _places(name, table)}


def _read(name: str) -> str:
    try:
        return Path(f"/proc/thread-self/net/{name}").read_text()
    except OSError:
        return ""


def _places(name: str, table: str) -> set[Place]:
    protocol, wanted = _TABLES[name]
    rows = map(str.split, table.splitlines()[1:])
    return {(protocol, port_of(words[1])) for words in rows if len(words) > 3 and words[3] == wanted}


def port_of(local: str) -> int:
    """Of an address as `0100007F:1F90`."""
    return int(local.rpartition(":")[2], 16)
