"""Which ports somebody listens at, in the network namespace of a process.

Formats: /proc/net/tcp and its like, Documentation/networking/proc_net_tcp.rst of the kernel.
"""

from __future__ import annotations

from pathlib import Path

_LISTEN, _UNCONNECTED = "0A", "07"
_TABLES = (("tcp", 6, _LISTEN), ("tcp6", 6, _LISTEN), ("udp", 17, _UNCONNECTED), ("udp6", 17, _UNCONNECTED))

Place = tuple[int, int]
"""Protocol and port."""


def listening(pid: int) -> set[Place]:
    """Where TCP is accepted and UDP received; nothing if the process has gone. Takes some 0.1 ms with few sockets."""
    return {place for name, protocol, state in _TABLES for place in _places(pid, name, protocol, state)}


def _places(pid: int, name: str, protocol: int, wanted: str) -> set[Place]:
    try:
        lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    except OSError:
        return set()
    return {(protocol, port_of(words[1])) for words in map(str.split, lines) if words[3] == wanted}


def port_of(local: str) -> int:
    """Of an address as `0100007F:1F90`."""
    return int(local.rpartition(":")[2], 16)
