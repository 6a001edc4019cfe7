"""Turns what the datapath tells into flows: numbers become names. Pure.

Identities and rule ids are never given to others, so a record can be named at any later time. What may change
meanwhile, the index of a link and what a name of the DNS meant, is in the record's `Context`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from whit.datapath import abi
from whit.datapath.address import Address
from whit.datapath.events import Event
from whit.mesh.policy.identities import IdentityBook
from whit.mesh.policy.lines import AUDITED
from whit.mesh.policy.rules import UNDECLARED
from whit.model.flow import Ended, Exchange, Flow, Party, Verdict

REASONS = {reason.value: reason for reason in abi.DropReason if reason}
HOOKS = {hook.value: hook.name.lower().replace("_", "-") for hook in abi.Hook}
METHODS = {method.value: method.name.removeprefix("HTTP_") for method in abi.HttpMethod}
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
_OWN_LINK = re.compile(r"w-[a-z0-9]+-(\d+)")


@dataclass
class Dictionary:
    """What numbers mean. Control replaces the fields as they change."""

    identities: IdentityBook = field(default_factory=IdentityBook)
    rules: Mapping[int, str] = field(default_factory=dict)
    links: dict[int, str] = field(default_factory=dict)
    """Instances by endpoint number, which their links are named for."""

    def rule(self, number: int) -> str:
        return self.rules.get(number, "") if number else ""

    def link(self, name: str) -> str:
        """The instance at the end of a link of ours; the link's own name for others."""
        found = _OWN_LINK.fullmatch(name)
        return self.links.get(int(found[1]), name) if found else name


@dataclass
class Context:
    """What was so when a record was made."""

    boot: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    """The wall-clock time at which the monotonic clock was 0."""
    links: dict[int, str] = field(default_factory=dict)
    """Names by index."""
    asked: dict[bytes, str] = field(default_factory=dict)
    """What an address was called when it was asked for: by the asker's address and the answer's, 16 bytes each."""

    def name_asked(self, asker: Address, address: Address) -> str:
        return self.asked.get(asker.packed + address.packed, "")


def flow_of(event: Event, words: Dictionary, context: Context) -> Flow:
    """Raises TypeError for a hop, which is no flow."""
    if isinstance(event, abi.FlowEvent):
        return _decision(event, words, context)
    if isinstance(event, abi.EndEvent):
        return _end(event, words, context)
    if isinstance(event, abi.HttpEvent):
        return _http(event, words, context)
    raise TypeError("a hop is no flow")


# Flows are not validated: these are our own numbers and names, and a person may ask for 65,536 of them at once.


def _decision(event: abi.FlowEvent, words: Dictionary, context: Context) -> Flow:
    reason = REASONS.get(event.reason)
    rule = _told_rule(event, words)
    text = words.rule(rule)
    return Flow.model_construct(
        **_common(event, words, context),
        service="" if event.service == event.destination else endpoint_text(event.service, event.service_port),
        verdict=said(event.verdict, event.flags),
        reason=reason.name if reason else "" if not event.reason else f"reason {event.reason}",
        reason_text=abi.DROP_TEXTS[reason] if reason else "",
        rule=rule,
        rule_text=text,
        undeclared=event.verdict == abi.Verdict.ALLOW and UNDECLARED in text,
    )


def _end(event: abi.EndEvent, words: Dictionary, context: Context) -> Flow:
    ended = Ended.model_construct(
        seconds=event.duration_ns / 1e9,
        packets=event.packets,
        bytes=event.bytes,
        reply_packets=event.reply_packets,
        reply_bytes=event.reply_bytes,
        rtt_us=event.rtt_us,
        retransmits=event.retransmits,
        reset=bool(event.reset),
    )
    return Flow.model_construct(**_common(event, words, context), kind="end", verdict="allow", end=ended)


def _http(event: abi.HttpEvent, words: Dictionary, context: Context) -> Flow:
    exchange = Exchange.model_construct(
        method=METHODS.get(event.method, str(event.method)),
        path=event.path[: event.path_length].decode("ascii", "backslashreplace"),
        status=event.status,
        latency_us=event.latency_us,
    )
    return Flow.model_construct(**_common(event, words, context), kind="http", verdict="allow", http=exchange)


def _common(event: abi.FlowEvent | abi.EndEvent | abi.HttpEvent, words: Dictionary, context: Context) -> dict[str, Any]:
    source, destination = event.source, event.destination
    asked = context.name_asked(source, destination)
    protocol = socket.IPPROTO_TCP if isinstance(event, abi.HttpEvent) else event.protocol
    return {
        "time": context.boot + timedelta(microseconds=event.time_ns / 1000),
        "source": _party(source, event.source_port, event.source_identity, words),
        "destination": _party(destination, event.destination_port, event.destination_identity, words, asked),
        "protocol": PROTOCOLS.get(protocol, str(protocol)),
        "hook": HOOKS.get(event.hook, str(event.hook)),
        "link": words.link(context.links.get(event.ifindex, str(event.ifindex))),
    }


def deciding_rule(event: abi.FlowEvent) -> int:
    """The one that denied; of a flow that both ends let through, the source's, or the destination's if it has none."""
    if event.reason == abi.DropReason.POLICY_INGRESS:
        return event.ingress_rule
    if event.reason == abi.DropReason.POLICY_EGRESS:
        return event.egress_rule
    return event.egress_rule or event.ingress_rule


def _told_rule(event: abi.FlowEvent, words: Dictionary) -> int:
    """The deciding one; of a flow that was let through and would not have been, the one that audits."""
    if not event.flags & abi.PolicyFlags.AUDIT:
        return deciding_rule(event)
    rules = (event.egress_rule, event.ingress_rule)
    return next((rule for rule in rules if AUDITED in words.rule(rule)), deciding_rule(event))


def said(verdict: int, flags: int) -> Verdict:
    """What was decided about a first packet, as its event tells it."""
    if verdict == abi.Verdict.DENY:
        return "deny"
    if flags & abi.PolicyFlags.AUDIT:
        return "audit"
    return "redirect" if verdict == abi.Verdict.REDIRECT else "allow"


def _party(address: Address, port: int, identity: int, words: Dictionary, dns: str = "") -> Party:
    name = words.identities.name(identity) if identity else ""
    return Party.model_construct(address=str(address), port=port, identity=identity, name=name, dns=dns)


def endpoint_text(address: Address, port: int) -> str:
    text = str(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"
