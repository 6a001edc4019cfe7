"""Uses: the declaration of a service, what it may reach. `uses` is Whit's own key."""

from __future__ import annotations

from typing import Any

from whit.formats import shapes
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Table, Value
from whit.formats.problems import Problems, make
from whit.model.policy import dns_name, network
from whit.model.service import UseSpec

ENTITIES = ("world", "host")
KEYS = ("service", "cidr", "dns", "entity", "port", "protocol")


def read_use(value: Value, problems: Problems) -> UseSpec:
    """The peer of one item: a service's name, world, host, or a table. Raises InputError."""
    if isinstance(value, Table):
        return _long(value, problems)
    name = shapes.text(value)
    return UseSpec(entity=name) if name in ENTITIES else UseSpec(service=name)


def _long(table: Table, problems: Problems) -> UseSpec:
    refuse(table, "services.*.uses[]", KEYS, problems)
    entries = table.entries
    fields: dict[str, Any] = {}
    for key in ("service", "protocol", "entity"):
        if key in entries:
            fields[key] = shapes.text(entries[key].value)
    for key, parse in (("cidr", network), ("dns", dns_name)):
        if key in entries:
            fields[key] = shapes.parsed(entries[key].value, parse)
    if "port" in entries:
        fields["port"] = shapes.whole(entries["port"].value)
        fields.setdefault("protocol", "tcp")
    return make(UseSpec, table.place, {key: entry.value.place for key, entry in entries.items()}, fields)
