"""Ports as policies of an app file name them, one text each: 5432, 8000-8100/udp, http, icmp/8; and `expose`."""

from __future__ import annotations

import re

from whit.base.errors import InputError
from whit.formats import shapes
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Table, Value
from whit.formats.problems import Problems, make
from whit.model.policy import PolicyPort
from whit.model.service import ExposedPort

FORMS = (
    "`5432`, `53/udp`, `8000-8100`, a name as `http` or `dns/udp`, `udp` for every port, `icmp`, `icmp/8`, `icmpv6/1:4`"
)
"""A port, a range, a name, and of ICMP a type and code; tcp if no protocol is named."""
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")
"""As Kubernetes has it: at most 15 lower-case letters, digits and -, a letter among them."""
_TRANSPORTS = "tcp|udp|sctp"
_NUMBERED = re.compile(rf"(?P<first>[0-9]{{1,5}})(-(?P<last>[0-9]{{1,5}}))?(/(?P<protocol>{_TRANSPORTS}))?")
_NAMED = re.compile(rf"(?P<name>[a-z0-9-]{{1,15}})(/(?P<protocol>{_TRANSPORTS}))?")
_WHOLE = re.compile(rf"{_TRANSPORTS}|icmp|icmpv6")
_ICMP = re.compile(r"(?P<protocol>icmp|icmpv6)/(?P<type>[0-9]{1,3})(:(?P<code>[0-9]{1,3}))?")
EXPOSED = ("name", "port", "protocol")


def read_policy_port(value: Value) -> PolicyPort:
    """Raises InputError."""
    text = shapes.text(value)
    if _WHOLE.fullmatch(text):
        fields: dict[str, object] = {"protocol": text}
    elif found := _ICMP.fullmatch(text):
        code = found["code"]
        fields = {"protocol": found["protocol"], "icmp_type": int(found["type"])}
        fields |= {"icmp_code": int(code)} if code else {}
    elif found := _NUMBERED.fullmatch(text):
        fields = {"protocol": found["protocol"] or "tcp", "port": int(found["first"])}
        fields |= {"end_port": int(found["last"])} if found["last"] else {}
    elif (found := _NAMED.fullmatch(text)) and PORT_NAME.fullmatch(found["name"]):
        fields = {"protocol": found["protocol"] or "tcp", "port": found["name"]}
    else:
        raise InputError(f"{text!r} is not a port", place=value.place, hint=f"write it as {FORMS.replace('`', '')}")
    return make(PolicyPort, value.place, {}, fields)


def read_exposed(value: Value, problems: Problems) -> list[ExposedPort]:
    """The ports of one item of `expose`: 80, 8000-8010/udp, or a table with a name. Raises InputError."""
    if isinstance(value, Table):
        return [_named(value, problems)]
    text = shapes.text(value)
    found = _NUMBERED.fullmatch(text)
    if not found:
        hint = "write it as 80, 53/udp, 8000-8010, or {name: http, port: 80}"
        raise InputError(f"{text!r} is not a port", place=value.place, hint=hint)
    first, last = int(found["first"]), int(found["last"] or found["first"])
    if last < first:
        raise InputError(f"{text} goes down", place=value.place, hint="write the smaller port first")
    protocol = found["protocol"] or "tcp"
    return [make(ExposedPort, value.place, {}, {"port": port, "protocol": protocol}) for port in range(first, last + 1)]


def _named(table: Table, problems: Problems) -> ExposedPort:
    refuse(table, "services.*.expose[]", EXPOSED, problems)
    entries = table.entries
    if "port" not in entries:
        raise InputError("has no port", place=table.place, hint="add the port inside the instance, as port: 80")
    fields: dict[str, object] = {"port": shapes.whole(entries["port"].value)}
    if "protocol" in entries:
        fields["protocol"] = shapes.one_of(entries["protocol"].value, tuple(_TRANSPORTS.split("|")))
    if "name" in entries:
        fields["name"] = shapes.parsed(entries["name"].value, port_name)
    return make(ExposedPort, table.place, {key: entry.value.place for key, entry in entries.items()}, fields)


def port_name(text: str) -> str:
    """Raises ValueError."""
    if not PORT_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is no port's name: at most 15 of a-z, 0-9 and -, with a letter")
    return text
