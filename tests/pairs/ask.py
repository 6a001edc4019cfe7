"""A client of the tests of pairs: asks the services named in its arguments all there is to ask, and prints JSON."""

import contextlib
import hashlib
import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from answer import OPEN, SHUT, content

FAMILIES = {"IPv4": socket.AF_INET, "IPv6": socket.AF_INET6}
LARGE = 8 << 20
PATIENCE = 60.0
DENIED_AFTER = 1.5
"""Seconds after which a connection that is denied counts as dropped."""


def address(name: str, family: socket.AddressFamily) -> str:
    return str(socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)[0][4][0])


def connect(to: str, port: int, timeout: float = PATIENCE) -> socket.socket:
    return socket.create_connection((to, port), timeout)


def whole(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def who(to: str) -> list[str]:
    with connect(to, OPEN) as connection:
        connection.sendall(b"who\n")
        return [*whole(connection).decode().split(), connection.getpeername()[0]]


def receives(to: str, size: int) -> bool:
    with connect(to, OPEN) as connection:
        connection.sendall(f"send {size}\n".encode())
        return whole(connection) == content(size)


def sends(to: str, size: int) -> bool:
    data = content(size)
    with connect(to, OPEN) as connection:
        connection.sendall(f"take {size}\n".encode() + data)
        return whole(connection).decode() == hashlib.sha256(data).hexdigest()


def echoes(to: str, port: int, size: int, timeout: float = PATIENCE) -> bool:
    """By a connected socket, which takes an answer from nobody else. A lost datagram is sent again, as clients do."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    data = content(size)
    with socket.socket(family, socket.SOCK_DGRAM) as asking:
        asking.connect((to, port))
        asking.settimeout(min(timeout, 1.0))
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                asking.send(data)
                if asking.recv(65535) == data:
                    return True
    return False


def connects(to: str, port: int, timeout: float) -> bool:
    try:
        connect(to, port, timeout).close()
    except OSError:
        return False
    return True


def denied(service: str) -> dict[str, bool]:
    """All at once: each takes as long as it is waited for."""
    with ThreadPoolExecutor() as pool:
        tried = {}
        for family, number in FAMILIES.items():
            to = address(service, number)
            tried[f"{family} stream"] = pool.submit(connects, to, SHUT, DENIED_AFTER)
            tried[f"{family} datagram"] = pool.submit(echoes, to, SHUT, 20, DENIED_AFTER)
        return {what: not done.result() for what, done in tried.items()}


def asked(service: str, size: int) -> dict[str, object]:
    found: dict[str, object] = {}
    for family, number in FAMILIES.items():
        to = address(service, number)
        found[family] = {
            "address": to,
            "who": who(to),
            "receives": receives(to, size),
            "sends": sends(to, size),
            "datagram": echoes(to, OPEN, 1200),
            "fragments": echoes(to, OPEN, 6000),
        }
    return found


def main(services: list[str]) -> None:
    found = {}
    for service in services:
        began = time.monotonic()
        found[service] = asked(service, LARGE) | {"denied": denied(service)}
        found[service]["seconds"] = round(time.monotonic() - began, 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
