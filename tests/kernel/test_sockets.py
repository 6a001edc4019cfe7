"""Who listens in a network namespace, as the kernel answers it and as its tables show it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from whit.base.errors import SystemCallError
from whit.kernel.network import netns, sock_diag, sockets

pytestmark = [pytest.mark.root, pytest.mark.machine]

LISTENERS = [
    (socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0", 8001),
    (socket.AF_INET6, socket.SOCK_STREAM, "::", 8002),
    (socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0", 8003),
    (socket.AF_INET6, socket.SOCK_DGRAM, "::", 8004),
]
PLACES = {(6, 8001), (6, 8002), (17, 8003), (17, 8004)}


@contextlib.contextmanager
def opened(namespace: Path) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:

        def inside() -> list[socket.socket]:
            found = [stack.enter_context(socket.socket(family, kind)) for family, kind, _, _ in LISTENERS]
            for one, (_, kind, address, port) in zip(found, LISTENERS, strict=True):
                one.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    one.listen()
            return found

        yield netns.call_in(namespace, inside)


def test_what_the_kernel_answers_is_what_its_tables_show(node: Path) -> None:
    assert sockets.listening(node) == netns.call_in(node, sockets.in_tables) == set()
    with opened(node):
        assert sockets.listening(node) == netns.call_in(node, sockets.in_tables) == PLACES
    assert sockets.listening(node) == netns.call_in(node, sockets.in_tables) == set()


def test_a_bound_socket_does_not_listen_yet(node: Path) -> None:
    def inside() -> socket.socket:
        own = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        own.bind(("0.0.0.0", 8001))
        return own

    with netns.call_in(node, inside) as own:
        assert sockets.listening(node) == set()
        own.listen()
        assert sockets.listening(node) == {(6, 8001)}


def test_other_namespaces_are_not_looked_into(node: Path) -> None:
    with opened(node):
        assert not PLACES & sockets.listening(Path("/proc/self/ns/net"))


def test_nobody_listens_where_nothing_is(tmp_path: Path) -> None:
    assert sockets.listening(tmp_path / "gone") == set()


def test_a_protocol_that_the_kernel_does_not_tell_of_is_not_one_nobody_listens_to(
    node: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As UDP is where udp_diag is missing: the refusal comes with the end of an answer without sockets."""
    unknown = 200
    monkeypatch.setitem(sock_diag._WAITS_FOR_PEERS, unknown, 1)

    def inside() -> list[sock_diag.Listener]:
        with sock_diag.SockDiag() as asking:
            return list(asking.listeners(unknown))

    with pytest.raises(SystemCallError, match="ENOENT"):
        netns.call_in(node, inside)
