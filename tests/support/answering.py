"""Servers of many addresses in many namespaces, all in one thread: each answers with its address and port."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from whit.kernel.network import netns


@contextmanager
def answering(places: Iterable[tuple[Path, Iterable[str]]], ports: Iterable[int]) -> Iterator[None]:
    """Namespaces with the addresses to serve there; each port is served by TCP and UDP."""
    wanted = list(ports)
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for place, addresses in places:
            for server in netns.call_in(place, lambda addresses=addresses: list(_servers(addresses, wanted))):
                stack.enter_context(server)
                selector.register(server, selectors.EVENT_READ)
        ended = threading.Event()
        thread = threading.Thread(target=_serve, args=(selector, ended))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _servers(addresses: Iterable[str], ports: Iterable[int]) -> Iterator[socket.socket]:
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        for port in ports:
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(512)
            datagrams = socket.socket(family, socket.SOCK_DGRAM)
            datagrams.bind((address, port))
            for one in (listener, datagrams):
                one.setblocking(False)
                yield one


def _serve(selector: selectors.BaseSelector, ended: threading.Event) -> None:
    while not ended.is_set():
        for key, _ in selector.select(0.05):
            assert isinstance(key.fileobj, socket.socket)
            # Whom it concerns may have gone.
            with contextlib.suppress(OSError):
                _answer(key.fileobj)


def _answer(server: socket.socket) -> None:
    address, port = server.getsockname()[:2]
    own = f"{address} {port}".encode()
    if server.type == socket.SOCK_STREAM:
        connection, _ = server.accept()
        with connection:
            connection.sendall(own)
    else:
        _, peer = server.recvfrom(64)
        server.sendto(own, peer)
