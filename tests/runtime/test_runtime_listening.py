"""What is concluded from ports that are listened on, and the kernel's word when one is not any more."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from whit.base.settings import Settings
from whit.kernel.network import netns
from whit.kernel.network.listeners import Listeners
from whit.runtime.supervision import listening
from whit.runtime.supervision.listening import Hearing


def lost_after(wanted: set[int], *seen: set[int]) -> list[set[int]]:
    hearing, found = Hearing(frozenset(wanted)), []
    for ports in seen:
        hearing = hearing.after(frozenset(ports))
        found.append({*hearing.lost})
    return found


def test_each_known_port_of_the_service_is_missed() -> None:
    assert lost_after({80, 81}, set(), {80}, {80, 81, 9}, {81}, {80, 81}) == [set(), set(), set(), {80}, set()]


def test_whichever_ports_it_has_are_missed_when_all_are_gone() -> None:
    assert lost_after(set(), set(), {80, 81}, {81}, set(), {5}) == [set(), set(), set(), {81}, set()]


def test_a_port_that_never_was_is_not_missed() -> None:
    assert not Hearing(frozenset({80})).after(frozenset({9})).is_complete
    assert lost_after({80}, {9}, set()) == [set(), set()]


def test_a_port_whose_socket_ended_before_it_was_seen_is_missed_if_it_is_of_the_service() -> None:
    ended = frozenset({80, 7})
    assert Hearing(frozenset({80})).after(frozenset(), ended).lost == {80}
    assert Hearing(frozenset({80})).after(frozenset({80}), ended).lost == set()
    assert Hearing(frozenset()).after(frozenset(), ended).lost == set()


@pytest.fixture
def namespace(settings: Settings) -> Iterator[Path]:
    path = settings.netns_dir / "one"
    netns.create(path)
    subprocess.run(["nsenter", f"--net={path}", "ip", "link", "set", "lo", "up"], check=True)
    yield path
    netns.remove(path)


def server(namespace: Path, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return netns.call_in(namespace, lambda: socket.create_server((address, 80), family=family))


@pytest.mark.root
@pytest.mark.parametrize(("address", "ports"), [("0.0.0.0", {80}), ("::", {80}), ("127.0.0.1", set()), ("::1", set())])
def test_ports_are_those_that_others_may_ask(namespace: Path, address: str, ports: set[int]) -> None:
    with Listeners.inside(namespace) as listeners, server(namespace, address):
        assert listeners.ports() == ports
    with Listeners.inside(namespace) as listeners:
        assert listeners.ports() == set()


@pytest.mark.root
def test_the_end_of_a_listener_is_told_at_once(namespace: Path) -> None:
    told: list[tuple[float, frozenset[int]]] = []

    async def changed(lost: frozenset[int]) -> None:
        told.append((time.monotonic(), lost))

    async def tell(count: int) -> None:
        async with asyncio.timeout(30):
            while len(told) < count:
                await asyncio.sleep(0.005)

    async def work() -> list[float]:
        took = []
        task = asyncio.create_task(listening.watch(namespace, frozenset({80}), changed))
        with server(namespace, "0.0.0.0"):
            await asyncio.sleep(1)
            assert told == []
        # It was seen to listen, so that nobody looks again before the kernel tells.
        for number in range(5):
            closed = time.monotonic()
            await tell(2 * number + 1)
            took.append(told[-1][0] - closed)
            with server(namespace, "0.0.0.0"):
                await tell(2 * number + 2)
        task.cancel()
        return took

    took = asyncio.run(work())
    assert [lost for _, lost in told] == [{80}, set()] * 5
    assert min(took) < 0.1, "a busy machine may hold up some"
