"""Policies of an app file: what each form means, and what is told of those that mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.formats.app.appfile import load_app
from whit.formats.problems import InvalidApp
from whit.mesh.policy.scenario import Scenario
from whit.model.app import AppSpec
from whit.model.policy import PolicyPort, PolicySpec

SERVICES = """\
name: shop
services:
  web: {image: i, uses: [api, db]}
  api: {image: i, expose: [{name: http, port: 8000}]}
  db: {image: i, labels: {tier: data}}
policies:
"""


def load(tmp_path: Path, policies: str, services: str = SERVICES) -> AppSpec:
    file = tmp_path / "whit.yaml"
    file.write_text(services + "".join(f"  {line}\n" for line in policies.splitlines()))
    return load_app(file)


def one(tmp_path: Path, text: str) -> PolicySpec:
    (found,) = load(tmp_path, text).policies
    return found


def peers(tmp_path: Path, text: str) -> list[str]:
    (rule,) = one(tmp_path, f"p:\n  egress:\n    - {{allow: {text}}}").rules
    return [str(peer) for peer in rule.peers]


def test_a_policy_with_everything(tmp_path: Path) -> None:
    found = one(
        tmp_path,
        """\
first:
  for: [web, api]
  tier: admin
  priority: 4
  mode: audit
  ingress: []
  egress:
    - {pass: world, name: later}
    - deny: everybody
      ports: icmp
""",
    )
    assert (found.app, found.name, found.tier, found.priority, found.mode) == ("shop", "first", "admin", 4, "audit")
    assert (str(found.services), found.directions) == ("whit.service in (web, api)", ("ingress", "egress"))
    assert found.origin == f"{tmp_path / 'whit.yaml'}:7"
    assert [str(rule) for rule in found.rules] == ["pass to world", "deny to everybody at icmp"]
    assert [rule.origin.rpartition(":")[2] for rule in found.rules] == ["14", "15"]
    assert found.title == "admin policy shop/first"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("api", ["services whit.service=api"]),
        ("[api, db]", ["services whit.service=api", "services whit.service=db"]),
        ("{service: [api, db]}", ["services whit.service in (api, db)"]),
        ("{labels: {tier: data}}", ["services tier=data"]),
        ("{labels: {tier: [data, cache]}}", ["services tier in (data, cache)"]),
        ("{app: other}", ["every service of apps kubernetes.io/metadata.name=other"]),
        ("{app: other, service: x}", ["services whit.service=x of apps kubernetes.io/metadata.name=other"]),
        ("{app: '*', labels: {tier: data}}", ["services tier=data of every app"]),
        ("{cidr: 10.0.0.0/8, except: 10.1.0.0/16}", ["10.0.0.0/8 except 10.1.0.0/16"]),
        ("{cidr: '2001:db8::/32'}", ["2001:db8::/32"]),
        ("{dns: '*.Example.com.'}", ["*.example.com"]),
        ("[world, host]", ["world", "host"]),
        ("node", ["host"]),
        ("everybody", []),
    ],
)
def test_peers(tmp_path: Path, text: str, wanted: list[str]) -> None:
    assert peers(tmp_path, text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("5432", PolicyPort(port=5432)),
        ("53/udp", PolicyPort(port=53, protocol="udp")),
        ("8000-8100", PolicyPort(port=8000, end_port=8100)),
        ("7000-7010/sctp", PolicyPort(port=7000, end_port=7010, protocol="sctp")),
        ("http", PolicyPort(port="http")),
        ("dns/udp", PolicyPort(port="dns", protocol="udp")),
        ("udp", PolicyPort(protocol="udp")),
        ("icmp", PolicyPort(protocol="icmp")),
        ("icmp/8", PolicyPort(protocol="icmp", icmp_type=8)),
        ("icmpv6/1:4", PolicyPort(protocol="icmpv6", icmp_type=1, icmp_code=4)),
    ],
)
def test_ports(tmp_path: Path, text: str, wanted: PolicyPort) -> None:
    (rule,) = one(tmp_path, f"p:\n  ingress:\n    - {{allow: api, ports: ['{text}']}}").rules
    assert rule.ports == (wanted,)


def test_they_decide_in_the_engine(tmp_path: Path) -> None:
    app = load(
        tmp_path,
        """\
db:
  for: {labels: {tier: data}}
  ingress:
    - {deny: web, ports: [6000-6010]}
api:
  for: api
  ingress: [{allow: everybody, ports: [http]}]
""",
    )
    scenario = Scenario([app])
    numbers = scenario.book.numbers

    def passes(destination: str, port: int) -> str:
        return scenario.passage(numbers["shop/web"], numbers[f"shop/{destination}"], 6, port)[0]

    assert [passes("db", port) for port in (5999, 6000, 6010, 6011)] == ["allow", "deny", "deny", "allow"]
    assert passes("api", 8000) == "allow"


def test_the_clusters_tiers_come_before_those_of_apps(tmp_path: Path) -> None:
    app = load(tmp_path, "p:\n  tier: admin\n  priority: 0\n  egress:\n    - {allow: api}")
    every = {"direction": "egress", "action": "deny", "peers": [{"apps": {}}]}
    late = {"name": "late", "tier": "admin", "priority": 9, "apps": {}, "directions": ["egress"], "rules": [every]}
    scenario = Scenario([app], [PolicySpec.model_validate(late)])
    numbers = scenario.book.numbers
    assert scenario.passage(numbers["shop/web"], numbers["shop/api"], 6, 80)[0] == "deny"


def test_port_names_come_from_expose_and_from_published_ports(tmp_path: Path) -> None:
    services = SERVICES.replace("db: {image: i,", "db: {image: i, ports: [{target: 5432, published: 15432, name: pg}],")
    app = load(tmp_path, "p:\n  for: db\n  ingress:\n    - {allow: web, ports: [pg]}", services)
    scenario = Scenario([app])
    numbers = scenario.book.numbers
    found = scenario.decide(numbers["shop/db"], "ingress", numbers["shop/web"], 6, 5432)
    assert found is not None
    assert found.text.startswith("policy shop/p rule 1: allow from services whit.service=web at pg/tcp")


MISTAKES = [
    ("p: {}", "7:3: policies.p: has neither ingress nor egress (add one; [] denies everybody)"),
    ("p: [a]", "7:6: policies.p: must be a table of keys, and is a list"),
    ("p: {to: web}", "7:7: policies.p.to: is not a known key"),
    ("p: {ingres: []}", "policies.p.ingres: is not a known key (did you mean ingress or egress?)"),
    ("p: {for: wep, ingress: []}", "7:12: policies.p.for: there is no service 'wep' (did you mean web?)"),
    ("p: {for: [], ingress: []}", "7:12: policies.p.for: names nobody"),
    ("p: {for: {label: {}}, ingress: []}", "policies.p.for.label: is not a known key (did you mean labels?)"),
    ("p: {tier: top, ingress: []}", "7:13: policies.p.tier: 'top' is not known (known: admin, default, baseline)"),
    ("p: {priority: 3, ingress: []}", "7:7: policies.p.priority: policies of the default tier have no order"),
    ("p: {tier: admin, priority: 1001, ingress: []}", "7:30: policies.p.priority: input should be less than or equal"),
    ("p: {mode: watch, ingress: []}", "7:13: policies.p.mode: 'watch' is not known (known: enforce, audit)"),
    ("p: {ingress: web}", "7:16: policies.p.ingress: must be a list, and is text"),
    ("p: {ingress: [web]}", "7:17: policies.p.ingress[0]: must be a table of keys, and is text"),
    ("p: {ingress: [{}]}", "7:17: policies.p.ingress[0]: says exactly one of allow, deny and pass"),
    ("p: {ingress: [{allow: web, deny: api}]}", "says exactly one of allow, deny and pass"),
    ("p: {ingress: [{from: web}]}", "policies.p.ingress[0].from: is not a known key"),
    ("p: {ingress: [{pass: web}]}", "7:18: policies.p.ingress[0].pass: the default tier has no pass"),
    ("p: {ingress: [{allow: []}]}", "names nobody (write everybody for every peer)"),
    ("p: {ingress: [{allow: [everybody, web]}]}", "everybody is among others (write everybody alone)"),
    ("p: {ingress: [{allow: word}]}", "7:25: policies.p.ingress[0].allow: there is no service 'word'"),
    ("p: {ingress: [{allow: {}}]}", "names nobody (name service, labels, app, cidr or dns)"),
    (
        "p: {ingress: [{allow: {dns: a.example}}]}",
        "7:26: policies.p.ingress[0].allow.dns: who comes is not known by name",
    ),
    ("p: {egress: [{allow: {dns: 'a b'}}]}", "policies.p.egress[0].allow.dns: 'a b' is no name of the DNS"),
    ("p: {egress: [{allow: {dns: a.example, app: b}}]}", "a name stands alone (write {dns: api.example.com})"),
    ("p: {ingress: [{allow: {service: web, labels: {a: b}}}]}", "has both service and labels"),
    (
        "p: {ingress: [{allow: {cidr: 10.0.0.1/8}}]}",
        "7:32: policies.p.ingress[0].allow.cidr: '10.0.0.1/8' is not a network",
    ),
    ("p: {ingress: [{allow: {cidr: 10.0.0.0/8, except: 11.0.0.0/16}}]}", "11.0.0.0/16 is not inside 10.0.0.0/8"),
    ("p: {ingress: [{allow: {except: 11.0.0.0/16}}]}", "a network is a cidr, and no service"),
    ("p: {ingress: [{allow: {cidr: 10.0.0.0/8, app: x}}]}", "a network is a cidr, and no service"),
    (
        "p: {ingress: [{allow: web, ports: []}]}",
        "policies.p.ingress[0].ports: is empty (leave the key out for every one)",
    ),
    (
        "p: {ingress: [{allow: web, ports: [80/icmp]}]}",
        "7:38: policies.p.ingress[0].ports[0]: '80/icmp' is not a port (write it as",
    ),
    ("p: {ingress: [{allow: web, ports: [0]}]}", "0 is not between 1 and 65535"),
    (
        "p: {ingress: [{allow: web, ports: [90-80]}]}",
        "the end of a range needs a number as its beginning that is not greater",
    ),
    ("p: {ingress: [{allow: web, ports: [icmp/256]}]}", "input should be less than or equal to 255"),
    ("p: {ingress: [{allow: web, ports: [HTTP]}]}", "'HTTP' is not a port"),
    ("p/q: {ingress: []}", "string should match pattern"),
]


@pytest.mark.parametrize(("text", "told"), MISTAKES)
def test_mistakes_are_told_with_place_and_remedy(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidApp) as caught:
        load(tmp_path, text)
    assert told in str(caught.value)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidApp) as caught:
        load(tmp_path, "p: {for: x, ingress: []}\nq: {ingress: [{allow: y}, {allow: z}]}")
    assert [found.place.line for found in caught.value.problems] == [7, 8, 8]


def test_a_service_called_as_a_word_is_refused(tmp_path: Path) -> None:
    services = SERVICES.replace("  api:", "  world: {image: i}\n  api:")
    with pytest.raises(InvalidApp, match="world is also a service of this app"):
        load(tmp_path, "p: {ingress: [{allow: world}]}", services)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[a]", "'a' is not a port (write it as 80, 53/udp, 8000-8010"),
        ("[90-80]", "90-80 goes down"),
        ("[0]", "input should be greater than or equal to 1"),
        ("[{name: http}]", "has no port"),
        ("[{port: 80, name: HTTP}]", "'HTTP' is no port's name"),
        ("[{port: 80, protocol: icmp}]", "'icmp' is not known (known: tcp, udp, sctp)"),
        ("[{port: 80, target: 3}]", "services.api.expose[0].target: is not a known key"),
    ],
)
def test_exposed_ports_that_are_none(tmp_path: Path, text: str, told: str) -> None:
    services = SERVICES.replace("[{name: http, port: 8000}]", text)
    with pytest.raises(InvalidApp) as caught:
        load(tmp_path, "p: {ingress: []}", services)
    assert told in str(caught.value)
