"""Names of the DNS in policy: the real resolver, a name server that it asks, and who is outside, in namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from dnslib import QTYPE, DNSRecord
from support.leftovers import leftovers_after
from support.name_server import NameServer, answer_at, start_resolver
from support.service_site import SILENCE, ServiceSite, ask, sh, until
from support.slowness import quick

from whit.base.errors import NotFound
from whit.base.settings import Settings
from whit.control.observing import explain
from whit.control.observing.observation import Observation
from whit.control.outside_names import OutsideNames, Troubles
from whit.datapath.abi import DropReason
from whit.formats.policy.kubernetes import read_policies
from whit.mesh.dns import announce
from whit.mesh.dns.learned import Timing
from whit.mesh.policy.outside import title
from whit.mesh.sweeper import Sweep, Timeouts, sweep
from whit.model.flow import Explanation, Flow
from whit.model.instance import InstanceStatus
from whit.model.selector import SERVICE_NAME
from whit.model.service import UseSpec

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.timeout(120)]

T = TypeVar("T")
NUMBER = random.randrange(130, 200)
"""The same test may run twice on a machine, and no agent takes these by itself."""
NET4, NET6 = f"198.18.{NUMBER}", f"2001:db8:{NUMBER:x}:"
PORT = 8080


class NameSite:
    """A site whose resolver asks `upstream`; who is outside answers at every address of two networks."""

    def __init__(self, site: ServiceSite, directory: Path, timing: Timing) -> None:
        self.site = site
        self.timing = timing
        self.directory = directory
        self.resolver: subprocess.Popen[str] | None = None
        networks = {4: f"{NET4}.0/24", 6: f"{NET6}:/64"}
        for family, network in networks.items():
            sh("ip", f"-{family}", "route", "replace", network, "via", site.outside_address(family), "dev", site.uplink)
        self.server = answer_at(site.outside, networks.values(), PORT, 9090)
        self.upstream = NameServer(site.outside, [site.outside_address(family) for family in networks])

    def up(self, services: dict[str, dict[str, object]]) -> None:
        self.site.up(services)
        for record in self.site.records.values():
            spec = record.spec.network
            record.update(state="running", address=spec.address, address6=spec.address6)
        if self.resolver is None:
            self.start_agent()
            self.start_resolver()

    def start_agent(self) -> None:
        """Its part that is asked about here."""
        self.observation = Observation(self.site.settings, self.site.network, self.statuses)
        self.observation.learn([record.spec for record in self.site.records.values()])
        network = self.site.network
        self.names = OutsideNames(
            self.site.settings, network.documents, network, self.write, self.observation.learn_name
        )
        self.observation.more_alarms = self.names.alarms

        async def begin() -> None:
            await self.names.load(self.timing)
            await self.write()
            await self.names.open()

        self.site.run(begin())

    def stop_agent(self) -> None:
        """As kill -9 leaves it: nothing is written down any more."""
        self.site.run(self.names._reception.close())
        self.observation.close()

    def restart_agent(self) -> None:
        """Another one, which finds the kernel's maps and the store."""
        self.stop_agent()
        self.site.network.datapath.close()
        self.site.network = self.site.run(self.site.open_network())
        self.start_agent()

    def statuses(self) -> list[InstanceStatus]:
        return [one.status for one in self.site.records.values()]

    async def write(self) -> None:
        assert self.site.release is not None
        await self.site.network.write([self.site.release], self.site.records.values())

    def start_resolver(self) -> None:
        self.resolver = start_resolver(self.site.settings, self.site.outside_address(4), self.directory)
        until = time.monotonic() + 45
        while self.during(lambda: self.look_up("a", "b.site.whit", patience=0.2)) is None:
            assert time.monotonic() < until
            assert self.resolver.poll() is None, self.resolver.communicate()[1]

    def stop_resolver(self, number: int = signal.SIGKILL) -> None:
        if self.resolver is not None:
            self.resolver.send_signal(number)
            self.resolver.communicate(timeout=30)

    def forget(self) -> None:
        self.upstream.zone.clear()
        self.upstream.silent, self.upstream.pause = False, 0.0
        self.site.network.policies = ()
        self.up({"a": {}, "b": {}})
        self.names.troubles = Troubles()
        assert len(self.site.network.named.learned) == 0

    def close(self) -> None:
        self.stop_resolver()
        self.upstream.close()
        self.server.kill()
        self.server.communicate()
        if hasattr(self, "names"):
            self.site.run(self.names.close())
            self.observation.close()

    def during(self, work: Callable[[], T]) -> T:
        """Work in a thread, while the agent's loop runs."""
        return self.site.run(asyncio.to_thread(work))

    def look_up(
        self, service: str, name: str, kind: str = "A", *, family: int = 4, patience: float = 6.0
    ) -> list[str] | None:
        """What the resolver answers to an instance; None if it does not."""
        book = self.site.network.books.addresses
        server = str(book.resolver if family == 4 else book.resolver6)

        def exchange() -> bytes | None:
            with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as own:
                own.settimeout(patience)
                own.connect((server, 53))
                try:
                    own.send(bytes(DNSRecord.question(name, kind).pack()))
                    return own.recv(4096)
                except OSError:
                    return None

        reply = self.site.inside(f"site-{service}-1", exchange)
        if reply is None:
            return None
        return [str(one.rdata) for one in DNSRecord.parse(reply).rr if one.rtype in (QTYPE.A, QTYPE.AAAA)]

    def reach(self, service: str, address: str, port: int = PORT, patience: float = 10.0) -> str:
        return self.site.inside(f"site-{service}-1", lambda: ask(address, port, patience=patience)).partition(" ")[0]

    def look_up_and_reach(
        self, service: str, name: str, kind: str = "A", port: int = PORT, patience: float = 10.0
    ) -> str:
        """As programs do: the first connection right after the answer."""

        def work() -> str:
            found = self.look_up(service, name, kind)
            assert found, f"{name} is not answered"
            return self.reach(service, found[0], port, patience)

        return self.during(work)

    @contextlib.contextmanager
    def connected(self, service: str, address: str) -> Iterator[socket.socket]:
        with self.site.inside(f"site-{service}-1", socket.socket) as own:
            own.settimeout(20)
            own.connect((address, PORT))
            assert own.recv(64).startswith(b"outside")
            yield own

    def dropped(self) -> int:
        """Packets that policy did not let out."""
        found = self.site.network.datapath.drops.items()
        return sum(value.packets for key, value in found if key.reason == DropReason.POLICY_EGRESS)

    def told(self, source: str, address: str) -> list[str]:
        log = self.observation.flow_log
        log.collect(self.site.network.datapath.events)
        found = log.past(lambda flow: (flow.source.name, flow.destination.address) == (source, address))
        return [f"{flow.time:%S.%f} {flow.kind} {flow.verdict} {flow.reason} {flow.destination.name}" for flow in found]

    def last_flow(self, source: str, address: str) -> Flow:
        self.observation._learn_names()
        log = self.observation.flow_log
        log.collect(self.site.network.datapath.events)
        decided = log.past(lambda flow: flow.kind != "end")
        return [flow for flow in decided if (flow.source.name, flow.destination.address) == (source, address)][-1]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NameSite]:
    directory = tmp_path_factory.mktemp("names")
    directory.chmod(0o755)
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=directory / "state")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WHIT_POOL", f"10.{NUMBER}.0.0/16")
        with ServiceSite(settings) as site:
            found = NameSite(site, directory, Timing(minimum=0.0, grace=1.0))
            try:
                yield found
            finally:
                found.close()
    left = leftovers_after(settings)
    assert not left, f"left behind by {settings.id}: {left}"
    shutil.rmtree(settings.run_dir, ignore_errors=True)


@pytest.fixture
def made(standing: NameSite) -> Iterator[NameSite]:
    """Its resolver and agent live, and know nothing."""
    yield standing
    standing.forget()


USES = [{"dns": "api.example.com", "port": PORT}]


def test_the_first_connection_after_the_answer_is_let_through(made: NameSite) -> None:
    made.upstream.zone["api.example.com"] = [("A", f"{NET4}.7", 60), ("AAAA", f"{NET6}:7", 60)]
    made.upstream.zone["other.example.com"] = [("A", f"{NET4}.8", 60)]
    made.up({"a": {"uses": USES}, "b": {}})
    assert made.look_up_and_reach("a", "api.example.com") == "outside"
    assert made.look_up_and_reach("a", "api.example.com", "AAAA") == "outside"
    assert made.look_up_and_reach("a", "api.example.com", port=9090, patience=0.8) == SILENCE
    assert made.look_up_and_reach("a", "other.example.com", patience=0.8) == SILENCE
    assert made.look_up_and_reach("b", "api.example.com", patience=0.8) == SILENCE


def test_two_hundred_fresh_addresses_and_none_is_dropped(
    made: NameSite, record_number: Callable[[str, object], None]
) -> None:
    """Each answer has another address: whoever were late would lose the first packet."""
    made.up({"a": {"uses": [{"dns": "*.cdn.example.com", "port": PORT}]}, "b": {}})
    seconds: dict[str, list[float]] = {"cdn": [], "other": []}

    def work() -> list[str]:
        lost = []
        for number, zone in itertools.product(range(1, 201), seconds):
            name, kind = f"h{number}.{zone}.example.com", "A" if number % 2 else "AAAA"
            address = f"{NET4}.{number}" if kind == "A" else f"{NET6}:{number:x}"
            made.upstream.zone[name] = [(kind, address, 60)]
            began = time.monotonic()
            assert made.look_up("a", name, kind) == [address]
            seconds[zone].append(time.monotonic() - began)
            if zone == "cdn" and (said := made.reach("a", address, patience=5)) != "outside":
                lost.append(f"{address}: {said}, {made.told('site/a', address)}")
        return lost

    before = made.dropped()
    assert made.during(work) == []
    assert made.dropped() == before, "no first packet was sent again"
    assert made.names.troubles.recent() == (0, 0)
    for zone, found in seconds.items():
        p50, p99 = (f"{1000 * sorted(found)[int(len(found) * share)]:.2f}" for share in (0.5, 0.99))
        record_number(f"answer, name {'in policy' if zone == 'cdn' else 'in no policy'}, ms p50 p99", f"{p50} {p99}")
    record_number("answer, in the agent at most, ms", f"{1000 * made.names.slowest:.2f}")


def test_aliases_are_followed_and_patterns_match_what_ends_so(made: NameSite) -> None:
    made.upstream.zone |= {
        "www.example.com": [("CNAME", "edge.example.net", 60)],
        "edge.example.net": [("CNAME", "pop.example.net", 60)],
        "pop.example.net": [("A", f"{NET4}.9", 60)],
        "a.b.example.org": [("A", f"{NET4}.10", 60)],
        "example.org": [("A", f"{NET4}.11", 60)],
        "badexample.org": [("A", f"{NET4}.12", 60)],
    }
    made.up({"a": {"uses": [{"dns": "WWW.example.com."}, {"dns": "*.example.org"}]}, "b": {}})
    assert made.look_up_and_reach("a", "www.example.com") == "outside"
    assert made.look_up_and_reach("a", "A.b.Example.org") == "outside"
    assert made.look_up_and_reach("a", "example.org", patience=0.8) == SILENCE, "the pattern is of names below"
    assert made.look_up_and_reach("a", "badexample.org", patience=0.8) == SILENCE


def test_an_alias_that_the_server_does_not_follow_is_known_by_the_next_question(made: NameSite) -> None:
    made.upstream.zone |= {"www.example.com": [("CNAME", "far.example.net", 60)]}
    made.up({"a": {"uses": [{"dns": "www.example.com"}]}, "b": {}})
    assert made.during(lambda: made.look_up("a", "www.example.com")) == []
    made.upstream.zone |= {"far.example.net": [("A", f"{NET4}.13", 60)]}
    assert made.look_up_and_reach("a", "far.example.net") == "outside"


def test_an_address_of_several_names_and_a_network(made: NameSite) -> None:
    for name in ("one", "two", "three"):
        made.upstream.zone[f"{name}.example.com"] = [("A", f"{NET4}.20", 60)]
    made.up(
        {
            "a": {"uses": [{"dns": "one.example.com", "port": PORT}]},
            "b": {"uses": [{"dns": "two.example.com"}, {"dns": "three.example.com"}]},
            "c": {"uses": [{"cidr": f"{NET4}.0/24", "port": PORT}]},
            "d": {"uses": [{"cidr": f"{NET4}.20/32"}]},
            "e": {"uses": [{"entity": "world"}]},
        }
    )
    asked: set[str] = set()
    for name in ("one", "two", "three", "one"):
        assert made.during(lambda name=name: made.look_up("e", f"{name}.example.com")) == [f"{NET4}.20"]  # type: ignore[misc]
        reached = {one for one in "abcde" if made.reach(one, f"{NET4}.20", patience=3) == "outside"}
        asked.add(name)
        assert reached == {*"acde", *("b" if asked & {"two", "three"} else "")}
    assert made.reach("a", f"{NET4}.20", 9090, patience=0.8) == SILENCE


def test_what_is_over_goes_but_not_for_connections_that_are_there(made: NameSite) -> None:
    made.upstream.zone["api.example.com"] = [("A", f"{NET4}.7", 1)]
    made.up({"a": {"uses": USES}, "b": {}})
    assert made.look_up_and_reach("a", "api.example.com") == "outside"
    with made.connected("a", f"{NET4}.7") as stream:
        time.sleep(2.1)
        made.site.run(made.names.look(made.observation.sweep))
        assert made.reach("a", f"{NET4}.7", patience=0.8) == SILENCE, "a new one"
        made.site.up({"a": {"uses": [*USES, {"dns": "new.example.com"}]}, "b": {}})
        stream.sendall(b"still there")
        assert stream.recv(64) == b"still there"


def test_a_new_agent_knows_what_the_last_one_knew(made: NameSite) -> None:
    made.upstream.zone["api.example.com"] = [("A", f"{NET4}.7", 60)]
    made.upstream.zone["late.example.com"] = [("A", f"{NET4}.8", 60)]
    made.up({"a": {"uses": [*USES, {"dns": "late.example.com"}]}, "b": {}})
    made.look_up_and_reach("a", "api.example.com")
    made.site.run(made.names.keep())
    made.look_up_and_reach("a", "late.example.com")  # and it dies before it has written that down
    made.restart_agent()
    learned = made.site.network.named.learned
    assert learned.addresses_of("api.example.com") == [f"{NET4}.7"]
    assert learned.addresses_of("late.example.com") == [f"{NET4}.8"]
    made.site.publish()
    assert made.reach("a", f"{NET4}.7") == made.reach("a", f"{NET4}.8") == "outside"


def test_an_answer_without_an_agent_is_given_at_once_and_told_to_the_next(made: NameSite) -> None:
    made.upstream.zone["api.example.com"] = [("A", f"{NET4}.7", 60)]
    made.up({"a": {"uses": USES}, "b": {}})
    made.stop_agent()
    assert quick(lambda: made.look_up("a", "api.example.com"), 0.5) == [f"{NET4}.7"]
    assert made.reach("a", f"{NET4}.7", patience=0.8) == SILENCE
    made.start_agent()
    made.during(lambda: until(lambda: made.reach("a", f"{NET4}.7", patience=0.8) == "outside"))
    assert made.reach("a", f"{NET4}.7") == "outside"


def test_an_agent_that_hangs_holds_an_answer_back_for_a_second_and_it_is_told(made: NameSite) -> None:
    made.upstream.zone["api.example.com"] = [("A", f"{NET4}.7", 60)]
    made.up({"a": {"uses": USES}, "b": {}})
    assert made.look_up_and_reach("a", "api.example.com") == "outside", "and tells what was late before"
    made.names.troubles = Troubles()
    began = time.monotonic()
    assert made.look_up("a", "api.example.com") == [f"{NET4}.7"], "its loop stands still here"
    assert announce.PATIENCE * 0.9 < time.monotonic() - began < announce.PATIENCE + 4
    assert made.look_up_and_reach("a", "api.example.com") == "outside"
    assert made.names.troubles.recent() == (1, 0)
    assert [one.name for one in made.site.run(made.observation.examine())] == ["names-late"]


def test_a_resolver_that_was_killed_and_one_whose_server_is_slow_or_dead(made: NameSite) -> None:
    made.upstream.zone["api.example.com"] = [("A", f"{NET4}.7", 60)]
    made.up({"a": {"uses": USES}, "b": {}})
    made.stop_resolver()
    assert made.during(lambda: made.look_up("a", "api.example.com", patience=0.3)) is None
    made.start_resolver()
    made.upstream.pause = 0.5
    assert made.look_up_and_reach("a", "api.example.com") == "outside"
    made.upstream.silent = True
    assert made.during(lambda: made.look_up("a", "api.example.com")) == [], "SERVFAIL, in time"
    assert made.reach("a", f"{NET4}.7") == "outside", "what is known holds on"


def test_the_rule_and_the_name_are_told(made: NameSite) -> None:
    made.upstream.zone["api.example.com"] = [("A", f"{NET4}.7", 60)]
    made.up({"a": {"uses": USES}, "b": {}})
    made.look_up_and_reach("a", "api.example.com")
    assert made.reach("b", f"{NET4}.7", patience=0.8) == SILENCE
    flow = made.last_flow("site/a", f"{NET4}.7")
    assert (flow.verdict, flow.destination.name, flow.destination.dns) == (
        "allow",
        "api.example.com",
        "api.example.com",
    )
    assert "a uses api.example.com:8080/tcp" in flow.rule_text
    denied = made.last_flow("site/b", f"{NET4}.7")
    assert (denied.verdict, denied.reason, denied.destination.name) == ("deny", "POLICY_EGRESS", "api.example.com")
    assert "b is declared: it reaches only what it uses" in denied.rule_text


def test_a_name_that_leads_into_the_mesh_or_to_the_node_opens_nothing(made: NameSite) -> None:
    made.up({"a": {"uses": [{"dns": "*.evil.example"}]}, "b": {}})
    inside = made.site.records["site-b-1"].spec.network
    made.upstream.zone["b.evil.example"] = [("A", inside.address, 60), ("AAAA", inside.address6, 60)]
    made.upstream.zone["node.evil.example"] = [("A", made.site.node_address(4), 60), ("A", "127.0.0.1", 60)]
    for name, kind in (("b", "A"), ("b", "AAAA"), ("node", "A")):
        assert made.during(lambda name=name, kind=kind: made.look_up("a", f"{name}.evil.example", kind))  # type: ignore[misc]
    assert {made.reach("a", one, patience=0.8) for one in (inside.address, inside.address6)} == {SILENCE}
    assert made.reach("a", made.site.node_address(4), patience=0.8) == SILENCE


def test_the_resolver_is_asked_by_ipv6(made: NameSite) -> None:
    made.upstream.zone["api.example.com"] = [("AAAA", f"{NET6}:7", 60)]
    made.up({"a": {"uses": USES}, "b": {}})
    assert made.during(lambda: made.look_up("a", "api.example.com", "AAAA", family=6)) == [f"{NET6}:7"]
    assert made.reach("a", f"{NET6}:7") == "outside"


def test_it_is_explained_by_name(made: NameSite) -> None:
    made.upstream.zone["api.example.com"] = [("AAAA", f"{NET6}:7", 60)]
    made.up({"a": {"uses": USES}, "b": {}})
    network, statuses = made.site.network, made.statuses()

    def explained(source: str, port: int) -> Explanation:
        return made.site.run(explain.answer(network, statuses, source, "API.example.com", port, "tcp"))

    with pytest.raises(NotFound, match=r"nobody has asked for API\.example\.com lately"):
        explained("site/a", PORT)
    made.during(lambda: made.look_up("a", "api.example.com", "AAAA"))
    allowed, port, other = explained("site/a", PORT), explained("site/a", 9090), explained("site/b", PORT)
    assert [one.verdict for one in (allowed, port, other)] == ["allow", "deny", "deny"]
    assert "a uses api.example.com:8080/tcp" in allowed.rule_text
    assert (allowed.destination.name, allowed.destination.address) == ("api.example.com", f"{NET6}:7")


CLUSTER = """
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: names}
spec:
  tier: Admin
  priority: 5
  subject: {pods: {namespaceSelector: {}, podSelector: {matchLabels: {org.whit.service: a}}}}
  egress:
  - {name: storage, action: Accept, to: [{domainNames: ["*.storage.example", one.example]}],
     protocols: [{tcp: {destinationPort: {number: 8080}}}]}
"""


def test_names_of_a_cluster_network_policy(made: NameSite) -> None:
    made.upstream.zone["x.y.storage.example"] = [("A", f"{NET4}.30", 60)]
    made.upstream.zone["one.example"] = [("A", f"{NET4}.31", 60)]
    made.up({"a": {}, "b": {}})
    assert made.look_up_and_reach("a", "one.example", patience=0.8) == SILENCE
    made.site.network.policies = read_policies(CLUSTER.replace("org.whit.service", SERVICE_NAME), "names.yaml")
    made.site.run(made.site.network.prepare([made.site.release.spec]))  # type: ignore[union-attr]
    made.site.publish()
    assert made.reach("a", f"{NET4}.31", patience=0.8) == SILENCE, "what it was told before is not known"
    assert made.look_up_and_reach("a", "one.example") == "outside"
    assert made.look_up_and_reach("a", "x.y.storage.example") == "outside"
    assert made.look_up_and_reach("b", "x.y.storage.example", patience=0.8) == SILENCE
    assert "rule 1 (storage)" in made.last_flow("site/a", f"{NET4}.30").rule_text
    made.site.network.policies = ()
    made.site.publish()
    assert made.reach("a", f"{NET4}.31", patience=0.8) == SILENCE
    assert len(made.site.network.named.learned) == 0


def test_no_packet_is_lost_while_names_share_addresses_and_policy_changes(
    made: NameSite, sample: Callable[[int, int], int]
) -> None:
    """Each new set of names goes into policy before an address has it, and nobody who may is denied meanwhile."""
    names = [f"n{number}.example.com" for number in range(6)]
    addresses = [f"{NET4}.{number}" for number in range(100, 110)]
    uses: list[dict[str, object]] = [{"dns": "*.example.com", "port": PORT}]
    made.up({"a": {"uses": uses}, "b": {"uses": [{"cidr": f"{NET4}.96/28"}]}, "c": {"uses": [{"entity": "world"}]}})
    before, lost = made.dropped(), list[str]()

    def ask_for_all() -> None:
        for seed in range(sample(60, 1000)):
            chance = random.Random(seed)
            name, address = chance.choice(names), chance.choice(addresses)
            made.upstream.zone[name] = [("A", address, 60)]
            if made.look_up("a", name) == [address]:
                lost.extend(one for one in "abc" if made.reach(one, address, patience=5) != "outside")

    async def change_all_the_while() -> None:
        asking = asyncio.create_task(asyncio.to_thread(ask_for_all))
        spec = made.site.release
        assert spec is not None
        for number in itertools.count():
            if asking.done():
                break
            more = tuple(UseSpec(dns=name) for name in names[: number % len(names)])
            service = spec.spec.services["a"].model_copy(update={"uses": (*spec.spec.services["a"].uses, *more)})
            changed = spec.spec.model_copy(update={"services": spec.spec.services | {"a": service}})
            made.site.release = spec.model_copy(update={"spec": changed})
            await made.write()
            await asyncio.sleep(0.02)
        await asking

    made.site.run(change_all_the_while())
    assert (lost, made.dropped() - before) == ([], 0)
    shared = made.site.network.shared_sets()
    assert len(shared) > 6


def test_sets_that_no_flow_bears_any_more_leave_policy(made: NameSite) -> None:
    for name in ("one", "two"):
        made.upstream.zone[f"{name}.example.com"] = [("A", f"{NET4}.40", 1)]
    made.up({"a": {"uses": [{"dns": "one.example.com"}, {"dns": "two.example.com"}]}, "b": {}})
    for name in ("one", "two"):
        assert made.look_up_and_reach("a", f"{name}.example.com") == "outside"
    both = frozenset({"one.example.com", "two.example.com"})
    time.sleep(2.1)
    made.site.run(made.names.look(Sweep()))
    network = made.site.network
    assert len(network.named.learned) == 0
    assert both in network.shared_sets(), "flows may have it"
    made.site.run(made.names.look(sweep(network.datapath.flows, Timeouts())))
    assert both in network.shared_sets(), "one has it"
    network.datapath.flows.delete_many([key for key, _ in network.datapath.flows.items()])
    made.site.run(made.names.look(sweep(network.datapath.flows, Timeouts())))
    assert network.shared_sets() == ()
    number = network.books.identities.number(title(both))
    assert not any(number == key.peer for key, _ in network.datapath.policies.items())
