"""Ports: `ports` of a service, short and long, as the Compose Specification has them (05-services.md, ports)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from whit.base.errors import InputError, Place
from whit.formats import shapes
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Table, Value
from whit.formats.policy.ports import port_name
from whit.formats.problems import Problems, make
from whit.model.service import PortSpec

LONG = ("target", "published", "host_ip", "protocol", "name")
_SHORT = re.compile(
    r"(?:(?P<ip>\[[^\]]*\]|[^:\[]*):)??"
    r"(?:(?P<published>[0-9]{1,5}(?:-[0-9]{1,5})?)?:)?"
    r"(?P<target>[0-9]{1,5}(?:-[0-9]{1,5})?)"
    r"(?:/(?P<protocol>\w+))?"
)


def read_port(value: Value, problems: Problems) -> Iterator[PortSpec]:
    """The ports of one item. Raises InputError."""
    return _long(value, problems) if isinstance(value, Table) else _short(shapes.text(value), value.place)


def _short(text: str, place: Place) -> Iterator[PortSpec]:
    match = _SHORT.fullmatch(text)
    if not match:
        hint = "write it as 8080:80, 127.0.0.1:8080:80 or 53:53/udp"
        raise InputError(f"{text!r} is not a port", place=place, hint=hint)
    targets = _range(match["target"], place)
    if not match["published"]:
        raise _unpublished(place, targets.start)
    published = _range(match["published"], place)
    if len(published) != len(targets):
        raise InputError(
            f"{len(published)} published ports for {len(targets)} ports of the service",
            place=place,
            hint="give both ranges the same length",
        )
    for outer, inner in zip(published, targets, strict=True):
        yield _port(place, {}, target=inner, published=outer, protocol=match["protocol"], host_ip=match["ip"])


def _long(table: Table, problems: Problems) -> Iterator[PortSpec]:
    refuse(table, "services.*.ports[]", LONG, problems)
    entries = table.entries
    if "target" not in entries:
        raise InputError("has no target", place=table.place, hint="add the port inside the instance, as target: 80")
    target = shapes.whole(entries["target"].value)
    if "published" not in entries:
        raise _unpublished(table.place, target)
    published = entries["published"].value
    if "-" in shapes.text(published):
        raise InputError("a range to choose from is not honoured", place=published.place, hint="name one port")
    text = {key: shapes.text(entries[key].value) for key in ("protocol", "host_ip") if key in entries}
    name = shapes.parsed(entries["name"].value, port_name) if "name" in entries else ""
    places = {key: entry.value.place for key, entry in entries.items()}
    yield _port(table.place, places, target=target, published=shapes.whole(published), name=name, **text)


def _port(place: Place, places: dict[str, Place], **fields: int | str | None) -> PortSpec:
    given = {key: value for key, value in fields.items() if value not in (None, "")}
    if "host_ip" in given:
        given["host_ip"] = _address(str(given["host_ip"]), places.get("host_ip", place))
    return make(PortSpec, place, places, given)


def _address(text: str, place: Place) -> str:
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError as error:
        hint = "name an address of the node, as 127.0.0.1, or leave it out for every one"
        raise InputError(f"{text!r} is not an address", place=place, hint=hint) from error


def _range(text: str, place: Place) -> range:
    first, _, last = text.partition("-")
    found = range(int(first), int(last or first) + 1)
    if not found:
        raise InputError(f"{text} goes down", place=place, hint="write the smaller port first")
    if found.start < 1 or found.stop > 65536:
        raise InputError(f"{text} is not between 1 and 65535", place=place)
    return found


def _unpublished(place: Place, target: int) -> InputError:
    outer = 8000 + target if target < 1000 else target
    return InputError(
        "names no port of the node, and none is chosen by chance",
        place=place,
        hint=f'publish it as "{outer}:{target}"; services of the app reach it without',
    )
