"""Policies as Kubernetes has them, read as they are: NetworkPolicy (networking.k8s.io/v1) and ClusterNetworkPolicy
(policy.networking.k8s.io/v1alpha2 and v1beta1). A namespace is an app.

What a kind has and is not honoured is refused by name, file and line; nothing is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from whit.base.errors import InputError, Place, UnknownKey
from whit.formats import shapes
from whit.formats.nodes import Entry, Table, Value, parse_all
from whit.formats.problems import Problems, make, near
from whit.model.policy import Direction, PeerSpec, PolicyPort, PolicyRuleSpec, PolicySpec
from whit.model.selector import LabelSelector, Requirement

KINDS = {
    "NetworkPolicy": ("networking.k8s.io/v1",),
    "ClusterNetworkPolicy": ("policy.networking.k8s.io/v1alpha2", "policy.networking.k8s.io/v1beta1"),
}
DIRECTIONS: Mapping[str, Direction] = {"Ingress": "ingress", "Egress": "egress"}
ACTIONS = {"Accept": "allow", "Deny": "deny", "Pass": "pass"}
TIERS = {"Admin": "admin", "Baseline": "baseline"}
AUDIT = "whit/mode"
"""An annotation: `audit` makes a policy report what it would deny, and change nothing."""
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")
_TRANSPORTS = ("tcp", "udp", "sctp")
_METADATA = ("name", "namespace", "labels", "annotations")


def load_policies(path: Path, *, namespace: str = "default") -> tuple[PolicySpec, ...]:
    """The policies of a file, which may hold several documents, and lists of them.

    Raises:
        InputError: there is no such file.
        InvalidApp: its content is wrong; all that is.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="name a file with policies") from error
    return read_policies(text, str(path), namespace=namespace)


def read_policies(text: str, file: str, *, namespace: str = "default") -> tuple[PolicySpec, ...]:
    """As load_policies, of a text. `namespace` is that of policies that name none."""
    problems = Problems()
    found: dict[tuple[str, str], PolicySpec] = {}
    with problems.guard():
        for document in _documents(parse_all(text, file, problems)):
            with problems.guard():
                policy = _policy(document, namespace, problems)
                if (policy.app, policy.name) in found:
                    raise InputError(
                        f"{policy.title} is written twice", place=document.place, hint="name one otherwise"
                    )
                found[policy.app, policy.name] = policy
    problems.check()
    if not found:
        raise InputError("there is no policy in it", place=Place(file, 1, 1), hint=f"known kinds: {', '.join(KINDS)}")
    return tuple(found.values())


def _documents(values: list[Value]) -> Iterator[Table]:
    for value in values:
        table = shapes.table(value)
        if not table.entries:
            continue
        if "kind" in table.entries and shapes.text(table.entries["kind"].value) == "List":
            yield from map(shapes.table, shapes.items(_needed(table, "items").value))
        else:
            yield table


def _policy(document: Table, namespace: str, problems: Problems) -> PolicySpec:
    _known(document, ("apiVersion", "kind", "metadata", "spec", "status"), problems)
    kind = shapes.one_of(_needed(document, "kind").value, tuple(KINDS))
    shapes.one_of(_needed(document, "apiVersion").value, KINDS[kind])
    metadata = shapes.table(_needed(document, "metadata").value)
    spec = shapes.table(_needed(document, "spec").value)
    fields: dict[str, Any] = {"name": shapes.text(_needed(metadata, "name").value)}
    fields["mode"] = _mode(metadata)
    fields["origin"] = _origin(document)
    if kind == "NetworkPolicy":
        fields["app"] = _text(metadata, "namespace") or namespace
        fields |= _of_namespace(spec, problems)
    else:
        fields |= _of_cluster(spec, problems)
    return make(PolicySpec, document.place, {}, fields)


def _mode(metadata: Table) -> str:
    if "annotations" not in metadata.entries:
        return "enforce"
    found = shapes.table(metadata.entries["annotations"].value).entries.get(AUDIT)
    return shapes.one_of(found.value, ("enforce", "audit")) if found else "enforce"


# ---- NetworkPolicy ----


def _of_namespace(spec: Table, problems: Problems) -> dict[str, Any]:
    _known(spec, ("podSelector", "policyTypes", "ingress", "egress"), problems)
    entries = spec.entries
    directions = _policy_types(spec)
    rules = [
        rule
        for name, direction in DIRECTIONS.items()
        if direction in entries and direction in directions
        for rule in _rules(entries[direction], direction, _rule, problems)
    ]
    selector = entries.get("podSelector")
    return {
        "services": _selector(selector.value, problems) if selector else LabelSelector(),
        "directions": directions,
        "rules": rules,
    }


def _policy_types(spec: Table) -> tuple[Direction, ...]:
    """Without them: ingress always, egress if there are rules for it."""
    found = spec.entries.get("policyTypes")
    if found is None:
        return ("ingress", "egress") if "egress" in spec.entries else ("ingress",)
    types = {shapes.one_of(item, tuple(DIRECTIONS)) for item in shapes.items(found.value)}
    return tuple(direction for name, direction in DIRECTIONS.items() if name in types)


Reader = Callable[[Table, Direction, Problems], PolicyRuleSpec]


def _rules(entry: Entry, direction: Direction, read: Reader, problems: Problems) -> Iterator[PolicyRuleSpec]:
    for item in shapes.items(entry.value):
        with problems.guard():
            yield read(shapes.table(item), direction, problems)


def _rule(table: Table, direction: Direction, problems: Problems) -> PolicyRuleSpec:
    side = "from" if direction == "ingress" else "to"
    _known(table, (side, "ports"), problems)
    peers = [_peer(shapes.table(item), problems) for item in _list(table, side)]
    ports = [_port(shapes.table(item), problems) for item in _list(table, "ports")]
    fields = {"direction": direction, "peers": peers, "ports": ports, "origin": _origin(table)}
    return make(PolicyRuleSpec, table.place, {}, fields)


def _peer(table: Table, problems: Problems) -> PeerSpec:
    _known(table, ("podSelector", "namespaceSelector", "ipBlock"), problems)
    fields: dict[str, Any] = {}
    for key, name in (("podSelector", "services"), ("namespaceSelector", "apps")):
        if key in table.entries:
            fields[name] = _selector(table.entries[key].value, problems)
    if "ipBlock" in table.entries:
        block = shapes.table(table.entries["ipBlock"].value)
        _known(block, ("cidr", "except"), problems)
        fields["cidr"] = shapes.text(_needed(block, "cidr").value)
        fields["excepted"] = tuple(shapes.text(item) for item in _list(block, "except"))
    return make(PeerSpec, table.place, {}, fields)


def _port(table: Table, problems: Problems) -> PolicyPort:
    _known(table, ("protocol", "port", "endPort"), problems)
    fields: dict[str, Any] = {"protocol": "tcp"}
    if "protocol" in table.entries:
        fields["protocol"] = shapes.one_of(table.entries["protocol"].value, ("TCP", "UDP", "SCTP")).lower()
    if "port" in table.entries:
        fields["port"] = shapes.parsed(table.entries["port"].value, _port_number)
    if "endPort" in table.entries:
        fields["end_port"] = shapes.whole(table.entries["endPort"].value)
    return make(PolicyPort, table.place, {}, fields)


def _port_number(text: str) -> int | str:
    if text.isdigit():
        return int(text)
    if not _PORT_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no port, and no name of one")
    return text


# ---- ClusterNetworkPolicy ----


def _of_cluster(spec: Table, problems: Problems) -> dict[str, Any]:
    _known(spec, ("tier", "priority", "subject", "ingress", "egress"), problems)
    subject = shapes.table(_needed(spec, "subject").value)
    rules = [
        rule
        for direction in DIRECTIONS.values()
        if direction in spec.entries
        for rule in _rules(spec.entries[direction], direction, _cluster_rule, problems)
    ]
    apps, services = _pods(subject, problems)
    return {
        "tier": TIERS[shapes.one_of(_needed(spec, "tier").value, tuple(TIERS))],
        "priority": shapes.whole(_needed(spec, "priority").value),
        "apps": apps,
        "services": services,
        "directions": tuple(dict.fromkeys(rule.direction for rule in rules)),
        "rules": rules,
    }


def _pods(table: Table, problems: Problems, others: tuple[str, ...] = ()) -> tuple[LabelSelector, LabelSelector]:
    """Selectors of apps and of their services."""
    _known(table, ("namespaces", "pods", *others), problems)
    if ("namespaces" in table.entries) == ("pods" in table.entries):
        raise InputError("has exactly one of namespaces and pods", place=table.place)
    if "namespaces" in table.entries:
        return _selector(table.entries["namespaces"].value, problems), LabelSelector()
    pods = shapes.table(table.entries["pods"].value)
    _known(pods, ("namespaceSelector", "podSelector"), problems)
    found = (pods.entries.get(key) for key in ("namespaceSelector", "podSelector"))
    apps, services = (_selector(entry.value, problems) if entry else LabelSelector() for entry in found)
    return apps, services


def _cluster_rule(table: Table, direction: Direction, problems: Problems) -> PolicyRuleSpec:
    side = "from" if direction == "ingress" else "to"
    _known(table, ("name", "action", side, "protocols"), problems)
    peers = [peer for item in _list(table, side) for peer in _cluster_peers(shapes.table(item), direction, problems)]
    if not peers:
        raise InputError(f"needs `{side}`", place=table.place, hint="namespaces: {} is every app")
    fields = {
        "direction": direction,
        "action": ACTIONS[shapes.one_of(_needed(table, "action").value, tuple(ACTIONS))],
        "name": _text(table, "name"),
        "peers": peers,
        "ports": [port for item in _list(table, "protocols") for port in _cluster_ports(shapes.table(item), problems)],
        "origin": _origin(table),
    }
    return make(PolicyRuleSpec, table.place, {}, fields)


def _cluster_peers(table: Table, direction: Direction, problems: Problems) -> Iterator[PeerSpec]:
    """One peer of the file may be several of ours: each network and each name is one."""
    outside = ("networks", "domainNames", "nodes") if direction == "egress" else ()
    key = next((key for key in outside if key in table.entries), None)
    if key is None:
        apps, services = _pods(table, problems, outside)
        yield make(PeerSpec, table.place, {}, {"apps": apps, "services": services})
    elif key == "nodes":
        yield PeerSpec(entity="host")
    else:
        field = "cidr" if key == "networks" else "dns"
        for item in shapes.items(table.entries[key].value):
            yield make(PeerSpec, item.place, {}, {field: shapes.text(item)})


def _cluster_ports(table: Table, problems: Problems) -> Iterator[PolicyPort]:
    """A name is that of a port of whichever protocol."""
    _known(table, (*_TRANSPORTS, "destinationNamedPort"), problems)
    if "destinationNamedPort" in table.entries:
        name = shapes.parsed(table.entries["destinationNamedPort"].value, _port_number)
        yield from (make(PolicyPort, table.place, {}, {"protocol": kind, "port": name}) for kind in _TRANSPORTS)
        return
    kind = next((kind for kind in _TRANSPORTS if kind in table.entries), None)
    if kind is None:
        names = f"{', '.join(_TRANSPORTS)} and destinationNamedPort"
        raise InputError(f"names none of {names}", place=table.place)
    inner = shapes.table(table.entries[kind].value)
    _known(inner, ("destinationPort",), problems)
    fields: dict[str, Any] = {"protocol": kind}
    if "destinationPort" in inner.entries:
        fields |= _destination(shapes.table(inner.entries["destinationPort"].value), problems)
    yield make(PolicyPort, table.place, {}, fields)


def _destination(table: Table, problems: Problems) -> dict[str, int]:
    _known(table, ("number", "range"), problems)
    if "number" in table.entries:
        return {"port": shapes.whole(table.entries["number"].value)}
    span = shapes.table(_needed(table, "range").value)
    _known(span, ("start", "end"), problems)
    return {"port": shapes.whole(_needed(span, "start").value), "end_port": shapes.whole(_needed(span, "end").value)}


# ---- what both have ----


def _selector(value: Value, problems: Problems) -> LabelSelector:
    table = shapes.table(value)
    _known(table, ("matchLabels", "matchExpressions"), problems)
    labels: dict[str, str] = {}
    if "matchLabels" in table.entries:
        found = shapes.table(table.entries["matchLabels"].value).entries.values()
        labels = {entry.key: shapes.text_or_empty(entry.value) for entry in found}
    expressions = tuple(_requirement(shapes.table(item), problems) for item in _list(table, "matchExpressions"))
    return LabelSelector(match_labels=labels, match_expressions=expressions)


def _requirement(table: Table, problems: Problems) -> Requirement:
    _known(table, ("key", "operator", "values"), problems)
    fields: dict[str, Any] = {key: shapes.text(_needed(table, key).value) for key in ("key", "operator")}
    fields["values"] = tuple(shapes.text(item) for item in _list(table, "values"))
    return make(Requirement, table.place, {}, fields)


def _origin(table: Table) -> str:
    return f"{table.place.file}:{table.place.line}"


def _needed(table: Table, key: str) -> Entry:
    if key not in table.entries:
        raise InputError(f"has no {key}", place=table.place, hint=f"add {key}:")
    return table.entries[key]


def _text(table: Table, key: str) -> str:
    return shapes.text(table.entries[key].value) if key in table.entries else ""


def _list(table: Table, key: str) -> tuple[Value, ...]:
    return shapes.items(table.entries[key].value) if key in table.entries else ()


def _known(table: Table, keys: tuple[str, ...], problems: Problems) -> None:
    for entry in table.entries.values():
        if entry.key not in keys:
            problems.add(UnknownKey("is not a known key", place=entry.place, hint=near(entry.key, keys)))
