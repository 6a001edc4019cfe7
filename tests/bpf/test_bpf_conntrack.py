"""The life of a flow: counters, states, time-outs, and tuples that are used again."""

from __future__ import annotations

import time

import pytest
from support.packet_lab import CLIENT, REDIRECT, SERVER, SHOT, TCP_NUMBER, UDP_NUMBER, VIP, Lab, laboratory, tcp, udp

from whit.base.settings import Settings
from whit.datapath.abi import DropReason, FlowFlags, Hook

pytestmark = pytest.mark.root

SECOND_NS = 10**9


def there(lab: Lab, flags: str, sport: int = 40000) -> int:
    return lab.from_instance(tcp(CLIENT, SERVER, sport, 8080, flags)).action


def back(lab: Lab, flags: str, sport: int = 40000) -> int:
    return lab.from_instance(tcp(SERVER, CLIENT, 8080, sport, flags), SERVER).action


def flags_of(lab: Lab) -> tuple[int, int]:
    """Of both ways, without the bit that tells them apart."""
    first, second = lab.flow(CLIENT, SERVER, 40000, 8080), lab.flow(SERVER, CLIENT, 8080, 40000)
    assert first is not None
    assert second is not None
    return first.flags, second.flags & ~FlowFlags.REPLY


def age(lab: Lab, seconds: float, protocol: int = TCP_NUMBER) -> None:
    """Both ways were last seen so long ago; that may be before the clock began, which the datapath's wraps around."""
    then = (time.monotonic_ns() - int(seconds * SECOND_NS)) % 2**64
    lab.change_flow(CLIENT, SERVER, 40000, 8080, protocol, last_seen_ns=then)
    lab.change_flow(SERVER, CLIENT, 8080, 40000, protocol, last_seen_ns=then)


def test_packets_are_counted_by_way(lab: Lab) -> None:
    before = time.monotonic_ns()
    for flags in ("S", "A", "PA"):
        there(lab, flags)
    back(lab, "SA")
    first, second = lab.flow(CLIENT, SERVER, 40000, 8080), lab.flow(SERVER, CLIENT, 8080, 40000)
    assert first is not None
    assert second is not None
    assert (first.packets, first.bytes, second.packets, second.bytes) == (3, 3 * 54, 1, 54)
    assert before <= first.last_seen_ns <= second.last_seen_ns <= time.monotonic_ns()


def test_the_segments_of_a_large_packet_are_counted(lab: Lab) -> None:
    there(lab, "S")
    lab.from_instance(tcp(CLIENT, SERVER, 40000, 8080, "A", bytes(3000)), segments=3)
    flow = lab.flow(CLIENT, SERVER, 40000, 8080)
    assert flow is not None
    assert flow.packets == 4


def test_a_connection_is_established_when_it_is_answered(lab: Lab) -> None:
    there(lab, "S")
    there(lab, "A")
    assert flags_of(lab) == (0, 0)
    back(lab, "SA")
    assert flags_of(lab) == (FlowFlags.ESTABLISHED, FlowFlags.ESTABLISHED)


def test_a_connection_closes_when_both_sides_have_finished(lab: Lab) -> None:
    there(lab, "S")
    back(lab, "SA")
    there(lab, "FA")
    assert flags_of(lab) == (FlowFlags.ESTABLISHED | FlowFlags.FIN, FlowFlags.ESTABLISHED)
    back(lab, "A")
    back(lab, "FA")
    closing = FlowFlags.ESTABLISHED | FlowFlags.FIN | FlowFlags.CLOSING
    assert flags_of(lab) == (closing, closing)
    assert there(lab, "A") == REDIRECT


@pytest.mark.parametrize("send", [there, back])
def test_a_reset_closes_at_once(lab: Lab, send) -> None:  # type: ignore[no-untyped-def]
    there(lab, "S")
    send(lab, "RA")
    assert all(flags & FlowFlags.CLOSING for flags in flags_of(lab))


def test_a_syn_on_a_closing_flow_begins_a_new_one(lab: Lab) -> None:
    there(lab, "S")
    back(lab, "RA")
    there(lab, "S")
    assert flags_of(lab) == (0, 0)
    flow = lab.flow(CLIENT, SERVER, 40000, 8080)
    assert flow is not None
    assert flow.packets == 1
    assert len(lab.events()) == 2


def test_a_repeated_syn_is_of_the_same_flow(lab: Lab) -> None:
    there(lab, "S")
    there(lab, "S")
    assert len(lab.events()) == 1


@pytest.mark.parametrize(
    ("flags", "limit"),
    [(0, 60), (FlowFlags.ESTABLISHED, 6 * 3600)],
    ids=["opening", "established"],
)
def test_a_syn_takes_over_an_idle_flow_only(lab: Lab, flags: int, limit: int) -> None:
    there(lab, "S")
    lab.change_flow(CLIENT, SERVER, 40000, 8080, flags=flags)
    age(lab, limit - 5)
    there(lab, "S")
    assert len(lab.events()) == 1
    lab.change_flow(CLIENT, SERVER, 40000, 8080, flags=flags)
    age(lab, limit + 5)
    there(lab, "S")
    assert len(lab.events()) == 1  # of the new one: those before were read


def test_a_silent_connection_goes_on(lab: Lab) -> None:
    there(lab, "S")
    back(lab, "SA")
    age(lab, 7 * 3600)
    assert back(lab, "PA") == REDIRECT
    assert there(lab, "PA") == REDIRECT
    assert len(lab.events()) == 1


@pytest.mark.parametrize(("answered", "limit"), [(False, 60), (True, 180)])
def test_a_silent_exchange_by_udp_is_over(lab: Lab, answered: bool, limit: int) -> None:
    lab.from_instance(udp(CLIENT, SERVER, 40000, 8080))
    if answered:
        lab.from_instance(udp(SERVER, CLIENT, 8080, 40000), SERVER)
    age(lab, limit - 5, UDP_NUMBER)
    lab.from_instance(udp(CLIENT, SERVER, 40000, 8080))
    assert len(lab.events()) == 1
    age(lab, limit + 5, UDP_NUMBER)
    lab.from_instance(udp(CLIENT, SERVER, 40000, 8080))
    assert len(lab.events()) == 1


def test_the_middle_of_a_connection_begins_a_flow(lab: Lab) -> None:
    assert there(lab, "PA") == REDIRECT
    assert len(lab.events()) == 1
    assert len(lab.flows()) == 2


def test_two_flows_may_not_share_the_way_back(lab: Lab) -> None:
    """From one port to a backend, and to it through its service: answers could not be told apart."""
    lab.serve((SERVER, 8080))
    there(lab, "S")
    before = lab.flows()
    assert lab.from_instance(tcp(CLIENT, VIP, 40000, 80)).action == SHOT
    assert lab.drops() == {(DropReason.FLOW_TAKEN, Hook.FROM_INSTANCE): 1}
    assert lab.flows() == before
    back(lab, "RA")
    assert lab.from_instance(tcp(CLIENT, VIP, 40000, 80)).action == REDIRECT


def test_events_for_which_there_is_no_room_are_counted(settings: Settings, lab_links: dict[str, int]) -> None:
    for lab in laboratory(settings, lab_links, sizes={"events": 4096}):
        for sport in range(1000, 1050):
            assert there(lab, "S", sport) == REDIRECT
        kept = len(lab.events())
        assert 30 < kept < 50
        assert lab.drops() == {(DropReason.NONE, Hook.LOST_EVENTS): 50 - kept}
        there(lab, "S", 2000)
        assert len(lab.events()) == 1
