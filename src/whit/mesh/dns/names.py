"""Names: what the resolver answers, written as one state file that it reads, and the hosts entries of an instance.

Imports next to nothing: the resolver keeps it in memory on every node.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from whit.base.settings import Settings

DOMAIN = "whit"
"""The last label of every full name: api.shop.whit."""


@dataclass(frozen=True)
class NameTable:
    """All names of a node."""

    listen: str
    """The resolver's address."""
    services: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """By app: addresses by service, of both families. Virtual ones, or those of the instances of a headless service."""
    instances: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """By address: the app and the host name of the instance. Says also whose question it is."""
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By app: the name elsewhere that a service stands for."""
    listen6: str = ""
    """The resolver's IPv6 address; empty where there is no IPv6."""
    spoken_of: Sequence[str] = ()
    """Names of policies, and patterns: answers for them are told to the agent before the asker has them."""


@dataclass(frozen=True)
class Found:
    """What a name of ours stands for: addresses of both families, or a name elsewhere."""

    addresses: Sequence[str] = ()
    alias: str = ""


def state_file(settings: Settings) -> Path:
    return settings.resolver_dir / "names.json"


def write_state(settings: Settings, table: NameTable) -> bool:
    """Whole or not at all. Returns whether anything changed."""
    path = state_file(settings)
    text = json.dumps(asdict(table), sort_keys=True)
    if path.exists() and path.read_text() == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    unfinished.write_text(text)
    # Whatever the umask: the resolver has given up its rights.
    path.parent.chmod(0o755)
    unfinished.chmod(0o644)
    unfinished.replace(path)
    return True


def parse_state(text: str) -> NameTable:
    document = json.loads(text)
    instances = {address: (app, host) for address, (app, host) in document["instances"].items()}
    return NameTable(
        document["listen"],
        document["services"],
        instances,
        document.get("aliases", {}),
        document.get("listen6", ""),
        tuple(document.get("spoken_of", ())),
    )


def hosts_entries(services: Mapping[str, Sequence[str]], app: str) -> list[tuple[str, Sequence[str]]]:
    """The services of an app for /etc/hosts of its instances: names resolve even where no resolver lives."""
    return [
        (address, (name, f"{name}.{app}", f"{name}.{app}.{DOMAIN}"))
        for name, addresses in sorted(services.items())
        for address in addresses
    ]


def lookup(table: NameTable, name: str, asker: str) -> Found | None:
    """What a name stands for, asked from an address. Names without an app are those of the asker's own app.

    An instance is also known by its full name, as shop-web-1.
    """
    labels = name.rstrip(".").lower().split(".")
    if labels[-1] == DOMAIN:
        labels = labels[:-1]
    if len(labels) == 1:
        labels.append(table.instances.get(asker, ("", ""))[0])
    if len(labels) != 2:
        return None
    host, app = labels
    if (addresses := table.services.get(app, {}).get(host)) is not None:
        return Found(addresses)
    if (alias := table.aliases.get(app, {}).get(host)) is not None:
        return Found(alias=alias)
    of_instance = [address for address, named in table.instances.items() if _is_named(named, app, host)]
    return Found(of_instance) if of_instance else None


def is_spoken_of(table: NameTable, name: str) -> bool:
    """Whether a policy names it, or a pattern that it matches. `name` in lower case without the dot at its end."""
    return any(name == known or (known[:2] == "*." and name.endswith(known[1:])) for known in table.spoken_of)


def _is_named(instance: tuple[str, str], app: str, name: str) -> bool:
    return instance[0] == app and name in (instance[1], f"{app}-{instance[1]}")


def reverse_lookup(table: NameTable, address: str) -> str | None:
    """The full name of an address."""
    if address in table.instances:
        app, host = table.instances[address]
        return f"{host}.{app}.{DOMAIN}"
    for app, services in table.services.items():
        for name, addresses in services.items():
            if address in addresses:
                return f"{name}.{app}.{DOMAIN}"
    return None


def address_of_reverse(name: str) -> IPv4Address | IPv6Address | None:
    """The address that a name as 16.0.77.10.in-addr.arpa or 0.1.(…).ip6.arpa asks about."""
    labels = name.rstrip(".").lower().split(".")
    digits = labels[-3::-1]
    try:
        if len(labels) == 6 and labels[4:] == ["in-addr", "arpa"]:
            return IPv4Address(".".join(digits))
        if len(labels) == 34 and labels[32:] == ["ip6", "arpa"] and all(len(digit) == 1 for digit in digits):
            return IPv6Address(bytes.fromhex("".join(digits)))
    except ValueError:
        pass
    return None


def is_ours(name: str) -> bool:
    """Names that are never asked of anybody else: ours, and single labels."""
    labels = name.rstrip(".").lower().split(".")
    return labels[-1] == DOMAIN or len(labels) == 1
