"""What frames carry, and their checksums, compared with Scapy's."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from whit.kernel.network import frames


@pytest.mark.parametrize("network", [IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="fd00::1", dst="fd00::2")])
@pytest.mark.parametrize("transport", [TCP(sport=4, dport=80, flags="S"), UDP(sport=4, dport=80)])
@pytest.mark.parametrize("load", [b"", b"odd", b"evenly", b"\xff" * 301])
def test_checksums_are_as_foretold(network: Any, transport: Any, load: bytes) -> None:
    right = bytes(Ether() / network / transport / load)
    segment = frames.segment_of(right)
    assert segment is not None
    assert (segment.protocol, segment.source_port, segment.port) == (int(transport.overload_fields[IP]["proto"]), 4, 80)
    place = segment.offset + (16 if TCP in transport else 6)
    wrong = right[:place] + b"\x12\x34" + right[place + 2 :]
    assert frames.with_checksum(wrong, segment) == right


@pytest.mark.parametrize("packet", [Ether() / ARP(), Ether() / IP() / ICMP(), Ether() / IP() / b"x", b"", b"\0" * 60])
def test_others_have_none(packet: Any) -> None:
    assert frames.segment_of(bytes(packet)) is None


@pytest.mark.parametrize("network", [IP(), IPv6()])
def test_what_is_cut_off_has_none(network: Any) -> None:
    whole = bytes(Ether() / network / TCP())
    for length in range(len(whole) - 2):
        frames.segment_of(whole[:length])
