"""Whom a service reaches: what both ends allow, by the same function that makes the tables."""

from __future__ import annotations

from whit.mesh.policy.reach import reached
from whit.mesh.policy.scenario import Scenario
from whit.model.app import AppSpec
from whit.model.policy import RESOLVER

DNS = ("tcp/53", "udp/53")
"""What everybody may ask the node's resolver on."""

APP = AppSpec.model_validate(
    {
        "name": "shop",
        "directory": "/",
        "services": {
            "web": {
                "image": "web",
                "ports": [{"target": 8080, "published": 8080}],
                "uses": [{"service": "api", "port": 8000}, {"cidr": "198.51.100.0/24", "port": 443}],
            },
            "api": {"image": "api", "uses": [{"service": "db", "port": 5432}, {"service": "api", "port": 7000}]},
            "db": {"image": "db"},
        },
        "policies": [],
    }
)


def named(scenario: Scenario, service: str, direction: str) -> dict[str, tuple[str, ...]]:
    book = scenario.book
    found = reached(scenario.sides, book.number(f"shop/{service}"), book.names, direction)  # type: ignore[arg-type]
    return {book.name(peer): ports for peer, ports in found.items() if peer != RESOLVER or ports != DNS}


def test_what_is_used_and_no_more() -> None:
    scenario = Scenario([APP])
    assert named(scenario, "web", "egress") == {"shop/api": ("tcp/8000",), "198.51.100.0/24": ("tcp/443",)}
    assert named(scenario, "api", "egress") == {"shop/db": ("tcp/5432",), "shop/api": ("tcp/7000",)}
    assert named(scenario, "db", "egress") == {}


def test_by_whom() -> None:
    scenario = Scenario([APP])
    assert named(scenario, "db", "ingress") == {"shop/api": ("tcp/5432",)}
    assert named(scenario, "api", "ingress") == {"shop/web": ("tcp/8000",), "shop/api": ("tcp/7000",)}
    by_web = named(scenario, "web", "ingress")
    assert by_web["world"] == by_web["host"] == ("tcp/8080",)
    assert not {"shop/api", "shop/db"} & by_web.keys()


def test_every_answer_is_that_of_the_single_question() -> None:
    """All ports that are named, and their neighbours, between all services."""
    scenario = Scenario([APP])
    ports = sorted({port + by for port in (443, 5432, 7000, 8000, 8080) for by in (-1, 0, 1)})
    services = [scenario.book.number(name) for name in scenario.services]
    for source in services:
        found = reached(scenario.sides, source, scenario.book.names, "egress")
        for destination in services:
            open_ports = {port for port in ports if scenario.passage(source, destination, 6, port)[0] == "allow"}
            assert open_ports == {int(text.removeprefix("tcp/")) for text in found.get(destination, ())}
