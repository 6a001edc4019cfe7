"""What is found about policies before they are applied; and that a scenario answers as the compiled tables do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mesh.compiled import compiled
from mesh.policy_reference import Question, look_up
from mesh.test_mesh_policies import APPS, PODS, PORTS, sets

from whit.mesh.policy.check import check
from whit.mesh.policy.scenario import Present, Scenario
from whit.model.app import AppSpec
from whit.model.finding import Candidate, Finding
from whit.model.policy import PolicySpec

SERVICES: dict[str, Any] = {
    "web": {"image": "i", "uses": [{"service": "api", "port": 80}]},
    "api": {"image": "i", "expose": [{"name": "http", "port": 80}], "uses": [{"service": "db", "port": 5432}]},
    "db": {"image": "i", "labels": {"tier": "data"}},
}
PLACES = {"shop/web": "whit.yaml:2", "shop/web.uses[0]": "whit.yaml:4", "shop/api.uses[0]": "whit.yaml:8"}


def shop(mode: str = "declared", **services: Any) -> AppSpec:
    found = {"name": "shop", "mode": mode, "directory": "/", "services": services or SERVICES}
    return AppSpec.model_validate(found)


def policy(name: str, **fields: Any) -> PolicySpec:
    rules = fields.pop("rules", ())
    given = {"name": name, "directions": sorted({rule["direction"] for rule in rules}) or ["ingress"], "rules": rules}
    return PolicySpec.model_validate(given | {"app": "shop", "origin": f"{name}.yaml:1"} | fields)


def labelled(**labels: str) -> dict[str, Any]:
    return {"services": {"match_labels": {key.replace("_", "."): value for key, value in labels.items()}}}


def named(service: str) -> dict[str, Any]:
    return {"services": {"match_labels": {"whit.service": service}}}


def findings(*policies: PolicySpec, app: AppSpec | None = None) -> list[Finding]:
    return check(Candidate(apps=(app or shop(),), policies=policies, places=PLACES), Present())


def kinds(found: list[Finding]) -> list[tuple[str, str, str]]:
    return [(one.kind, one.severity, one.place) for one in found]


def admin(name: str, rules: list[dict[str, Any]], **fields: Any) -> PolicySpec:
    return policy(name, app="", tier="admin", rules=rules, **fields)


def test_a_sound_app_has_no_findings() -> None:
    assert findings() == []


def test_a_rule_behind_a_wider_one_never_decides() -> None:
    every = {"apps": {}}
    deny = {"direction": "ingress", "action": "deny", "peers": [every], "origin": "a.yaml:5"}
    allow = {"direction": "ingress", "action": "allow", "peers": [every | named("web")], "origin": "a.yaml:9"}
    apps = {"apps": {}, "services": named("db")["services"]}
    (found,) = findings(admin("a", [deny, allow], **apps), app=shop("open", web={"image": "i"}, db={"image": "i"}))
    assert kinds([found]) == [("shadowed", "problem", "a.yaml:9")]
    assert "deny from every service of every app [a.yaml:5]" in found.text


def test_priority_decides_which_of_two_policies_is_shadowed() -> None:
    every = {"direction": "egress", "action": "deny", "peers": [{"entity": "world"}]}
    allow = {"direction": "egress", "action": "allow", "peers": [{"entity": "world"}], "ports": [{"port": 443}]}
    late, early = admin("late", [every], priority=2), admin("early", [allow], priority=1)
    assert findings(late, early) == []
    (found,) = findings(late, early.model_copy(update={"priority": 3}))
    assert kinds([found]) == [("shadowed", "problem", "early.yaml:1")]


def test_a_rule_that_repeats_another_is_a_remark() -> None:
    rule = {"direction": "ingress", "peers": [named("web")], "ports": [{"port": 80}]}
    target = named("api")
    found = findings(policy("a", rules=[rule], **target), policy("b", rules=[rule], **target))
    assert kinds(found) == [("redundant", "remark", "b.yaml:1")]
    assert "policy shop/a rule 1" in found[0].text


def test_ranges_together_can_shadow_a_rule_and_a_gap_lets_it_decide() -> None:
    def denied(first: int, last: int) -> dict[str, Any]:
        ports = [{"port": first, "end_port": last}]
        return {"direction": "ingress", "action": "deny", "peers": [named("web")], "ports": ports}

    allow = {"direction": "ingress", "peers": [named("web")], "ports": [{"port": 8000, "end_port": 8999}]}
    open_app = shop("open", web={"image": "i"}, db={"image": "i"})
    target = named("db")

    def shadowed(*rules: dict[str, Any]) -> bool:
        found = findings(policy("a", rules=[*rules, allow], **target), app=open_app)
        return any(one.kind == "shadowed" for one in found)

    assert shadowed(denied(8000, 8499), denied(8500, 8999))
    assert not shadowed(denied(8000, 8499), denied(8501, 8999))


def test_audited_rules_are_judged_as_if_they_held() -> None:
    rule = {"direction": "ingress", "peers": [named("web")], "ports": [{"port": 81}]}
    assert findings(policy("a", rules=[rule], mode="audit", **named("db"))) == []


def test_pass_has_a_say_unless_something_before_it_decides() -> None:
    every = {"apps": {}}
    skip = {"direction": "egress", "action": "pass", "peers": [every]}
    deny = {"direction": "egress", "action": "deny", "peers": [every]}
    assert ("shadowed", "problem", "a.yaml:1") in kinds(findings(admin("a", [deny, skip])))
    found = findings(admin("a", [skip, deny]))
    assert [one.rule for one in found if one.kind == "shadowed"] == [
        "admin policy a rule 2: deny to every service of every app"
    ]


def test_what_one_end_opens_alone_is_told_with_the_rule_of_the_other() -> None:
    admits = {"direction": "ingress", "peers": [named("web")], "ports": [{"port": 5432}]}
    reaches = {"direction": "egress", "peers": [named("db")], "ports": [{"port": 5432}]}
    (found,) = findings(policy("in", rules=[admits], **named("db")))
    assert kinds([found]) == [("unreachable", "problem", "in.yaml:1")]
    assert "shop/web to shop/db" in found.text
    assert "shop/web is declared" in found.text
    (found,) = findings(policy("out", rules=[reaches], **named("web")))
    assert kinds([found]) == [("unreachable", "problem", "out.yaml:1")]
    assert "shop/db is declared" in found.text
    assert findings(policy("in", rules=[admits], **named("db")), policy("out", rules=[reaches], **named("web"))) == []


def test_a_use_that_another_rule_denies_is_told_at_its_own_line() -> None:
    deny = {"direction": "ingress", "action": "deny", "peers": [named("api")]}
    found = findings(policy("shut", rules=[deny], **labelled(tier="data")))
    assert ("unreachable", "problem", "whit.yaml:8") in kinds(found)


def test_a_blocked_resolver_is_told_for_those_who_reach_what_has_names() -> None:
    deny = {"direction": "egress", "action": "deny", "ports": [{"port": 53, "protocol": "udp"}]}
    found = findings(policy("dns", rules=[deny]))
    assert {(one.rule, one.severity) for one in found if one.kind == "dns-blocked"} == {
        ("shop/web", "problem"),
        ("shop/api", "problem"),
        ("shop/db", "remark"),
    }
    assert "port 53/udp)" in found[0].text


def test_default_deny_alone_does_not_block_the_resolver() -> None:
    assert findings(policy("dns", rules=[], directions=["egress"])) == []


@pytest.mark.parametrize(
    ("fields", "rule", "text"),
    [
        (labelled(tier="cache"), {"peers": [named("web")]}, "no service has the labels tier=cache"),
        ({"app": "shops"}, {"peers": [named("web")]}, "there is no app shops; there are: shop"),
        (named("api"), {"peers": [labelled(role="batch")]}, "its peer, services role=batch, is nobody"),
    ],
)
def test_selectors_that_select_nothing(fields: Any, rule: Any, text: str) -> None:
    found = findings(policy("a", rules=[{"direction": "ingress", **rule}], **fields))
    assert [one.text for one in found if one.kind == "selects-nothing"] == [text]
    assert all(one.place == "a.yaml:1" for one in found)


def test_ports_that_nobody_has() -> None:
    def rule(**port: Any) -> dict[str, Any]:
        return {"direction": "ingress", "peers": [named("web")], "ports": [port]}

    def told(one: dict[str, Any], service: str) -> list[tuple[str, str]]:
        found = findings(policy("a", rules=[one], **named(service)))
        return [(one.severity, one.text) for one in found if one.kind == "no-listener"]

    assert told(rule(port="http"), "api") == []
    assert told(rule(port=80), "api") == []
    assert told(rule(port="grpc"), "api") == [("problem", "none of shop/api has a port named grpc/tcp")]
    assert told(rule(port=8080), "api") == [("remark", "none of shop/api lists the port 8080/tcp")]
    assert told(rule(port=8080), "db") == [], "it lists no ports, so that it may have any"


def test_a_denial_of_ports_that_nobody_has_is_meant_so() -> None:
    rule = {"direction": "ingress", "action": "deny", "peers": [named("web")], "ports": [{"port": 6000}]}
    assert findings(policy("a", rules=[rule], **named("api"))) == []


def test_where_instances_are_seen_to_listen_counts_with_what_is_listed() -> None:
    def told(port: int, listening: dict[str, frozenset[tuple[int, int]]]) -> list[tuple[str, str]]:
        services = SERVICES | {"db": {"image": "i"}, "api": {"image": "i", "uses": [{"service": "db", "port": port}]}}
        candidate = Candidate(apps=(shop(**services),), places=PLACES)
        return [(one.place, one.text) for one in check(candidate, Present(listening=listening))]

    seen = {"shop/db": frozenset({(6, 5432)})}
    assert told(5432, seen) == []
    assert told(5433, seen) == [("whit.yaml:8", "none of shop/db listens at the port 5433/tcp now")]
    assert told(5433, {}) == []
    assert told(5433, {"shop/db": frozenset()}) != []


def test_beside_what_runs_only_what_is_new_is_told_of_others() -> None:
    deny = {"direction": "ingress", "action": "deny", "peers": [named("api")]}
    there = policy("there", rules=[{"direction": "ingress", "peers": [labelled(role="gone")]}], **named("web"))
    present = Present((shop(),), (there,))
    found = check(Candidate(policies=(policy("shut", rules=[deny], **named("db")),)), present)
    assert {(one.kind, one.rule) for one in found} == {("unreachable", "shop/api uses db:5432/tcp")}


@settings(max_examples=60, deadline=None)
@given(sets, st.sampled_from(PODS), st.sampled_from(PODS), st.sampled_from(PORTS))
def test_a_scenario_decides_as_the_tables_do(
    found: list[PolicySpec], one: Any, other: Any, at: tuple[int, int]
) -> None:
    tables, scenario = compiled(APPS, found), Scenario(APPS, found)
    subject, peer = tables.number(one.title), tables.number(other.title)
    for direction in ("egress", "ingress"):
        asked = look_up(tables.table, Question(subject, direction, peer, *at))
        judged = scenario.decide(subject, direction, peer, *at)  # type: ignore[arg-type]
        if judged is None:
            assert asked.rule == 0
        else:
            assert (judged.text, judged.deny and not judged.audit) == (
                tables.rules.texts()[asked.rule],
                not asked.passes,
            )
