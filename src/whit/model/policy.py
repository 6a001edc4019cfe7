"""Policy: which identity may reach which, as a person writes it. A rule has an id that every verdict carries.

Tiers are asked in the order admin, default, baseline. The default tier is that of Kubernetes' NetworkPolicy and of
`uses`: what selects a service makes it default-deny in that direction, allowances add up, a denial wins over them. The
other two are those of ClusterNetworkPolicy: rules in their order, the first that matches decides, none isolates; the
cluster's come before those of apps.
"""

from __future__ import annotations

import re
from ipaddress import IPv6Network, ip_network
from typing import Literal

from pydantic import Field, field_validator, model_validator

from whit.model.base import Noun
from whit.model.selector import LabelSelector

Direction = Literal["egress", "ingress"]
Tier = Literal["admin", "default", "baseline"]
Action = Literal["allow", "deny", "pass"]
PolicyMode = Literal["enforce", "audit"]
Entity = Literal["world", "host"]
PolicyProtocol = Literal["tcp", "udp", "sctp", "icmp", "icmpv6"]

ANY_PEER = 0
MAPPED = IPv6Network("::ffff:0:0/96")
"""Where IPv4 is in the space of IPv6, as the datapath's maps have it."""
HOST = 1
WORLD = 2
RESOLVER = 3
UNASSIGNED = 4
"""An address of the mesh that nobody has."""

NUMBERS: dict[str, int] = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
"""Protocol numbers (IANA)."""
ECHO_REQUESTS: dict[str, int] = {"icmp": 8, "icmpv6": 128}
"""The type of a ping, by protocol (RFC 792, 4443)."""
VERSIONS: dict[str, Literal[4, 6]] = {"icmp": 4, "icmpv6": 6}
"""Of protocols that only one version of IP carries."""
DNS_NAME = re.compile(
    r"(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.?", re.IGNORECASE
)


def dns_name(text: str) -> str:
    """A name of the DNS, or a pattern, without the dot at its end. Raises ValueError."""
    if not DNS_NAME.fullmatch(text) or len(text) > 253:
        raise ValueError(f"{text!r} is no name of the DNS, and no `*.` with one behind it")
    name = text.rstrip(".").lower()
    if "." not in name or name.endswith(".whit"):
        raise ValueError(f"{text!r} is a name inside; who is meant is said by the name of the service")
    return name


def network(text: str) -> str:
    """A network of either family as it is usually written. Raises ValueError."""
    try:
        found = ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a network ({error}); write it as 203.0.113.0/24 or 2001:db8::/32") from None
    if isinstance(found, IPv6Network) and found.subnet_of(MAPPED):
        raise ValueError(f"{text!r} are addresses of IPv4 written as IPv6's; write the network as IPv4's")
    return str(found)


def icmp_port(kind: int, code: int = 0) -> int:
    """What stands for ICMP's type and code where other protocols have a port."""
    return kind << 8 | code


class PeerSpec(Noun):
    """The other end: exactly one of services or apps, cidr, entity and dns."""

    services: LabelSelector | None = Field(default=None, description="Labels of services.")
    apps: LabelSelector | None = Field(default=None, description="Labels of apps; without it, the policy's own app.")
    cidr: str | None = Field(default=None, description="A network, IPv4 or IPv6.")
    excepted: tuple[str, ...] = Field(default=(), description="Networks inside `cidr` that are not meant.")
    entity: Entity | None = Field(default=None, description="world: everything outside; host: the node.")
    dns: str | None = Field(default=None, description="A name, or `*.` and a name: all that end so.")

    @field_validator("cidr")
    @classmethod
    def _is_network(cls, text: str | None) -> str | None:
        return None if text is None else network(text)

    @field_validator("excepted")
    @classmethod
    def _are_networks(cls, found: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(network, found))

    @field_validator("dns")
    @classmethod
    def _is_name(cls, name: str | None) -> str | None:
        return None if name is None else dns_name(name)

    @model_validator(mode="after")
    def _one_kind(self) -> PeerSpec:
        selector = self.services is not None or self.apps is not None
        if selector + sum(kind is not None for kind in (self.cidr, self.entity, self.dns)) != 1:
            raise ValueError("names exactly one of services or apps, cidr, entity and dns")
        if self.excepted and self.cidr is None:
            raise ValueError("only a cidr has exceptions")
        if self.cidr is not None:
            whole = ip_network(self.cidr)
            for part in map(ip_network, self.excepted):
                if part.version != whole.version or not part.subnet_of(whole):  # type: ignore[arg-type]
                    raise ValueError(f"{part} is not inside {whole}")
        return self

    def __str__(self) -> str:
        if self.cidr is not None:
            return f"{self.cidr} except {', '.join(self.excepted)}" if self.excepted else self.cidr
        if self.entity is not None or self.dns is not None:
            return self.entity or self.dns or ""
        services = f"services {self.services}" if self.services and str(self.services) else "every service"
        if self.apps is None:
            return services
        return f"{services} of {f'apps {self.apps}' if str(self.apps) else 'every app'}"


class PolicyPort(Noun):
    """Where: a protocol, with a port, a range, a named port, or for ICMP a type and code."""

    protocol: PolicyProtocol = Field(default="tcp", description="tcp, udp, sctp, icmp or icmpv6.")
    port: int | str | None = Field(default=None, description="A port, or the name of one of the peer's; none is every.")
    end_port: int | None = Field(default=None, le=65535, description="The last port of a range.")
    icmp_type: int | None = Field(default=None, ge=0, le=255, description="ICMP: the type; none is every.")
    icmp_code: int | None = Field(default=None, ge=0, le=255, description="ICMP: the code; none is every.")

    @model_validator(mode="after")
    def _fits(self) -> PolicyPort:
        if self.protocol in ("icmp", "icmpv6"):
            if self.port is not None or self.end_port is not None:
                raise ValueError(f"{self.protocol} has types, no ports")
            if self.icmp_code is not None and self.icmp_type is None:
                raise ValueError("a code needs a type")
            return self
        if self.icmp_type is not None or self.icmp_code is not None:
            raise ValueError(f"{self.protocol} has ports, no types")
        if isinstance(self.port, int) and not 1 <= self.port <= 65535:
            raise ValueError(f"{self.port} is not between 1 and 65535")
        if self.end_port is not None and (not isinstance(self.port, int) or self.end_port < self.port):
            raise ValueError("the end of a range needs a number as its beginning that is not greater")
        return self

    def __str__(self) -> str:
        if self.protocol in ("icmp", "icmpv6"):
            what = "" if self.icmp_type is None else f" type {self.icmp_type}"
            return f"{self.protocol}{what}" + ("" if self.icmp_code is None else f" code {self.icmp_code}")
        if self.port is None:
            return f"every port/{self.protocol}"
        return f"{self.port}{f'-{self.end_port}' if self.end_port else ''}/{self.protocol}"


class PolicyRuleSpec(Noun):
    """One rule."""

    direction: Direction = Field(description="egress or ingress, seen from the subject.")
    action: Action = Field(default="allow", description="allow, deny, or pass to the next tier.")
    name: str = Field(default="", description="What people call it.")
    peers: tuple[PeerSpec, ...] = Field(default=(), description="Any of them; none is everybody.")
    ports: tuple[PolicyPort, ...] = Field(default=(), description="Any of them; none is every port and protocol.")
    origin: str = Field(default="", description="File and line; without it, the policy's.")

    @model_validator(mode="after")
    def _names_fit(self) -> PolicyRuleSpec:
        """A name's addresses are never all known, so a denial of it would let the others through (NPEP-133)."""
        name = next((peer.dns for peer in self.peers if peer.dns), None)
        if name and self.direction == "ingress":
            raise ValueError(f"{name} is a name of the DNS, and these are known for egress only")
        if name and self.action == "deny":
            raise ValueError(
                f"{name} is a name of the DNS, of which not all addresses are known: it can be allowed only"
            )
        return self

    def __str__(self) -> str:
        peers = ", ".join(map(str, self.peers)) or "everybody"
        ports = f" at {', '.join(map(str, self.ports))}" if self.ports else ""
        return f"{self.action} {'from' if self.direction == 'ingress' else 'to'} {peers}{ports}"


class PolicySpec(Noun):
    """A policy, of an app or of the whole cluster."""

    name: str = Field(min_length=1, max_length=253, pattern=r"^[^/]+$", description="Its name in the app.")
    app: str = Field(default="", description="The app it belongs to; empty: the whole cluster.")
    tier: Tier = Field(default="default", description="admin, default or baseline.")
    priority: int = Field(default=0, ge=0, le=1000, description="Of admin and baseline: lower ones are asked first.")
    services: LabelSelector = Field(default_factory=LabelSelector, description="Labels of the services it is for.")
    apps: LabelSelector | None = Field(default=None, description="Cluster-wide: labels of their apps.")
    directions: tuple[Direction, ...] = Field(description="In which directions it is for them (policyTypes).")
    mode: PolicyMode = Field(default="enforce", description="audit: change nothing, report what would be denied.")
    rules: tuple[PolicyRuleSpec, ...] = Field(default=(), description="The rules in their order.")
    origin: str = Field(default="", description="File and line.")

    @model_validator(mode="after")
    def _fits_its_tier(self) -> PolicySpec:
        if self.tier == "default" and not self.app:
            raise ValueError("policies of the whole cluster are of the tier admin or baseline")
        if self.tier == "default" and any(rule.action == "pass" for rule in self.rules):
            raise ValueError("only policies of the tiers admin and baseline can pass")
        if self.app and self.apps is not None:
            raise ValueError("only a policy of the whole cluster selects apps")
        return self

    @property
    def title(self) -> str:
        tier = "" if self.tier == "default" else f"{self.tier} "
        return f"{tier}policy {f'{self.app}/' if self.app else ''}{self.name}"
