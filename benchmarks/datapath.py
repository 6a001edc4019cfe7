"""Measures what the datapath's programs take for a packet: nanoseconds, under BPF_PROG_TEST_RUN, without a network.

`PYTHONPATH=src:tests python benchmarks/datapath.py [--quick] [--label TEXT]` as root prints a table in Markdown and
adds the run to results/datapath.json. A packet that its program leaves as it was is run many times in a row ("warm");
one that is rewritten or begins a flow is run once at a time, so its figures have cold caches and the reading of the
clock in them. Compare figures of one machine only, of runs taken in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import statistics
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from measure import machine
from scapy.packet import Packet
from support.packet_lab import (
    CLIENT,
    CLIENT6,
    CLIENT_ID,
    HOST_MACS,
    MACS,
    NODE,
    OUTSIDE,
    OUTSIDE_MAC,
    REDIRECT,
    SECOND,
    SERVER,
    SERVER6,
    SHOT,
    UNSPEC,
    UPLINK_MAC,
    VIP,
    VIP6,
    Lab,
    laboratory,
    mac,
    raw,
    tcp,
    udp,
)

from whit.base.settings import Settings
from whit.datapath import libbpf
from whit.datapath.abi import Direction, EndpointKey
from whit.datapath.address import Address
from whit.kernel.network import links
from whit.kernel.network.links import End
from whit.kernel.network.netlink import NetlinkSocket

RESULTS = Path(__file__).resolve().parent.parent / "results" / "datapath.json"
CONTEXT, IFINDEX = 192, 40
"""Bytes of struct __sk_buff, and where `ifindex` is in it."""
REQUEST = b"GET /items/17?page=2 HTTP/1.1\r\nHost: shop\r\n\r\n"


@dataclass(frozen=True)
class Row:
    """Nanoseconds of one case, over `rounds` measurements of `repeat` packets each."""

    case: str
    median: float
    low: float
    high: float
    rounds: int
    repeat: int


@dataclass(frozen=True)
class Case:
    """`packet` gives the packet of a round. Without `warm` each round is one packet, and what it needs comes first."""

    name: str
    packet: Callable[[int], Packet]
    program: str = "from_instance"
    link: str = CLIENT
    action: int = REDIRECT
    before: Callable[[Lab], object] = lambda lab: None
    warm: bool = False


@contextmanager
def linked() -> Iterator[dict[str, int]]:
    """Two veth pairs, as the tests of the datapath have them."""
    ends = [f"bench{os.getpid()}{letter}" for letter in "abcd"]
    macs = (UPLINK_MAC, OUTSIDE_MAC, "02:00:00:00:09:01", "02:00:00:00:09:02")
    found = [End(name, address) for name, address in zip(ends, macs, strict=True)]
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        with NetlinkSocket() as netlink:
            netlink.execute([links.create_veth(*found[:2], mtu=1500, netns=here)])
            netlink.execute([links.create_veth(*found[2:], mtu=1500, netns=here)])
        places = (OUTSIDE, CLIENT, SERVER, SECOND)
        yield {address: socket.if_nametoindex(name) for address, name in zip(places, ends, strict=True)}
    finally:
        os.close(here)
        links.delete_all([ends[0], ends[2]])


def keep_macs(lab: Lab) -> None:
    """Let the server's link have the client's MACs: a delivered packet is then what it was, and can be sent again."""
    for address in (SERVER, SERVER6):
        value = replace(lab.endpoint(address, 0), mac=mac(HOST_MACS[CLIENT]), host_mac=mac(MACS[CLIENT]))
        key = EndpointKey(Address.from_ip(address))
        known = lab.datapath.endpoints.get(key)
        assert known is not None
        lab.datapath.endpoints.put(key, replace(value, identity=known.identity))


def begin(source: str, destination: str, port: int) -> Callable[[Lab], object]:
    def first(lab: Lab) -> None:
        keep_macs(lab)
        lab.from_instance(tcp(source, destination, 40000, port))

    return first


def serve(lab: Lab) -> None:
    lab.serve((SERVER, 8080))


def serve6(lab: Lab) -> None:
    lab.serve((SERVER6, 8080), address=VIP6)


def ask(lab: Lab) -> None:
    serve(lab)
    lab.from_instance(tcp(CLIENT, VIP))


def ask6(lab: Lab) -> None:
    serve6(lab)
    lab.from_instance(tcp(CLIENT6, VIP6))


def known(name: str, load: bytes = b"", source: str = CLIENT, destination: str = SERVER) -> Case:
    packet = tcp(source, destination, 40000, 8080, "PA" if load else "A", load)
    return Case(name, lambda _: packet, before=begin(source, destination, 8080), warm=True)


def deny(lab: Lab) -> None:
    lab.deny_all(CLIENT_ID, Direction.EGRESS)


CASES = [
    known("known flow, IPv4"),
    known("known flow, IPv6", b"", CLIENT6, SERVER6),
    known("known flow, 1 KB", bytes(1000)),
    known("known flow, HTTP request", REQUEST),
    Case("denied", lambda _: udp(CLIENT, SERVER), action=SHOT, before=deny, warm=True),
    Case("from outside, not ours", lambda _: tcp(OUTSIDE, NODE, dport=22), "from_uplink", OUTSIDE, UNSPEC, warm=True),
    Case("to a service", lambda _: tcp(CLIENT, VIP, flags="A"), before=ask),
    Case("to a service, IPv6", lambda _: tcp(CLIENT6, VIP6, flags="A"), before=ask6),
    Case("answer of a service", lambda _: tcp(SERVER, CLIENT, 8080, 40000, "A"), link=SERVER, before=ask),
    Case("new flow", lambda number: tcp(CLIENT, SERVER, 1024 + number, 8080)),
    Case("new flow to a service", lambda number: tcp(CLIENT, VIP, 1024 + number), before=serve),
]


def timed(lab: Lab, case: Case, packet: bytes, repeat: int) -> int:
    """The mean of the repeats, as the kernel took it."""
    context = bytearray(CONTEXT)
    struct.pack_into("<I", context, IFINDEX, lab.links[case.link])
    run = libbpf.prog_test_run(lab.program(case.program), packet, ctx=bytes(context), repeat=repeat)
    if run.retval != case.action:
        raise SystemExit(f"{case.name}: the packet ended with {run.retval}, not {case.action}; {lab.drops()}")
    return run.duration_ns


def measure(lab: Lab, case: Case, rounds: int, repeat: int) -> Row:
    case.before(lab)
    one = raw(case.packet(0))
    if case.warm:
        timed(lab, case, one, repeat)
        times = [timed(lab, case, one, repeat) for _ in range(rounds)]
    else:
        repeat, rounds = 1, rounds * 50
        packets = [raw(case.packet(number)) for number in range(rounds)]
        times = [timed(lab, case, packet, 1) for packet in packets]
    tenths = statistics.quantiles(times, n=10)
    return Row(case.name, statistics.median(times), tenths[0], tenths[-1], rounds, repeat)


def rows(rounds: int, repeat: int) -> Iterator[Row]:
    """A datapath of its own for each case, so that none leaves anything to the next."""
    with linked() as made, tempfile.TemporaryDirectory() as state:
        for case in CASES:
            settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=Path(state))
            for lab in laboratory(settings, made):
                yield measure(lab, case, rounds, repeat)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    parser.add_argument("--label", default="", help="kept with the results: what was measured")
    arguments = parser.parse_args()
    rounds, repeat = (9, 5_000) if arguments.quick else (41, 20_000)
    print("| packet | median ns | 10 % | 90 % |\n|---|---|---|---|")
    done = []
    for row in rows(rounds, repeat):
        done.append(row)
        print(f"| {row.case} | {row.median:.0f} | {row.low:.0f} | {row.high:.0f} |", flush=True)
    write(done, arguments.label)


def write(done: list[Row], label: str) -> None:
    """Add a run to the results, which so keep what was before."""
    time = datetime.now(UTC).isoformat(timespec="seconds")
    run = {"time": time, "label": label, "machine": machine(), "rows": [asdict(row) for row in done]}
    past = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([*past, run], indent=2) + "\n")


if __name__ == "__main__":
    main()
