"""Networks of Compose: who shares one may talk, an internal one leads nowhere else; the rest is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.formats.app.appfile import load_app
from whit.formats.problems import InvalidApp
from whit.mesh.policy.scenario import Scenario
from whit.model.app import AppSpec
from whit.model.policy import HOST, WORLD, PolicySpec

COMPOSE = """\
name: shop
services:
  web: {image: i, ports: ["8080:80"], networks: [front]}
  api: {image: i, networks: {front: , back: {}}}
  db: {image: i, ports: ["5432:5432"], networks: [back]}
  other: {image: i}
networks:
  front:
  back: {internal: true, driver: bridge, labels: [a=b]}
"""


def load(tmp_path: Path, text: str = COMPOSE, name: str = "compose.yaml") -> AppSpec:
    (tmp_path / name).write_text(text)
    return load_app(tmp_path / name)


def told(tmp_path: Path, text: str, name: str = "compose.yaml") -> str:
    with pytest.raises(InvalidApp) as caught:
        load(tmp_path, text, name)
    return str(caught.value)


class Asked:
    """What a scenario says, by names."""

    def __init__(self, app: AppSpec, *policies: PolicySpec) -> None:
        self.scenario = Scenario([app], policies)

    def number(self, name: str) -> int:
        return {"world": WORLD, "host": HOST}.get(name) or self.scenario.book.numbers[f"shop/{name}"]

    def __call__(self, source: str, destination: str, port: int = 80) -> tuple[str, str]:
        return self.scenario.passage(self.number(source), self.number(destination), 6, port)


def test_who_shares_a_network_may_talk(tmp_path: Path) -> None:
    ask = Asked(load(tmp_path))
    services = ("web", "api", "db", "other")
    allowed = {(one, two) for one in services for two in services if ask(one, two)[0] == "allow"}
    pairs = {("web", "api"), ("api", "web"), ("api", "db"), ("db", "api")}
    assert allowed == pairs | {(name, name) for name in services}
    assert ask("web", "api")[1] == "shop/web to shop/api: undeclared, the app is open in front"
    assert ask("web", "db")[1] == (
        "shop/web is open: it reaches its own networks (front) and the world; none of 5 rules matches"
    )


def test_an_internal_network_does_not_lead_to_the_world(tmp_path: Path) -> None:
    ask = Asked(load(tmp_path))
    assert [ask(name, "world")[0] for name in ("web", "api", "db", "other")] == ["allow", "allow", "deny", "allow"]
    assert ask("world", "web")[0] == "allow"
    assert (ask("world", "db", 5432)[0], ask("host", "db", 5432)[0]) == ("deny", "allow")


def test_an_app_without_networks_is_as_it_was(tmp_path: Path) -> None:
    app = load(tmp_path, "name: shop\nservices: {web: {image: i}, db: {image: i}}\n")
    assert app.networks_of("web") == ()
    assert Asked(app)("web", "db") == ("allow", "shop/web to shop/db: undeclared, the app is open")


def test_the_default_network_can_be_internal(tmp_path: Path) -> None:
    app = load(
        tmp_path, "name: shop\nservices: {web: {image: i}, db: {image: i}}\nnetworks: {default: {internal: true}}\n"
    )
    ask = Asked(app)
    assert (ask("web", "db")[0], ask("web", "world")[0]) == ("allow", "deny")


def test_networks_are_labels_that_policies_select(tmp_path: Path) -> None:
    deny = {
        "direction": "egress",
        "action": "deny",
        "peers": [{"services": {"match_labels": {"whit.network/back": ""}}}],
    }
    policy = {"name": "p", "app": "shop", "directions": ["egress"], "rules": [deny]}
    ask = Asked(load(tmp_path), PolicySpec.model_validate(policy))
    assert ask("api", "db")[1].startswith("policy shop/p rule 1")


def test_in_a_declared_app_a_use_is_needed_too(tmp_path: Path) -> None:
    text = COMPOSE.replace("networks: [front]}", "networks: [front], uses: [api]}", 1)
    ask = Asked(load(tmp_path, text, "whit.yaml"))
    assert (ask("web", "api")[0], ask("api", "db")[0]) == ("allow", "deny")


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ("[fron]", "3:50: services.web.networks[0]: there is no network 'fron' (did you mean front?; add it"),
        ("{front: {aliases: [www]}}", "services.web.networks.front.aliases: is not honoured (a service has one name"),
        (
            "{front: {ipv4_address: 10.0.0.2}}",
            "3:58: services.web.networks.front.ipv4_address: is not honoured (addresses",
        ),
        ("{front: {ipv6_address: '::2'}}", "services.web.networks.front.ipv6_address: is not honoured"),
        ("{front: {mac_address: x}}", "services.web.networks.front.mac_address: is not honoured"),
        (
            "{front: {priority: 3}}",
            "services.web.networks.front.priority: is not honoured (an instance has one interface",
        ),
        ("{front: {alias: x}}", "services.web.networks.front.alias: is not a known key (did you mean aliases?)"),
        ("front", "must be a list, and is text"),
    ],
)
def test_mistakes_of_a_service(tmp_path: Path, networks: str, message: str) -> None:
    assert message in told(tmp_path, COMPOSE.replace("networks: [front]", f"networks: {networks}", 1))


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ("{driver: overlay}", "8:19: networks.front.driver: only bridge is honoured"),
        ("{external: true}", "8:11: networks.front.external: is not honoured (networks belong to an app"),
        ("{ipam: {}}", "networks.front.ipam: is not honoured (addresses are given by the mesh"),
        ("{name: x}", "networks.front.name: is not honoured (a network is named by its key"),
        ("{internal: maybe}", "'maybe' is not true or false"),
        ("{inter: true}", "networks.front.inter: is not a known key"),
        ("[a]", "must be a table of keys, and is a list"),
    ],
)
def test_mistakes_of_a_network(tmp_path: Path, front: str, message: str) -> None:
    assert message in told(tmp_path, COMPOSE.replace("  front:\n", f"  front: {front}\n"))


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("db", "shares no network with db (add web to one of back)"),
        ("other", "shares no network with other (add web to one of default)"),
    ],
)
def test_uses_of_who_shares_no_network(tmp_path: Path, use: str, message: str) -> None:
    text = COMPOSE.replace("networks: [front]}", f"networks: [front], uses: [{use}]}}", 1)
    assert f"3:65: services.web.uses[0]: {message}" in told(tmp_path, text, "whit.yaml")


def test_a_use_of_the_world_in_an_internal_network(tmp_path: Path) -> None:
    text = COMPOSE.replace("networks: [back]}", "networks: [back], uses: [world, host]}")
    message = told(tmp_path, text)
    assert "services.db.uses[0]: leads out of the app, and all its networks are internal" in message
    assert "uses[1]" not in message
