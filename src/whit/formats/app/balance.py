"""Balance, scale and endpoints: how the instances of a service share its load, how they wait while there is none, and
backends that are none. Whit's own keys."""

from __future__ import annotations

import ipaddress
import math
import re
from typing import Any

from whit.base.errors import InputError
from whit.formats import shapes
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Scalar, Table, Value
from whit.formats.problems import Problems, make
from whit.formats.quantities import duration
from whit.model.service import BalanceSpec, EndpointSpec, ScaleSpec

BALANCE = ("algorithm", "affinity")
SCALE = ("min", "idle", "after")
ENDPOINT = ("address", "port", "weight")
_SHORT = re.compile(r"(\[[^\]]*\]|[^:\[]+):([0-9]{1,5})")


def read_balance(value: Value, problems: Problems) -> BalanceSpec:
    """An algorithm, or a table. Raises InputError."""
    if isinstance(value, Scalar):
        return make(BalanceSpec, value.place, {}, {"algorithm": shapes.text(value)})
    table = shapes.table(value)
    refuse(table, "services.*.balance", BALANCE, problems)
    entries = table.entries
    fields: dict[str, Any] = {}
    if "algorithm" in entries:
        fields["algorithm"] = shapes.text(entries["algorithm"].value)
    if "affinity" in entries:
        fields["affinity"] = math.ceil(shapes.parsed(entries["affinity"].value, duration))
    return make(BalanceSpec, table.place, {key: entry.value.place for key, entry in entries.items()}, fields)


def read_scale(value: Value, problems: Problems) -> ScaleSpec:
    """A table; the number that Compose has here is refused. Raises InputError."""
    if isinstance(value, Scalar) and value.text.isdecimal():
        raise InputError("a number of instances is not honoured here", place=value.place, hint="use deploy.replicas")
    table = shapes.table(value)
    refuse(table, "services.*.scale", SCALE, problems)
    entries = table.entries
    fields: dict[str, Any] = {}
    if "min" in entries:
        fields["min"] = shapes.whole(entries["min"].value)
    if "idle" in entries:
        fields["idle"] = shapes.text(entries["idle"].value)
    if "after" in entries:
        fields["after"] = shapes.parsed(entries["after"].value, duration)
    return make(ScaleSpec, table.place, {key: entry.value.place for key, entry in entries.items()}, fields)


def read_endpoints(value: Value, problems: Problems) -> tuple[EndpointSpec, ...]:
    """Each is `ADDRESS:PORT`, `[ADDRESS]:PORT`, or a table. Raises InputError."""
    return tuple(_endpoint(item, problems) for item in shapes.items(value))


def _endpoint(item: Value, problems: Problems) -> EndpointSpec:
    if not isinstance(item, Table):
        address, port = shapes.parsed(item, _split)
        return make(EndpointSpec, item.place, {}, {"address": address, "port": port})
    refuse(item, "services.*.endpoints[]", ENDPOINT, problems)
    entries = item.entries
    fields: dict[str, Any] = {key: shapes.whole(entries[key].value) for key in ("port", "weight") if key in entries}
    if "address" in entries:
        fields["address"] = shapes.parsed(entries["address"].value, _address)
    return make(EndpointSpec, item.place, {key: entry.value.place for key, entry in entries.items()}, fields)


def _split(text: str) -> tuple[str, int]:
    match = _SHORT.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no endpoint; write it as 192.0.2.7:5432 or [2001:db8::7]:5432")
    return _address(match[1]), int(match[2])


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError as error:
        raise ValueError(f"{text!r} is not an address; a name elsewhere is an external_name") from error
