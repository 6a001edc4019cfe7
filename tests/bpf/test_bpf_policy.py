"""Who may reach whom: verdicts, the rule that gave them, and what becomes of flows when rules change."""

from __future__ import annotations

import pytest
from scapy.layers.sctp import SCTP, SCTPChunkInit, SCTPChunkInitAck
from support.packet_lab import (
    CLIENT,
    CLIENT6,
    CLIENT_ID,
    NODE,
    OK,
    REDIRECT,
    SCTP_NUMBER,
    SERVER,
    SERVER6,
    SERVER_ID,
    SHOT,
    TCP_NUMBER,
    UDP_NUMBER,
    VIP,
    WORLD_ID,
    Lab,
    delivered,
    ip,
    raw,
    tcp,
    udp,
)

from whit.datapath.abi import Direction, DropReason, FlowFlags, Hook, PolicyFlags, Verdict

pytestmark = pytest.mark.root

ALLOW, DENY = Verdict.ALLOW, Verdict.DENY
GRE_NUMBER = 47
EGRESS, INGRESS = Direction.EGRESS, Direction.INGRESS


def test_default_deny_of_egress_names_its_rule(lab: Lab) -> None:
    rule = lab.deny_all(CLIENT_ID, EGRESS)
    assert lab.from_instance(tcp(CLIENT, SERVER)).action == SHOT
    (event,) = lab.events()
    assert (event.verdict, event.reason, event.egress_rule, event.ingress_rule) == (
        DENY,
        DropReason.POLICY_EGRESS,
        rule,
        0,
    )
    assert lab.drops() == {(DropReason.POLICY_EGRESS, Hook.FROM_INSTANCE): 1}
    assert lab.flows() == {}


def test_default_deny_of_ingress_names_its_rule(lab: Lab) -> None:
    lab.deny_all(CLIENT_ID, EGRESS)
    open_ = lab.rule(CLIENT_ID, EGRESS, ALLOW, peer=SERVER_ID)
    rule = lab.deny_all(SERVER_ID, INGRESS)
    assert lab.from_instance(tcp(CLIENT, SERVER)).action == SHOT
    (event,) = lab.events()
    assert (event.reason, event.egress_rule, event.ingress_rule) == (DropReason.POLICY_INGRESS, open_, rule)
    assert lab.flows() == {}


def test_an_open_edge_is_remembered_with_both_rules(lab: Lab) -> None:
    lab.deny_all(CLIENT_ID, EGRESS)
    lab.deny_all(SERVER_ID, INGRESS)
    egress = lab.rule(CLIENT_ID, EGRESS, ALLOW, peer=SERVER_ID, protocol=TCP_NUMBER, port=8080)
    ingress = lab.rule(SERVER_ID, INGRESS, ALLOW, peer=CLIENT_ID, protocol=TCP_NUMBER, port=8080)
    assert lab.from_instance(tcp(CLIENT, SERVER, dport=8080)).action == REDIRECT
    (event,) = lab.events()
    assert (event.verdict, event.egress_rule, event.ingress_rule) == (ALLOW, egress, ingress)
    for flow in lab.flows().values():
        assert (flow.egress_rule, flow.ingress_rule) == (egress, ingress)


def test_the_answer_needs_no_rule_of_its_own(lab: Lab) -> None:
    lab.deny_all(SERVER_ID, EGRESS)
    assert lab.from_instance(tcp(SERVER, CLIENT, 8080, 40000, "SA"), SERVER).action == SHOT
    lab.from_instance(tcp(CLIENT, SERVER, 40000, 8080))
    assert lab.from_instance(tcp(SERVER, CLIENT, 8080, 40000, "SA"), SERVER).action == REDIRECT


def test_an_audited_deny_is_reported_and_let_through(lab: Lab) -> None:
    rule = lab.rule(CLIENT_ID, EGRESS, DENY, precedence=0, flags=PolicyFlags.AUDIT)
    assert lab.from_instance(tcp(CLIENT, SERVER)).action == REDIRECT
    (event,) = lab.events()
    assert (event.verdict, event.reason, event.flags, event.egress_rule) == (ALLOW, 0, PolicyFlags.AUDIT, rule)
    assert lab.drops() == {}


def test_the_audit_of_one_direction_does_not_open_the_other(lab: Lab) -> None:
    lab.rule(CLIENT_ID, EGRESS, DENY, precedence=0, flags=PolicyFlags.AUDIT)
    rule = lab.deny_all(SERVER_ID, INGRESS)
    assert lab.from_instance(tcp(CLIENT, SERVER)).action == SHOT
    (event,) = lab.events()
    assert (event.verdict, event.reason, event.ingress_rule) == (DENY, DropReason.POLICY_INGRESS, rule)


@pytest.mark.parametrize(
    ("of_peer", "of_all", "allowed"),
    [
        ((ALLOW, 1), (DENY, 0), True),
        ((ALLOW, 1), (DENY, 2), False),
        ((ALLOW, 1), (DENY, 1), False),
        ((DENY, 1), (ALLOW, 1), False),
        ((DENY, 1), (ALLOW, 2), True),
        ((ALLOW, 0xFFFFFFFF), (DENY, 0xFFFFFFFE), True),
    ],
)
def test_precedence_decides_and_a_tie_denies(
    lab: Lab, of_peer: tuple[Verdict, int], of_all: tuple[Verdict, int], allowed: bool
) -> None:
    rules = {
        SERVER_ID: lab.rule(CLIENT_ID, EGRESS, of_peer[0], peer=SERVER_ID, precedence=of_peer[1]),
        0: lab.rule(CLIENT_ID, EGRESS, of_all[0], precedence=of_all[1]),
    }
    assert (lab.from_instance(tcp(CLIENT, SERVER)).action == REDIRECT) is allowed
    wanted = ALLOW if allowed else DENY
    assert lab.events()[0].egress_rule == next(
        rules[peer] for peer, (verdict, _) in ((SERVER_ID, of_peer), (0, of_all)) if verdict == wanted
    )


@pytest.mark.parametrize(("port", "allowed"), [(8063, False), (8064, True), (8079, True), (8080, False)])
def test_a_port_prefix_is_a_range(lab: Lab, port: int, allowed: bool) -> None:
    """8064/12: the 16 ports from 8064 on."""
    lab.deny_all(CLIENT_ID, EGRESS)
    lab.rule(CLIENT_ID, EGRESS, ALLOW, peer=SERVER_ID, protocol=TCP_NUMBER, port=8064, bits=12)
    assert (lab.from_instance(tcp(CLIENT, SERVER, dport=port)).action == REDIRECT) is allowed


def test_the_longest_port_prefix_of_a_peer_holds(lab: Lab) -> None:
    lab.rule(CLIENT_ID, EGRESS, ALLOW, peer=SERVER_ID)
    lab.rule(CLIENT_ID, EGRESS, DENY, peer=SERVER_ID, protocol=TCP_NUMBER, port=22)
    assert lab.from_instance(tcp(CLIENT, SERVER, dport=22)).action == SHOT
    assert lab.from_instance(tcp(CLIENT, SERVER, dport=23)).action == REDIRECT


def test_a_rule_is_for_its_protocol(lab: Lab) -> None:
    lab.deny_all(CLIENT_ID, EGRESS)
    lab.rule(CLIENT_ID, EGRESS, ALLOW, protocol=UDP_NUMBER, port=53)
    assert lab.from_instance(udp(CLIENT, SERVER, dport=53)).action == REDIRECT
    assert lab.from_instance(tcp(CLIENT, SERVER, dport=53)).action == SHOT


def test_a_protocol_without_ports_is_asked_about_as_port_0(lab: Lab) -> None:
    lab.deny_all(CLIENT_ID, EGRESS)
    lab.rule(CLIENT_ID, EGRESS, ALLOW, protocol=GRE_NUMBER)
    packet = tcp(CLIENT, SERVER)
    packet["IP"].proto = GRE_NUMBER
    assert lab.from_instance(packet).action == REDIRECT


@pytest.mark.parametrize(("client", "server"), [(CLIENT, SERVER), (CLIENT6, SERVER6)])
def test_sctp_is_asked_about_by_its_port(lab: Lab, client: str, server: str) -> None:
    lab.rule(CLIENT_ID, EGRESS, Verdict.DENY, protocol=SCTP_NUMBER, port=81)
    for port, action in ((80, REDIRECT), (81, SHOT)):
        packet = ip(client, server) / SCTP(sport=40000, dport=port) / SCTPChunkInit()
        assert lab.from_instance(packet).action == action
    assert lab.flow(client, server, 40000, 80, SCTP_NUMBER) is not None
    answer = ip(server, client) / SCTP(sport=80, dport=40000) / SCTPChunkInitAck()
    assert lab.from_instance(answer, SERVER).action == REDIRECT
    assert len(lab.events()) == 2


def test_the_ports_of_sctp_are_not_translated(lab: Lab) -> None:
    """Its checksum covers no address, so a service's backends are reached at the port that was asked for."""
    lab.serve((SERVER, 8080), port=0, protocol=0)
    packet = ip(CLIENT, VIP) / SCTP(sport=40000, dport=80) / SCTPChunkInit()
    expected = ip(CLIENT, SERVER) / SCTP(sport=40000, dport=80) / SCTPChunkInit()
    assert lab.from_instance(packet).data == raw(delivered(expected, SERVER))


@pytest.mark.parametrize("length", [0, 11])
def test_sctp_that_is_cut_short_is_malformed(lab: Lab, length: int) -> None:
    packet = ip(CLIENT, SERVER, proto=SCTP_NUMBER) / bytes(length)
    assert lab.from_instance(packet).action == SHOT
    assert lab.events()[0].reason == DropReason.MALFORMED


def test_a_rule_is_for_its_direction(lab: Lab) -> None:
    lab.deny_all(CLIENT_ID, INGRESS)
    assert lab.from_instance(tcp(CLIENT, SERVER)).action == REDIRECT
    assert lab.from_instance(tcp(SERVER, CLIENT), SERVER).action == SHOT


def test_a_verdict_that_is_not_known_yet_denies(lab: Lab) -> None:
    lab.rule(CLIENT_ID, EGRESS, Verdict.REDIRECT)
    assert lab.from_instance(tcp(CLIENT, SERVER)).action == SHOT


def test_the_node_is_asked_about_like_everyone(lab: Lab) -> None:
    rule = lab.deny_all(SERVER_ID, INGRESS)
    assert lab.to_instance(tcp(NODE, SERVER), SERVER).action == SHOT
    (event,) = lab.events()
    assert (event.reason, event.ingress_rule, event.hook) == (DropReason.POLICY_INGRESS, rule, Hook.TO_INSTANCE)
    lab.rule(SERVER_ID, INGRESS, ALLOW, peer=1)
    packet = tcp(NODE, SERVER)
    result = lab.to_instance(packet, SERVER)
    assert (result.action, result.data) == (OK, raw(packet))
    answer = tcp(SERVER, NODE, 80, 40000, "SA")
    lab.deny_all(SERVER_ID, EGRESS)
    assert lab.from_instance(answer, SERVER).action == OK


def test_the_world_by_way_of_the_stack_is_asked_about(lab: Lab) -> None:
    lab.deny_all(SERVER_ID, INGRESS)
    assert lab.to_instance(tcp("203.0.113.5", SERVER), SERVER).action == SHOT
    lab.rule(SERVER_ID, INGRESS, ALLOW, peer=WORLD_ID)
    assert lab.to_instance(tcp("203.0.113.5", SERVER), SERVER).action == OK


def test_what_is_for_no_instance_does_not_come_in(lab: Lab) -> None:
    assert lab.to_instance(tcp(NODE, "10.7.0.99"), SERVER).action == SHOT
    assert lab.drops() == {(DropReason.UNKNOWN_ENDPOINT, Hook.TO_INSTANCE): 1}


def test_a_flow_that_is_still_allowed_gets_the_new_rule(lab: Lab) -> None:
    lab.from_instance(tcp(CLIENT, SERVER, 40000, 8080))
    rule = lab.rule(CLIENT_ID, EGRESS, ALLOW, peer=SERVER_ID)
    lab.policy_changed()
    assert lab.from_instance(tcp(CLIENT, SERVER, 40000, 8080, "A")).action == REDIRECT
    there, back = lab.flow(CLIENT, SERVER, 40000, 8080), lab.flow(SERVER, CLIENT, 8080, 40000)
    assert there is not None
    assert back is not None
    assert (there.egress_rule, there.generation, back.generation) == (rule, 1, 0)
    assert lab.from_instance(tcp(SERVER, CLIENT, 8080, 40000, "A"), SERVER).action == REDIRECT
    assert len(lab.events()) == 1


@pytest.mark.parametrize("way", ["initiator", "reply"])
@pytest.mark.parametrize("through", ["service", "instance"])
def test_a_flow_that_is_denied_now_ends(lab: Lab, way: str, through: str) -> None:
    lab.serve((SERVER, 8080))
    asked, port = ("10.7.128.1", 80) if through == "service" else (SERVER, 8080)
    lab.from_instance(tcp(CLIENT, asked, 40000, port))
    lab.events()
    rule = lab.rule(SERVER_ID, INGRESS, DENY, peer=CLIENT_ID, protocol=TCP_NUMBER, port=8080)
    lab.policy_changed()
    if way == "initiator":
        result = lab.from_instance(tcp(CLIENT, asked, 40000, port, "A"))
    else:
        result = lab.from_instance(tcp(SERVER, CLIENT, 8080, 40000, "A"), SERVER)
    assert result.action == SHOT
    assert all(flow.flags & FlowFlags.DENIED for flow in lab.flows().values())
    (event,) = lab.events()
    assert (event.reason, event.ingress_rule) == (DropReason.POLICY_INGRESS, rule)
    assert (str(event.source), str(event.service), str(event.destination)) == (CLIENT, asked, SERVER)
    assert (event.source_port, event.service_port, event.destination_port) == (40000, port, 8080)
    assert (event.source_identity, event.destination_identity) == (CLIENT_ID, SERVER_ID)


def test_a_flow_from_the_node_is_asked_about_again(lab: Lab) -> None:
    lab.to_instance(tcp(NODE, SERVER, 40000, 8080), SERVER)
    lab.deny_all(SERVER_ID, INGRESS)
    lab.policy_changed()
    assert lab.from_instance(tcp(SERVER, NODE, 8080, 40000, "SA"), SERVER).action == SHOT
    assert lab.to_instance(tcp(NODE, SERVER, 40000, 8080, "A"), SERVER).action == SHOT
