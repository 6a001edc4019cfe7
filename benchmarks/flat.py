"""Does a packet cost the same among ten thousand services as with one, and among sixteen thousand policy entries?

`PYTHONPATH=src:tests python benchmarks/flat.py [--quick]` as root prints tables in Markdown and writes a file of its
own to results/. Whit's programs alone are timed under BPF_PROG_TEST_RUN, then Whit, nftables and iptables by real
packets that go from a namespace through a node's to another one. In each round every case has its turn.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import statistics
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal, Protocol

import rulesets
from bursts import Course, Way
from datapath import linked
from filling import FIRST_ADDRESS, FIRST_PORT, fill_policy, fill_services, open_ports, policy_of, services_of
from measure import RESULTS, Median, end_in_order, keep, median, table
from support.live import FIRST_ID, living
from support.packet_lab import CLIENT, CLIENT_ID, HOST_MACS, MACS, REDIRECT, SERVER, SERVER_ID, Lab, laboratory
from support.world import World, world

from whit.base.settings import Settings
from whit.datapath import libbpf
from whit.datapath.attach import best_form
from whit.datapath.datapath import Datapath
from whit.kernel.network.links import mac_bytes

BACKENDS = 5
KNOWN_PORTS, NEW_PORTS = 10_000, 20_000
"""The client's: flows that are known have the first, those that begin count on from the second."""
FORBIDDEN = 9999
"""The server listens there too, and no policy lets anybody send to it."""
_CONTEXT, _IFINDEX = 192, 40
"""Bytes of struct __sk_buff, and where `ifindex` is in it."""
PLAIN, WHIT, ALONE = "plain routing", "Whit", "Whit, program alone"
RIVALS = {
    "nft, maps": (rulesets.NFT, rulesets.nft_service_maps, rulesets.nft_policy_maps),
    "nft, rules": (rulesets.NFT, rulesets.nft_service_rules, rulesets.nft_policy_rules),
    "iptables (nft)": (rulesets.IPTABLES_NFT, rulesets.iptables_services, rulesets.iptables_policy),
    "iptables (legacy)": (rulesets.IPTABLES_LEGACY, rulesets.iptables_services, rulesets.iptables_policy),
}
"""The tool that takes the rules, and who writes them for services and for policy."""


@dataclass(frozen=True)
class Question:
    """So many services, or so many policy entries, between these two."""

    kind: Literal["services", "policy"]
    count: int
    one_target: bool = False

    def target(self, server: IPv4Address) -> tuple[IPv4Address, int]:
        """One of those that a packet may be sent to, by chance; or always the one in the middle of the list."""
        targets = range(self.count) if self.kind == "services" else open_ports(self.count)
        chosen = targets[len(targets) // 2] if self.one_target else random.choice(targets)
        return (FIRST_ADDRESS + chosen, rulesets.PORT) if self.kind == "services" else (server, chosen)

    def ports(self) -> Sequence[int]:
        """Of the server, which listens there."""
        if self.kind == "services":
            return range(FIRST_PORT, FIRST_PORT + BACKENDS)
        return [*open_ports(self.count), FORBIDDEN]

    def fill(self, datapath: Datapath, client: IPv4Address, server: IPv4Address, identities: tuple[int, int]) -> None:
        if self.kind == "services":
            fill_services(datapath, services_of(self.count, BACKENDS, server))
        else:
            fill_policy(datapath, policy_of(self.count, client, server), *identities)

    def load(self, place: Path, system: str, client: IPv4Address, server: IPv4Address) -> None:
        tool, of_services, of_policy = RIVALS[system]
        if self.kind == "services":
            rulesets.load(place, tool, of_services(services_of(self.count, BACKENDS, server)))
        else:
            rulesets.load(place, tool, of_policy(policy_of(self.count, client, server)))

    def frames(self, way: Way, server: IPv4Address, ports: Sequence[int]) -> list[bytes]:
        """One from each of the client's ports."""
        return [way.frame(port, *self.target(server)) for port in ports]


class Case(Protocol):
    """`first` and `known` are nanoseconds a packet, or None for a round that does not count."""

    question: Question
    system: str

    def begin(self, packets: int) -> None:
        """Make flows known, the same packets of which `known` sends."""

    def first(self, ports: Sequence[int]) -> float | None: ...

    def known(self) -> float | None: ...


class Alone:
    """Whit's program by BPF_PROG_TEST_RUN. Each packet is one call: a figure has cold caches and the clock in it."""

    system = ALONE

    def __init__(self, question: Question, lab: Lab) -> None:
        self.question, self.lab = question, lab
        self.server = IPv4Address(SERVER)
        self.way = Way(mac_bytes(MACS[CLIENT]), mac_bytes(HOST_MACS[CLIENT]), IPv4Address(CLIENT))
        self.context = bytearray(_CONTEXT)
        struct.pack_into("<I", self.context, _IFINDEX, lab.links[CLIENT])
        question.fill(lab.datapath, self.way.source, self.server, (CLIENT_ID, SERVER_ID))

    def begin(self, packets: int) -> None:
        self.frames = self.question.frames(self.way, self.server, range(KNOWN_PORTS, KNOWN_PORTS + packets))
        self._run(self.frames)

    def first(self, ports: Sequence[int]) -> float:
        self.lab.events()
        return self._run(self.question.frames(self.way, self.server, ports))

    def known(self) -> float:
        return self._run(self.frames)

    def _run(self, frames: Sequence[bytes]) -> float:
        program, context = self.lab.program("from_instance"), bytes(self.context)
        done = [libbpf.prog_test_run(program, frame, ctx=context) for frame in frames]
        if any(run.retval != REDIRECT for run in done):
            raise SystemExit(f"{self.question}: not every packet was let through: {self.lab.drops()}")
        return statistics.median(run.duration_ns for run in done)


@dataclass
class Real:
    """Packets through a node's namespace with somebody's rules in it, or with Whit's datapath on its links."""

    question: Question
    system: str
    place: World
    datapath: Datapath | None = None
    course: Course = field(init=False)

    def __post_init__(self) -> None:
        client, server = (self.place.instances[number] for number in (1, 2))
        self.server = server.address
        way = Way(mac_bytes(client.inner.mac), mac_bytes(client.outer.mac), client.address)
        self.course = Course(client.netns, server.netns, way, self.question.ports())
        if self.datapath:
            self.question.fill(self.datapath, client.address, server.address, (FIRST_ID + 1, FIRST_ID + 2))
        elif self.system != PLAIN:
            self.question.load(self.place.node, self.system, client.address, server.address)
        self.course.open()

    def begin(self, packets: int) -> None:
        ports = range(KNOWN_PORTS, KNOWN_PORTS + packets)
        self.frames = self._frames(ports)
        self.course.begin(self.frames, ports)
        if self.question.kind == "policy" and self.system != PLAIN:
            self.course.expect_nothing([self.course.way.frame(KNOWN_PORTS, self.server, FORBIDDEN)])

    def first(self, ports: Sequence[int]) -> float | None:
        if self.datapath:
            self.datapath.events.poll()
        return self.course.send(self._frames(ports))

    def known(self) -> float | None:
        return self.course.send(self.frames)

    def _frames(self, ports: Sequence[int]) -> list[bytes]:
        if self.system == PLAIN:
            return [self.course.way.frame(port, self.server, FIRST_PORT) for port in ports]
        return self.question.frames(self.course.way, self.server, ports)


@contextmanager
def real(question: Question, system: str, settings: Settings) -> Iterator[Case]:
    with ExitStack() as stack:
        if system == WHIT:
            live = stack.enter_context(living(settings, best_form(), redirect_peer=True))
            case = Real(question, system, live.world, live.datapath)
        else:
            case = Real(question, system, stack.enter_context(world(settings)))
        stack.callback(case.course.close)
        yield case


@contextmanager
def alone(question: Question, links: dict[str, int], settings: Settings) -> Iterator[Case]:
    with contextmanager(laboratory)(settings, links) as lab:
        yield Alone(question, lab)


@dataclass(frozen=True)
class Row:
    kind: str
    count: int
    system: str
    packet: Literal["first", "known"]
    nanoseconds: Median


def measure(cases: Sequence[Case], rounds: int, packets: int) -> Iterator[Row]:
    """All cases take their turn in each round, in another order each time."""
    times: dict[tuple[int, str], list[float]] = {}
    for case in cases:
        case.begin(packets)
    for number in range(rounds):
        ports = range(NEW_PORTS + number * packets, NEW_PORTS + (number + 1) * packets)
        for at in random.sample(range(len(cases)), len(cases)):
            for packet, taken in (("first", cases[at].first(ports)), ("known", cases[at].known())):
                times.setdefault((at, packet), []).extend([] if taken is None else [taken])
    for (at, packet), found in sorted(times.items()):
        if len(found) * 2 < rounds:
            raise SystemExit(f"{cases[at].system}: only {len(found)} of {rounds} rounds were run in one piece")
        question = cases[at].question
        yield Row(question.kind, question.count, cases[at].system, packet, median(found))


def rows(questions: Sequence[Question], rounds: int, packets: int) -> Iterator[Row]:
    """The programs alone first, all of a kind at once; then real packets."""
    with tempfile.TemporaryDirectory() as directory:
        for kind in ("services", "policy"):
            asked = [one for one in questions if one.kind == kind]
            with linked() as links, ExitStack() as stack:
                cases = [stack.enter_context(alone(one, links, settings_in(directory))) for one in asked]
                yield from measure(cases, rounds, packets)
            with ExitStack() as stack:
                wanted = [(asked[0], PLAIN), *((one, system) for one in asked for system in (*RIVALS, WHIT))]
                cases = [stack.enter_context(real(*one, settings_in(directory))) for one in wanted]
                yield from measure(cases, rounds, packets)


def settings_in(directory: str) -> Settings:
    root = Path(directory)
    return Settings(id=f"t{secrets.token_hex(3)}", run_root=root / "run", state_root=root / "state")


def show(kind: str, counts: Sequence[int], done: Sequence[Row]) -> str:
    """Systems by counts, first packets and those of known flows."""
    found = {(row.system, row.count, row.packet): row.nanoseconds.text() for row in done if row.kind == kind}
    columns = [(packet, count) for packet in ("first", "known") for count in counts]
    systems = dict.fromkeys(row.system for row in done if row.kind == kind)
    head = [f"ns a packet, {kind}", *(f"{packet}, {count:,}" for packet, count in columns)]
    lines = [[system, *(found.get((system, count, packet), "") for packet, count in columns)] for system in systems]
    return table(head, lines)


def numbers(text: str) -> list[int]:
    return [int(one) for one in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=numbers, default=[1, 1_000, 10_000], help="default: 1,1000,10000")
    parser.add_argument("--entries", type=numbers, default=[1, 1_000, 16_000], help="default: 1,1000,16000")
    parser.add_argument("--rounds", type=int, default=201)
    parser.add_argument("--packets", type=int, default=64, help="in a round, of each case")
    parser.add_argument(
        "--one-target", action="store_true", help="not one of all by chance: what it needs is in caches"
    )
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the file goes")
    chosen = parser.parse_args()
    end_in_order()
    rounds = chosen.rounds // 5 if chosen.quick else chosen.rounds
    if rounds * chosen.packets > 65_536 - NEW_PORTS:
        parser.error(f"each new flow has a port of its own: --rounds x --packets is at most {65_536 - NEW_PORTS:,}")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    questions = [Question("services", count, chosen.one_target) for count in chosen.services]
    questions += [Question("policy", count, chosen.one_target) for count in chosen.entries]
    done = list(rows(questions, rounds, chosen.packets))
    for kind, counts in (("services", chosen.services), ("policy", chosen.entries)):
        print(show(kind, counts, done), end="\n\n")
    document = {"rounds": rounds, "packets": chosen.packets, "backends": BACKENDS, "one_target": chosen.one_target}
    print(keep("flat", document | {"rows": [asdict(row) for row in done]}, chosen.results))


if __name__ == "__main__":
    main()
