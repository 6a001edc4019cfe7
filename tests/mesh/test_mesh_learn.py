"""What services were seen to use, over the real log; and that what is learned lets exactly that through."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from mesh.test_mesh_check import shop
from mesh.test_mesh_replay import ADDRESSES, BOOT, DENIED, PRESENT, event

from whit.datapath import abi
from whit.datapath.address import Address
from whit.mesh.flows.log import FlowLog
from whit.mesh.policy.learn import MOST_ADDRESSES, learn
from whit.mesh.policy.recorded import gather
from whit.mesh.policy.scenario import Scenario
from whit.model.app import AppSpec
from whit.model.learned import Learned
from whit.model.policy import HOST, RESOLVER, WORLD
from whit.model.service import UseSpec

AUDITED = {"verdict": abi.Verdict.ALLOW, "flags": abi.PolicyFlags.AUDIT}


def learned(records: list[bytes], app: AppSpec | None = None, names: dict[str, str] | None = None) -> Learned:
    log = FlowLog()
    log.context.boot = BOOT
    for address, name in (names or {}).items():
        pair = Address.from_ip(ADDRESSES["web"]), Address.from_ip(address)
        log.learn_name(pair[0].packed, pair[1].packed, name)
    log.add(records)
    return learn(app or shop(), gather(log.backwards()), PRESENT.with_().book)


def elsewhere(text: str, port: int = 443) -> bytes:
    found = abi.FlowEvent.unpack(event("web", "world", port))
    return replace(found, destination=Address.from_ip(text)).pack()


def uses(found: Learned, service: str) -> list[str]:
    return [str(one.use) for one in found.services[service].uses]


def test_each_peer_and_port_is_a_line_with_what_was_seen() -> None:
    found = learned([*(event("web", "api", 80, at) for at in (1, 2, 3)), event("web", "db", 5432, 9)])
    (api, db) = found.services["web"].uses
    assert (str(api.use), api.count, api.last, api.declared) == ("api:80/tcp", 3, BOOT + timedelta(seconds=3), True)
    assert (str(db.use), db.count, db.declared) == ("db:5432/tcp", 1, False)
    assert (found.flows, found.since) == (4, BOOT + timedelta(seconds=1))


def test_what_is_declared_and_was_never_seen_is_told() -> None:
    found = learned([event("api", "db", 5432)])
    assert uses(found, "api") == ["db:5432/tcp"]
    assert [str(one) for one in found.services["web"].unseen] == ["api:80/tcp"]
    assert "db" not in found.services, "it declares nothing, and was seen to use nothing"


def test_denied_flows_are_not_learned_and_audited_ones_are() -> None:
    found = learned([event("web", "db", 1, **DENIED), event("web", "db", 2, **AUDITED)])
    assert uses(found, "web") == ["db:2/tcp"]


def test_the_world_is_told_by_name_by_address_or_as_a_whole() -> None:
    named = learned([elsewhere("203.0.113.7"), elsewhere("203.0.113.8", 80)], names={"203.0.113.7": "api.example.com"})
    assert uses(named, "web") == ["203.0.113.8/32:80/tcp", "api.example.com:443/tcp"]
    many = learned([elsewhere(f"198.51.100.{number}") for number in range(MOST_ADDRESSES + 1)])
    assert uses(many, "web") == ["world:443/tcp"]
    assert (many.services["web"].uses[0].count, many.services["web"].uses[0].addresses) == (9, 9)


def test_addresses_of_one_name_are_one_line() -> None:
    names = {"203.0.113.7": "api.example.com", "203.0.113.8": "api.example.com"}
    (line,) = learned([elsewhere(address) for address in names], names=names).services["web"].uses
    assert (str(line.use), line.count, line.addresses) == ("api.example.com:443/tcp", 2, 2)


def test_a_wider_declaration_covers_what_was_seen() -> None:
    services = {
        "web": {"image": "i", "uses": [{"dns": "*.example.com"}, {"cidr": "203.0.113.0/24"}, {"service": "api"}]},
        "api": {"image": "i"},
    }
    records = [elsewhere("198.51.100.1"), elsewhere("203.0.113.8"), event("web", "api", 9)]
    found = learned(records, shop(**services), {"198.51.100.1": "api.example.com"})
    assert [one.declared for one in found.services["web"].uses] == [True, True, True]
    assert found.services["web"].unseen == ()


def test_the_resolver_is_no_use_and_the_host_is() -> None:
    resolver = replace(abi.FlowEvent.unpack(event("web", "host", 53)), destination_identity=RESOLVER, protocol=17)
    found = learned([resolver.pack(), event("web", "host", 9100)])
    assert uses(found, "web") == ["host:9100/tcp"]


def test_what_uses_cannot_say_is_told_apart() -> None:
    found = learned([event("web", "api", 7, protocol=1, icmp_type=8)])
    assert found.services["web"].uses == ()
    assert found.services["web"].others == ("shop/api by icmp",)


def test_what_is_learned_lets_exactly_through_what_was_seen() -> None:
    """Of an open app, in which everybody reaches everybody."""
    records = [event("web", "api", 80), event("api", "db", 5432), event("api", "db", 53, protocol=17)]
    records += [elsewhere("203.0.113.7"), event("db", "host", 9100)]
    found = learned(records, shop("open"))
    services = shop().services
    tight = {
        name: service.model_copy(
            update={"uses": tuple(one.use for one in found.services[name].uses) if name in found.services else ()}
        )
        for name, service in services.items()
    }
    scenario = Scenario([shop().model_copy(update={"services": tight})], known=PRESENT.with_().book)
    numbers = {name: scenario.book.numbers[f"shop/{name}"] for name in services} | {"host": HOST}
    numbers["there"] = scenario.outsider(Address.from_ip("203.0.113.7").ip)
    numbers["elsewhere"] = WORLD
    passing = {
        (one, two, protocol, port)
        for one in services
        for two in numbers
        for protocol, port in ((6, 80), (6, 443), (6, 5432), (17, 53), (6, 53), (6, 9100))
        if scenario.passage(numbers[one], numbers[two], protocol, port)[0] == "allow"
    }
    assert passing == {
        ("web", "api", 6, 80),
        ("api", "db", 6, 5432),
        ("api", "db", 17, 53),
        ("web", "there", 6, 443),
        ("db", "host", 6, 9100),
    }


def test_a_line_says_the_protocol() -> None:
    found = learned([event("web", "api", 53, protocol=17)])
    assert found.services["web"].uses[0].use == UseSpec(service="api", port=53, protocol="udp")
