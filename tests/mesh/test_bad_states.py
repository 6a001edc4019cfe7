"""What the datapath and the agent's writing of it do in states that nobody wants: maps full, programs of others, links
and mounts gone. docs/explanation/datapath.md says the same in its table."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import IPv4Address
from typing import Any, Literal, TypeVar

import pytest
from mesh.policy_cases import compile_rules
from mesh.policy_reference import Rule
from support.live import FIRST_ID, Live, echoing, living
from support.service_site import SILENCE, ServiceSite, sh
from support.world import POOL, POOL6

from whit.base.errors import Conflict, MapFull
from whit.base.settings import Settings
from whit.cluster.documents import Documents
from whit.control.network import NodeNetwork
from whit.datapath import libbpf
from whit.datapath.abi import (
    Direction,
    DropKey,
    DropReason,
    FlowFlags,
    Hook,
    IdentityKey,
    IdentityValue,
    PolicyKey,
    PolicyValue,
    Verdict,
)
from whit.datapath.address import Address
from whit.datapath.attach import TCX, best_form
from whit.datapath.datapath import Datapath, uninstall
from whit.datapath.install import DatapathConfig
from whit.datapath.instructions import SCHED_CLS, loaded
from whit.datapath.pins import BPFFS
from whit.datapath.watch import Watch
from whit.kernel import libc
from whit.kernel.network import netns
from whit.kernel.thread import in_fresh_thread
from whit.mesh.services import Backend, Service
from whit.mesh.tables import IdentityMap, ServiceMaps, write_policy

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.timeout(60)]

VIP = IPv4Address("198.18.77.200")
T = TypeVar("T")
TC_PASS, TC_DROP, TC_NEXT = 0, 2, -1
BPF_F_BEFORE = 1 << 3
FEW_FLOWS = 2048
FEW = 8
"""Entries of the maps that user space writes."""


@pytest.fixture
def live(settings: Settings) -> Iterator[Live]:
    """Small maps: what takes millions of connections elsewhere takes thousands here."""
    few = dict.fromkeys(("backends", "slots", "frontends", "policies"), FEW)
    sizes = few | {"flows": FEW_FLOWS, "events": 4096, "identities": 2 * FEW}
    with living(settings, best_form(), redirect_peer=True, sizes=sizes) as made:
        yield made


def close_to_answers(live: Live) -> None:
    """Instance 2 may begin nothing: what it sends passes as an answer or not at all."""
    key = PolicyKey(72, FIRST_ID + 2, 0, Direction.EGRESS, 0, 0)
    live.datapath.policies.put(key, PolicyValue(9, 1, Verdict.DENY, 0, 0))


def flood(live: Live, count: int, cpu: int | None = None) -> None:
    """So many flows that are of one datagram, all on one CPU if need be."""

    def send() -> None:
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            for number in range(count):
                with contextlib.suppress(ConnectionRefusedError):
                    own.sendto(b"x", (str(live.world.address(2)), 10_000 + number % 50_000))

    netns.call_in(live.place(1), send)


def connect(live: Live, address: IPv4Address, port: int, patience: float = 5) -> socket.socket:
    client = netns.call_in(live.place(1), lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    client.settimeout(patience)
    try:
        client.connect((str(address), port))
    except OSError:
        client.close()
        raise
    return client


def echo(client: socket.socket, data: bytes = b"still there?") -> bytes:
    client.sendall(data)
    return client.recv(64)


def dropped(live: Live, reason: DropReason, hook: Hook) -> int:
    value = live.datapath.drops.get(DropKey(reason, hook))
    return value.packets if value else 0


def test_connections_in_use_outlive_a_full_map_of_flows(live: Live) -> None:
    close_to_answers(live)
    live.serve(VIP, 80, 6, 2)
    with echoing(live.place(2), socket.SOCK_STREAM), connect(live, VIP, 80) as client:
        for _ in range(20):
            assert echo(client) == b"still there?"
            flood(live, FEW_FLOWS // 8)
        assert live.datapath.flows.count() <= FEW_FLOWS
        assert echo(client) == b"still there?"
    assert dropped(live, DropReason.CONNTRACK_FULL, Hook.FROM_INSTANCE) == 0


@pytest.mark.parametrize("lost", ["asking", "answering", "both"])
def test_an_idle_connection_whose_entries_made_room_goes_on(live: Live, lost: str) -> None:
    """It is judged anew; with one backend it is the old one. What is asked again brings the way back again too."""
    close_to_answers(live)
    live.serve(VIP, 80, 6, 2)
    with echoing(live.place(2), socket.SOCK_STREAM), connect(live, VIP, 80) as client:
        assert echo(client) == b"still there?"
        for key, value in list(live.datapath.flows.items()):
            if lost == "both" or bool(value.flags & FlowFlags.REPLY) == (lost == "answering"):
                live.datapath.flows.delete(key)
        assert echo(client) == b"still there?"


def test_an_idle_connection_makes_room_and_goes_on(live: Live) -> None:
    close_to_answers(live)
    live.serve(VIP, 80, 6, 2)
    with echoing(live.place(2), socket.SOCK_STREAM), connect(live, VIP, 80) as client:
        assert echo(client) == b"still there?"
        # What a CPU has entered lately is kept until it enters more itself.
        for cpu in 2 * sorted(os.sched_getaffinity(0)):
            flood(live, 4 * FEW_FLOWS, cpu)
        assert not [key for key, _ in live.datapath.flows.items() if key.protocol == 6], "it was to make room"
        assert echo(client) == b"still there?"


def test_a_full_ring_loses_events_and_counts_them_and_no_packet(live: Live) -> None:
    with closing(Watch(live.datapath)) as watch, echoing(live.place(2), socket.SOCK_STREAM):
        flood(live, 500)
        told = len(live.datapath.events.read())
        with connect(live, live.world.address(2), 8080) as client:
            assert echo(client) == b"still there?"
        lost = dropped(live, DropReason.NONE, Hook.LOST_EVENTS)
        (text,) = on_node(live, watch.look)
        assert f"{lost} flows are not told" in text
        assert told > 0
        assert told + lost >= 500


def services(live: Live, *numbers: int, backends: int = 1) -> list[Service]:
    """Services at .200 and up, which all lead to instance 2."""
    return [
        Service(
            number,
            (str(VIP + number),),
            backends=tuple(
                Backend((number * 16 + one) << 16, str(live.world.address(2)), port=8080) for one in range(backends)
            ),
        )
        for number in numbers
    ]


def holds(live: Live) -> list[dict[Any, Any]]:
    return [dict(table.items()) for table in (live.datapath.frontends, live.datapath.slots, live.datapath.backends)]


def test_services_that_have_no_room_are_left_out_and_the_others_kept_up(live: Live) -> None:
    writer = ServiceMaps(live.datapath)
    writer.write(services(live, *range(FEW - 1)))
    before = holds(live)
    with pytest.raises(MapFull, match=r"map backends: E2BIG") as raised:
        writer.write(services(live, *range(FEW - 1)) + services(live, 40, backends=FEW))
    assert raised.value.code == "map-full"
    assert f"room for {FEW} entries" in raised.value.hint
    assert holds(live) == before, "nothing is lost, nothing is half there"
    with pytest.raises(MapFull):
        writer.write(services(live, *range(1, FEW - 1)) + services(live, 40, backends=FEW))
    assert len(holds(live)[0]) == FEW - 2, "what is not wanted goes all the same"
    with pytest.raises(MapFull):
        writer.write(services(live, *range(2, FEW - 1)) + services(live, 1, backends=FEW))
    assert len(holds(live)[0]) == FEW - 2, "who cannot grow stays as it was"
    with echoing(live.place(2), socket.SOCK_STREAM), connect(live, VIP + 1, 80) as client:
        assert echo(client) == b"still there?"


def test_full_service_maps_are_changed_in_place(live: Live) -> None:
    """Where old and new do not fit beside each other, but the new ones alone do."""
    writer = ServiceMaps(live.datapath)
    writer.write(services(live, *range(FEW)))
    writer.write(services(live, *range(20, 20 + FEW)))
    assert {key.address for key in holds(live)[0]} == {
        Address.from_ip(str(VIP + number)) for number in range(20, 20 + FEW)
    }
    assert writer.write(services(live, *range(20, 20 + FEW))) == 0


def test_policy_that_has_no_room_leaves_the_old_one(live: Live) -> None:
    def rule(number: int, subject: int, verdict: Literal["allow", "deny"]) -> Rule:
        return Rule(number, subject, "egress", verdict=verdict)

    old = compile_rules([rule(1, FIRST_ID + 2, "deny"), *(rule(n, 500 + n, "allow") for n in range(2, 6))])
    write_policy(live.datapath, old)
    with pytest.raises(MapFull, match="map policies: ENOSPC"):
        write_policy(live.datapath, compile_rules([rule(n, 600 + n, "allow") for n in range(1, 30)]))
    assert dict(live.datapath.policies.items()) == old
    with echoing(live.place(2), socket.SOCK_STREAM), connect(live, live.world.address(2), 8080) as client:
        assert echo(client) == b"still there?"
    flows = live.datapath.flows.count()
    with contextlib.suppress(OSError), netns.call_in(live.place(2), lambda: socket.socket()) as refused:
        refused.settimeout(0.3)
        refused.connect((str(live.world.address(1)), 8080))
    assert live.datapath.flows.count() == flows
    assert dropped(live, DropReason.POLICY_EGRESS, Hook.FROM_INSTANCE) > 0


def test_identities_that_have_no_room_take_nobodys_away(live: Live) -> None:
    def key(number: int) -> IdentityKey:
        return IdentityKey(128, Address.from_ip(f"198.18.77.{number}"))

    there = dict(live.datapath.identities.items())
    writer = IdentityMap(live.datapath)
    with pytest.raises(MapFull, match="map identities: ENOSPC"):
        writer.write(there | {key(100 + number): IdentityValue(7) for number in range(2 * FEW)})
    assert there.items() <= dict(live.datapath.identities.items()).items()
    writer.write(there)
    assert dict(live.datapath.identities.items()) == there


@pytest.mark.parametrize("decides", [TC_PASS, TC_DROP, TC_NEXT], ids=["passes", "drops", "passes on"])
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_foreign_program_on_the_link(live: Live, place: str, decides: int, caplog: pytest.LogCaptureFixture) -> None:
    """Before ours it decides alone at this link, which is told; after ours it is not asked what instances may."""
    if best_form() != "tcx":
        pytest.skip("this kernel has no TCX")
    key = PolicyKey(72, FIRST_ID + 1, 0, Direction.EGRESS, 0, 0)
    with closing(Watch(live.datapath)) as watch, foreign(live, 1, decides, before=place == "before"):
        flood(live, 3)
        events = live.events()
        live.datapath.policies.put(key, PolicyValue(9, 1, Verdict.DENY, 0, 0))
        flood(live, 3)
        denied = [dropped(live, DropReason.POLICY_EGRESS, hook) for hook in (Hook.FROM_INSTANCE, Hook.TO_INSTANCE)]
        told = on_node(live, watch.look)
    if place == "after" or decides == TC_NEXT:
        assert denied == [3, 0]
    else:
        # What passes goes by the node's stack, and policy is asked at the other instance's link.
        assert denied == [0, 3 if decides == TC_PASS else 0]
    assert bool(events) is (sum(denied) > 0)
    assert any("foreign programs come before instance-1-ingress" in text for text in told) is (place == "before")
    assert ("foreign programs" in caplog.text) is (place == "before")


def on_node(live: Live, function: Callable[[], T]) -> T:
    return netns.call_in(live.world.node, function)


class LinkCreateOptions(ctypes.Structure):
    """The head of struct bpf_link_create_opts."""

    _fields_ = [("sz", ctypes.c_size_t), ("flags", ctypes.c_uint32)]


@contextlib.contextmanager
def foreign(live: Live, number: int, verdict: int, *, before: bool) -> Iterator[None]:
    """A program of somebody else's at the ingress of an instance's link."""
    options = LinkCreateOptions(ctypes.sizeof(LinkCreateOptions), BPF_F_BEFORE if before else 0)
    index = on_node(live, lambda: socket.if_nametoindex(live.world.instances[number].name))
    with loaded(SCHED_CLS, struct.pack("<BBhiBBhi", 0xB7, 0, 0, verdict, 0x95, 0, 0, 0)) as program:
        arguments = program, index, TCX["ingress"], ctypes.byref(options)
        link = on_node(live, lambda: libbpf.call("bpf_link_create", *arguments))
        try:
            yield
        finally:
            os.close(link)


def test_an_unmounted_bpffs_opens_nothing_and_is_pinned_again(settings: Settings) -> None:
    """In a mount namespace of its own, where nobody else's pins are."""

    def run() -> None:
        libc.unshare(libc.CLONE_NEWNS)
        sh("mount", "--make-rprivate", "/")
        sh("mount", "-t", "bpf", "bpf", str(BPFFS))
        with living(settings, best_form(), redirect_peer=True) as live, closing(Watch(live.datapath)) as watch:
            close_to_answers(live)
            pins = {path.name for path in live.datapath.pins.root.rglob("*")}
            attached = on_node(live, live.datapath.attachments)
            sh("umount", str(BPFFS))
            sh("mount", "-t", "bpf", "bpf", str(BPFFS))
            assert not live.datapath.pins.root.exists()
            begin_from_the_closed_one(live)
            assert on_node(live, watch.look) == ["bpffs was unmounted; all is pinned again"]
            assert on_node(live, watch.look) == []
            assert {path.name for path in live.datapath.pins.root.rglob("*")} == pins
            assert on_node(live, live.datapath.attachments) == attached
            begin_from_the_closed_one(live)
            with Datapath.open(settings) as other:
                assert dict(other.policies.items()) == dict(live.datapath.policies.items())

    in_fresh_thread(run)


def begin_from_the_closed_one(live: Live) -> None:
    """The instance that may begin nothing tries, and is denied."""
    before = dropped(live, DropReason.POLICY_EGRESS, Hook.FROM_INSTANCE)
    with netns.call_in(live.place(2), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as own:
        own.sendto(b"x", (str(live.world.address(1)), 8080))
    assert dropped(live, DropReason.POLICY_EGRESS, Hook.FROM_INSTANCE) == before + 1


def test_a_link_that_vanishes_takes_only_its_own_instance_with_it(live: Live) -> None:
    live.serve(VIP, 80, 6, 2)
    with closing(Watch(live.datapath)) as watch:
        assert on_node(live, watch.look) == []
        index = on_node(live, lambda: socket.if_nametoindex(live.world.instances[2].name))
        on_node(live, lambda: sh("ip", "link", "del", live.world.instances[2].name))
        with pytest.raises(TimeoutError), connect(live, VIP, 80, patience=0.5):
            pass
        told = on_node(live, watch.look)
    if best_form() == "tcx":
        assert told == ["the link of instance-2 is gone: `whit restart` makes a new one"]
    assert index not in {one.ifindex for one in on_node(live, live.datapath.attachments)}
    with echoing(live.place(1), socket.SOCK_STREAM):  # the node still reaches the other one
        client = on_node(live, lambda: socket.create_connection((str(live.world.address(1)), 8080), timeout=5))
        with client:
            assert echo(client) == b"still there?"
    on_node(live, lambda: live.datapath.detach_instance(2))
    on_node(live, lambda: live.datapath.detach_instance(2))


def test_a_pinned_map_of_another_layout_is_refused_and_what_is_attached_goes_on(live: Live, settings: Settings) -> None:
    maps = live.datapath.pins.maps
    (maps / "sockets").unlink()
    (maps / "traces").rename(maps / "sockets")
    attached = on_node(live, live.datapath.attachments)
    with pytest.raises(Conflict, match="map sockets") as raised:
        Datapath.install(settings, DatapathConfig(POOL, POOL6, mark=1, mark_mask=1))
    assert "whit doctor --clean" in raised.value.hint
    assert on_node(live, live.datapath.attachments) == attached
    with echoing(live.place(2), socket.SOCK_STREAM), connect(live, live.world.address(2), 8080) as client:
        assert echo(client) == b"still there?"


def test_an_agent_that_finds_nothing_attached_guards_what_runs(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """As after bpffs was unmounted while no agent ran."""
    with ServiceSite(settings) as site:
        site.up({"a": {"uses": [{"service": "b"}]}, "b": {}})
        b = str(site.network.spec_of("site-b-1", "site", "b").address)
        a = str(site.network.spec_of("site-a-1", "site", "a").address)
        assert site.ask("site-a-1", b, 8080).startswith("b")
        site.network.datapath.close()
        uninstall(settings)
        site.network = site.run(NodeNetwork.open(settings, Documents(site.store)))
        site.publish()
        assert caplog.text.count("was not guarded any more, and is again") == 2
        assert site.ask("site-a-1", b, 8080).startswith("b")
        assert site.ask("site-b-1", a, 8080, patience=0.5) == SILENCE
        site.publish()
