"""Policies of an app, as its file has them under `policies`: for whom, and who is allowed or denied at which ports.

    policies:
      db-from-api:
        for: db
        ingress:
          - {allow: api, ports: [5432]}

What they mean is the business of mesh/policy/policies.py, for these as for those of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from whit.base.errors import InputError
from whit.formats import shapes
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Entry, Listing, Table, Value
from whit.formats.policy.ports import read_policy_port
from whit.formats.problems import Problems, make, near
from whit.model.policy import Direction, PeerSpec, PolicyRuleSpec, PolicySpec, dns_name
from whit.model.selector import APP_NAME, SERVICE_NAME, LabelSelector, Requirement

DIRECTIONS: tuple[Direction, ...] = ("ingress", "egress")
ACTIONS = ("allow", "deny", "pass")
TIERS = ("admin", "default", "baseline")
EVERYBODY = "everybody"
WORDS = {"world": "world", "host": "host", "node": "host", EVERYBODY: None}
"""Who is no service; `node` is another word for the host."""

KEYS = {
    "for": "The services that it is for: a name, a list of names, or `{labels: {…}}`; every service if left out.",
    "tier": "`admin`, `default` or `baseline`: in which order policies are asked.",
    "priority": "Of admin and baseline: lower ones are asked first.",
    "mode": "`enforce`, or `audit`: change nothing, report what would be denied.",
    "ingress": "Rules about who reaches them. An empty list denies everybody.",
    "egress": "Rules about whom they reach. An empty list denies everybody.",
}
RULE_KEYS = {
    "allow": "Who is let through: a peer, or a list of peers.",
    "deny": "Who is denied; a denial wins over what allows in its tier.",
    "pass": "Who is left to the next tier; of admin and baseline only.",
    "ports": "At which ports; every port and protocol if left out.",
    "name": "What people call the rule.",
}
PEER_KEYS = {
    "service": "A service's name, or a list; of this app, or of `app`.",
    "labels": "Labels of services: each a value, or a list of values.",
    "app": "The app they belong to; `*` is every app.",
    "cidr": "A network, IPv4 or IPv6.",
    "except": "Networks inside `cidr` that are not meant.",
    "dns": "In egress: a name, as `api.example.com`, or `*.example.com`: all names that end so.",
}


@dataclass(frozen=True)
class Known:
    """What policies can speak of."""

    app: str
    services: Collection[str]
    problems: Problems


def read_policies(entry: Entry, known: Known) -> tuple[PolicySpec, ...]:
    """All that can be read; what cannot is among the problems."""
    found = []
    for one in shapes.table(entry.value).entries.values():
        if not one.key.startswith("x-"):
            with known.problems.guard():
                found.append(_policy(one, known))
    return tuple(found)


def _policy(entry: Entry, known: Known) -> PolicySpec:
    table = shapes.table(entry.value)
    refuse(table, "policies.*", KEYS, known.problems)
    entries = table.entries
    directions = tuple(direction for direction in DIRECTIONS if direction in entries)
    if not directions:
        raise InputError("has neither ingress nor egress", place=entry.place, hint="add one; [] denies everybody")
    fields: dict[str, Any] = {
        "name": entry.key,
        "app": known.app,
        "services": _subjects(entries["for"].value, known) if "for" in entries else LabelSelector(),
        "directions": directions,
        "origin": f"{entry.place.file}:{entry.place.line}",
    }
    if "tier" in entries:
        fields["tier"] = shapes.one_of(entries["tier"].value, TIERS)
    fields |= _priority(entries, fields.get("tier", "default"))
    if "mode" in entries:
        fields["mode"] = shapes.one_of(entries["mode"].value, ("enforce", "audit"))
    fields["rules"] = tuple(
        rule
        for direction in directions
        for rule in _rules(entries[direction], direction, fields.get("tier", "default"), known)
    )
    return make(PolicySpec, entry.place, {key: one.value.place for key, one in entries.items()}, fields)


def _priority(entries: dict[str, Entry], tier: str) -> dict[str, int]:
    if "priority" not in entries:
        return {}
    if tier == "default":
        hint = "leave it out, or name tier: admin or baseline"
        raise InputError("policies of the default tier have no order", place=entries["priority"].place, hint=hint)
    return {"priority": shapes.whole(entries["priority"].value)}


def _subjects(value: Value, known: Known) -> LabelSelector:
    if isinstance(value, Table):
        refuse(value, "policies.*.for", ("labels",), known.problems)
        if "labels" not in value.entries:
            raise InputError("names no labels", place=value.place, hint="write {labels: {tier: data}}, or names")
        return _labels(value.entries["labels"].value)
    return _services([_service(item, known) for item in shapes.one_or_more(value)], value)


def _service(value: Value, known: Known) -> str:
    name = shapes.text(value)
    if name not in known.services:
        raise InputError(f"there is no service {name!r}", place=value.place, hint=near(name, known.services))
    return name


def _services(names: list[str], value: Value) -> LabelSelector:
    if not names:
        raise InputError("names nobody", place=value.place, hint="name a service, or leave the key out for every one")
    if len(names) == 1:
        return LabelSelector(match_labels={SERVICE_NAME: names[0]})
    requirement = Requirement(key=SERVICE_NAME, operator="In", values=tuple(names))
    return LabelSelector(match_expressions=(requirement,))


def _labels(value: Value) -> LabelSelector:
    single: dict[str, str] = {}
    several: list[Requirement] = []
    for entry in shapes.table(value).entries.values():
        if isinstance(entry.value, Listing):
            values = shapes.texts(entry.value)
            several.append(make(Requirement, entry.place, {}, {"key": entry.key, "operator": "In", "values": values}))
        else:
            single[entry.key] = shapes.text_or_empty(entry.value)
    return LabelSelector(match_labels=single, match_expressions=tuple(several))


# ---- rules ----


def _rules(entry: Entry, direction: Direction, tier: str, known: Known) -> Iterator[PolicyRuleSpec]:
    for item in shapes.items(entry.value):
        with known.problems.guard():
            yield _rule(shapes.table(item), direction, tier, known)


def _rule(table: Table, direction: Direction, tier: str, known: Known) -> PolicyRuleSpec:
    refuse(table, f"policies.*.{direction}[]", RULE_KEYS, known.problems)
    said = [table.entries[action] for action in ACTIONS if action in table.entries]
    if len(said) != 1:
        hint = "write {allow: api, ports: [80]}; everybody is every peer"
        raise InputError("says exactly one of allow, deny and pass", place=table.place, hint=hint)
    if said[0].key == "pass" and tier == "default":
        raise InputError("the default tier has no pass", place=said[0].place, hint="leave the rule out, or name a tier")
    ports = table.entries.get("ports")
    fields = {
        "direction": direction,
        "action": said[0].key,
        "name": shapes.text(table.entries["name"].value) if "name" in table.entries else "",
        "peers": _peers(said[0], direction, known),
        "ports": tuple(read_policy_port(item) for item in _several(ports)) if ports else (),
        "origin": f"{table.place.file}:{table.place.line}",
    }
    return make(PolicyRuleSpec, table.place, {}, fields)


def _several(entry: Entry) -> tuple[Value, ...]:
    """One or more; an empty list would mean every one, which nobody expects."""
    found = shapes.one_or_more(entry.value)
    if not found:
        raise InputError("is empty", place=entry.place, hint="leave the key out for every one")
    return found


def _peers(entry: Entry, direction: Direction, known: Known) -> tuple[PeerSpec, ...]:
    """None at all is everybody."""
    values = (entry.value,) if isinstance(entry.value, Table) else shapes.one_or_more(entry.value)
    if not values:
        raise InputError("names nobody", place=entry.place, hint=f"write {EVERYBODY} for every peer")
    found = [_peer(value, direction, known) for value in values]
    if None not in found:
        return tuple(peer for peer in found if peer is not None)
    if len(found) > 1:
        raise InputError(f"{EVERYBODY} is among others", place=entry.place, hint=f"write {EVERYBODY} alone")
    return ()


def _peer(value: Value, direction: Direction, known: Known) -> PeerSpec | None:
    """None is everybody."""
    if isinstance(value, Table):
        return _long(value, direction, known)
    name = shapes.text(value)
    if name not in WORDS:
        return PeerSpec(services=_services([_service(value, known)], value))
    if name in known.services:
        raise InputError(
            f"{name} is also a service of this app", place=value.place, hint="give the service another name"
        )
    word = WORDS[name]
    return None if word is None else make(PeerSpec, value.place, {}, {"entity": word})


def _long(table: Table, direction: Direction, known: Known) -> PeerSpec:
    refuse(table, "policies.*.*[].peer", PEER_KEYS, known.problems)
    entries = table.entries
    names = {"except": "excepted"}
    places = {names.get(key, key): one.value.place for key, one in entries.items()}
    if "cidr" in entries or "except" in entries:
        return make(PeerSpec, table.place, places, _block(table))
    if "dns" in entries:
        return make(PeerSpec, table.place, places, _name(table, direction))
    if not entries.keys() & {"service", "labels", "app"}:
        hint = "name service, labels, app, cidr or dns"
        raise InputError("names nobody", place=table.place, hint=hint)
    if "service" in entries and "labels" in entries:
        raise InputError("has both service and labels", place=entries["labels"].place, hint="keep one of them")
    fields: dict[str, Any] = {}
    if "app" in entries:
        name = shapes.text(entries["app"].value)
        fields["apps"] = LabelSelector(match_labels={} if name == "*" else {APP_NAME: name})
    if "labels" in entries:
        fields["services"] = _labels(entries["labels"].value)
    if "service" in entries:
        fields["services"] = _named(entries["service"].value, known, elsewhere="app" in entries)
    return make(PeerSpec, table.place, places, fields)


def _named(value: Value, known: Known, *, elsewhere: bool) -> LabelSelector:
    """Services of another app cannot be looked up: it may come later."""
    items = shapes.one_or_more(value)
    return _services([shapes.text(item) if elsewhere else _service(item, known) for item in items], value)


def _block(table: Table) -> dict[str, Any]:
    others = table.entries.keys() & {"service", "labels", "app"}
    if "cidr" not in table.entries or others:
        hint = "write {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}"
        raise InputError("a network is a cidr, and no service", place=table.place, hint=hint)
    excepted = table.entries.get("except")
    values = shapes.one_or_more(excepted.value) if excepted else ()
    return {
        "cidr": shapes.text(table.entries["cidr"].value),
        "excepted": tuple(shapes.text(item) for item in values),
    }


def _name(table: Table, direction: Direction) -> dict[str, Any]:
    entry = table.entries["dns"]
    if len(table.entries) > 1:
        raise InputError("a name stands alone", place=entry.place, hint="write {dns: api.example.com}")
    if direction == "ingress":
        hint = "name its network with cidr"
        raise InputError("who comes is not known by name", place=entry.place, hint=hint)
    return {"dns": shapes.parsed(entry.value, dns_name)}
