"""What a service costs its clients: requests and new connections a second through a node, by who translates them.

`PYTHONPATH=src:tests python benchmarks/connections.py [--quick]` as root prints a table in Markdown and writes a file
of its own to results/. A client, a node and a server are network namespaces; client and server share one CPU, so that a
longer way means fewer requests. Whit's service has a policy in both directions, and its events are read meanwhile, on
another CPU if there is one. In each round every way has its turn.
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Literal

import rulesets
from measure import RESULTS, Median, end_in_order, keep, median, table
from support.live import FIRST_ID, Live, living
from support.world import World, world

from whit.base.settings import Settings
from whit.datapath.abi import (
    POLICY_PREFIX_ANY_PROTOCOL,
    POLICY_PREFIX_EXACT,
    Direction,
    DropKey,
    Hook,
    PolicyKey,
    PolicyValue,
    Verdict,
)
from whit.datapath.attach import best_form
from whit.kernel import sysctl
from whit.kernel.network import netns
from whit.mesh.flows.log import POLL_SECONDS

Kind = Literal["keep", "new"]
KINDS: dict[Kind, str] = {"keep": "requests/s, keep-alive", "new": "new connections/s"}
PLAIN, NFT, WHIT = "plain routing", "nft DNAT", "Whit"
SERVICE, PORT, SERVER_PORT = IPv4Address("198.18.77.200"), 80, 8080
CLIENT_ID, SERVER_ID = FIRST_ID + 1, FIRST_ID + 2


@dataclass(frozen=True)
class Row:
    way: str
    kind: Kind
    per_second: Median
    of_plain: Median
    """Share of what plain routing did in the same round."""


def translate(place: World) -> None:
    rule = f"ip daddr {SERVICE} tcp dport {PORT} dnat to {place.address(2)}:{SERVER_PORT}"
    rulesets.load(place.node, rulesets.NFT, rulesets.nft_nat(rule))


def allow(live: Live) -> None:
    """The client may send to the server's port, and nobody anything else."""
    live.serve(SERVICE, PORT, socket.IPPROTO_TCP, backend=2)
    for rule, subject, peer, direction in (
        (1, CLIENT_ID, SERVER_ID, Direction.EGRESS),
        (2, SERVER_ID, CLIENT_ID, Direction.INGRESS),
    ):
        every = PolicyKey(POLICY_PREFIX_ANY_PROTOCOL, subject, 0, direction, 0, 0)
        this = PolicyKey(POLICY_PREFIX_EXACT, subject, peer, direction, socket.IPPROTO_TCP, SERVER_PORT)
        live.datapath.policies.put(every, PolicyValue(10 + rule, 0, Verdict.DENY, 0, 0))
        live.datapath.policies.put(this, PolicyValue(rule, 1, Verdict.ALLOW, 0, 0))


@dataclass
class Reader:
    """Takes flow events out of the ring while it is entered, as an agent does."""

    live: Live
    events: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Reader:
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            self.events += len(list(self.live.datapath.events.read()))

    def lost(self) -> int:
        found = self.live.datapath.drops.get(DropKey(0, Hook.LOST_EVENTS))
        return found.packets if found else 0


@dataclass
class Way:
    """From the client to the server; `program` is http_load."""

    name: str
    place: World
    program: Path
    cpu: int

    def target(self) -> tuple[IPv4Address, int]:
        return (self.place.address(2), SERVER_PORT) if self.name == PLAIN else (SERVICE, PORT)

    def argv(self, number: int, *arguments: object) -> list[str]:
        """Of a program in an instance, on the one CPU."""
        place = self.place.instances[number].netns
        return ["nsenter", f"--net={place}", "taskset", "-c", str(self.cpu), str(self.program), *map(str, arguments)]

    @contextmanager
    def served(self) -> Iterator[None]:
        # Connections that the client closed would keep its ports for a minute: there are not enough for that.
        netns.call_in(self.place.instances[1].netns, lambda: sysctl.write("net/ipv4/tcp_max_tw_buckets", 0))
        server = subprocess.Popen(self.argv(2, "serve", SERVER_PORT), stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            server.stdout.readline()
            yield
        finally:
            server.kill()
            server.communicate()

    def rate(self, kind: Kind, seconds: float, sockets: int) -> float:
        argv = self.argv(1, kind, *self.target(), seconds, sockets)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30, check=False)
        if done.returncode:
            raise SystemExit(f"{self.name}, {KINDS[kind]}: {done.stderr}")
        count, taken = done.stdout.split()
        return int(count) / float(taken)


@contextmanager
def ways(program: Path, directory: Path, cpu: int) -> Iterator[tuple[list[Way], Reader]]:
    with ExitStack() as stack:
        places = {name: stack.enter_context(world(settings_in(directory))) for name in (PLAIN, NFT)}
        translate(places[NFT])
        live = stack.enter_context(living(settings_in(directory), best_form(), redirect_peer=True))
        allow(live)
        made = [Way(name, place, program, cpu) for name, place in (places | {WHIT: live.world}).items()]
        for way in made:
            stack.enter_context(way.served())
        yield made, stack.enter_context(Reader(live))


def settings_in(directory: Path) -> Settings:
    return Settings(id=f"t{secrets.token_hex(3)}", run_root=directory / "run", state_root=directory / "state")


def measure(made: Sequence[Way], rounds: int, seconds: float, sockets: int) -> list[Row]:
    rates: dict[tuple[str, Kind], list[float]] = {(way.name, kind): [] for way in made for kind in KINDS}
    for _ in range(rounds):
        for way in random.sample(made, len(made)):
            for kind in KINDS:
                rates[way.name, kind].append(way.rate(kind, seconds, sockets))
    rows = []
    for (name, kind), found in rates.items():
        shares = [one / plain for one, plain in zip(found, rates[PLAIN, kind], strict=True)]
        rows.append(Row(name, kind, median(found), median(shares)))
    return rows


def show(done: Sequence[Row]) -> str:
    lines = []
    for way in dict.fromkeys(row.way for row in done):
        of_way = [row for row in done if row.way == way]
        lines.append([way, *(text for row in of_way for text in (row.per_second.text(), row.of_plain.text(2)))])
    return table(["way", *(head for kind in KINDS.values() for head in (kind, "of plain"))], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each turn")
    parser.add_argument("--sockets", type=int, default=1, help="connections at a time")
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the file goes")
    chosen = parser.parse_args()
    end_in_order()
    rounds = chosen.rounds // 5 if chosen.quick else chosen.rounds
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cpus[:-1]) or set(cpus))
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "http_load"
        subprocess.run(["clang", "-O2", "-o", program, Path(__file__).with_name("http_load.c")], check=True)
        with ways(program, Path(directory), cpus[-1]) as (made, reader):
            done = measure(made, rounds, chosen.seconds, chosen.sockets)
            events, lost = reader.events, reader.lost()
    print(show(done), end=f"\n\n{events:,} events were read, {lost:,} lost\n")
    document = {"rounds": rounds, "seconds": chosen.seconds, "sockets": chosen.sockets, "events": events, "lost": lost}
    print(keep("connections", document | {"rows": [asdict(row) for row in done]}, chosen.results))


if __name__ == "__main__":
    main()
