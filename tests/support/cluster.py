"""Nine real instances under a real agent, as Kubernetes' tests of policy want them: three apps of three services each.

An app is a namespace, a service with its one instance a pod. A baseline policy lets everybody reach everybody, as a
cluster without policies does. Every pod answers on ports 80 and 81, TCP and UDP, with its own name.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import yaml
from conformance.probing import Attempt, Goal, Tuple, probe

from support.service_site import until
from support.whit import Whit
from whit.cli.connection.client import Client
from whit.formats.policy.kubernetes import read_policies
from whit.kernel.network import sockets
from whit.mesh.dns import names
from whit.model.app import AppSpec
from whit.model.flow import Flow
from whit.model.policy import PolicyRuleSpec, PolicySpec

NAMESPACES, PODS = ("x", "y", "z"), ("a", "b", "c")
PORTS = ("80/tcp", "81/tcp", "80/udp", "81/udp")
PROTOCOL_NUMBERS = {"tcp": 6, "udp": 17}
RESPONDER = Path(__file__).resolve().parents[1] / "conformance" / "responder.c"
FLAT = PolicySpec(
    name="flat",
    tier="baseline",
    priority=1000,
    directions=("ingress", "egress"),
    rules=(PolicyRuleSpec(direction="ingress"), PolicyRuleSpec(direction="egress")),
)


@dataclass
class Cluster:
    """`labels` and `namespace_labels` are what was set beside those that every pod and namespace has."""

    whit: Whit
    image: Path
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    namespace_labels: dict[str, dict[str, str]] = field(default_factory=dict)
    addresses: dict[str, dict[int, str]] = field(default_factory=dict)
    """Of each pod, by family."""
    told: dict[Tuple, Flow] = field(default_factory=dict)
    """The last that was said of each tuple."""
    names: dict[str, str] = field(default_factory=dict)
    """Of the instance of each pod."""

    @property
    def client(self) -> Client:
        return Client(self.whit.settings)

    @property
    def pods(self) -> list[str]:
        return [f"{namespace}/{pod}" for namespace in NAMESPACES for pod in PODS]

    def start(self) -> None:
        build(self.image)
        self.whit.start_agent()
        self.client.apply_policies([FLAT])
        for namespace in NAMESPACES:
            self.bring_up(namespace)
        for status in self.client.instances():
            pod = f"{status.app}/{status.service}"
            self.names[pod] = status.name
            self.addresses[pod] = {4: status.address} | ({6: status.address6} if status.address6 else {})

    def bring_up(self, namespace: str) -> None:
        """Returns when all of its pods answer: that they run is not enough, a new label makes new ones."""
        list(self.client.up(self.app(namespace), timeout=300))
        wanted = {(PROTOCOL_NUMBERS[protocol], int(port)) for port, protocol in (one.split("/") for one in PORTS)}
        pids = [one.pid for one in self.client.instances() if one.app == namespace and one.pid]
        assert len(pids) == len(PODS)
        networks = [Path(f"/proc/{pid}/ns/net") for pid in pids]
        assert until(lambda: all(sockets.listening(one) >= wanted for one in networks)), f"{namespace} does not listen"

    def app(self, namespace: str) -> AppSpec:
        services = {pod: self._service(f"{namespace}/{pod}") for pod in PODS}
        own = {"ns": namespace} | self.namespace_labels.get(namespace, {})
        document = {
            "name": namespace,
            "mode": "open",
            "directory": str(self.image),
            "labels": own,
            "services": services,
        }
        return AppSpec.model_validate(document)

    def _service(self, pod: str) -> dict[str, Any]:
        protocols = [one.split("/") for one in PORTS]
        return {
            "build": {"parts": [{"kind": "directory", "path": str(self.image)}]},
            "command": ("/responder", *PORTS),
            "environment": {"NAME": pod},
            "labels": self.labels_of(pod),
            "expose": [
                {"name": f"serve-{port}-{protocol}", "port": int(port), "protocol": protocol}
                for port, protocol in protocols
            ],
            "stop_grace_period": 0,
        }

    def labels_of(self, pod: str) -> dict[str, str]:
        return {"pod": pod.split("/")[1]} | self.labels.get(pod, {})

    def label(self, pods: Mapping[str, Mapping[str, str]], namespaces: Mapping[str, Mapping[str, str]]) -> None:
        for pod, added in pods.items():
            self.labels[pod] = self.labels.get(pod, {}) | dict(added)
        for namespace, added in namespaces.items():
            self.namespace_labels[namespace] = self.namespace_labels.get(namespace, {}) | dict(added)
        for namespace in sorted({*namespaces, *(pod.split("/")[0] for pod in pods)}):
            self.bring_up(namespace)

    def apply(self, documents: Sequence[Mapping[str, Any]]) -> None:
        text = yaml.safe_dump_all([self.with_addresses(document) for document in documents])
        if documents:
            self.client.apply_policies(read_policies(text, "policies.yaml"))

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self.client.remove_policy(*name.split("/"))

    def reset(self) -> None:
        """As it was at first."""
        for policy in self.client.policies():
            if policy.name != FLAT.name:
                self.client.remove_policy(policy.app, policy.name)
        changed = {pod: {} for pod in self.labels}, {namespace: {} for namespace in self.namespace_labels}
        self.labels, self.namespace_labels = {}, {}
        self.label(*changed)

    def with_addresses(self, found: Any) -> Any:
        """A block in words becomes one of each family: of a pod (`x/b`), the whole pool, or its half."""
        if isinstance(found, Mapping):
            return {
                key: self._networks(value) if key == "networks" else self.with_addresses(value)
                for key, value in found.items()
            }
        if not isinstance(found, list):
            return found
        expanded: list[Any] = []
        for item in found:
            block = item.get("ipBlock") if isinstance(item, Mapping) else None
            expanded += [self._block(block, family) for family in (4, 6)] if block else [self.with_addresses(item)]
        return expanded

    def _networks(self, words: Sequence[str]) -> list[str]:
        """Pods become their addresses; what is a network stays."""
        return [
            found
            for word in words
            for found in ([self._network(word, family) for family in (4, 6)] if word in self.addresses else [word])
        ]

    def _block(self, block: Mapping[str, Any], family: int) -> dict[str, Any]:
        excepted = [self._network(word, family) for word in block.get("except", [])]
        found = {"cidr": self._network(block["cidr"], family)} | ({"except": excepted} if excepted else {})
        return {"ipBlock": found}

    def _network(self, word: str, family: int) -> str:
        if word in self.addresses:
            return f"{self.addresses[word][family]}/{32 if family == 4 else 128}"
        if word in ("0.0.0.0/0", "0.0.0.0/31"):
            return word if family == 4 else {"0.0.0.0/0": "::/0", "0.0.0.0/31": "::/127"}[word]
        pool = ip_network(self.client.agent().pool if family == 4 else self.client.agent().pool6)
        return str(pool if word == "pool" else next(pool.subnets()))

    def probe(self, probes: Iterable[str], families: Sequence[int] = (4, 6)) -> tuple[list[Attempt], list[Flow]]:
        """Everybody asks everybody else. Returns what came of it, and the flows that were seen of it."""
        return self.attempt(
            Goal(source, destination, self.addresses[destination][family], int(port), protocol)
            for source in self.pods
            for destination in self.pods
            if source != destination
            for family in families
            for port, protocol in (one.split("/") for one in probes)
        )

    def attempt(self, goals: Iterable[Goal]) -> tuple[list[Attempt], list[Flow]]:
        began = datetime.now(UTC)
        places = {pod: self.whit.settings.netns_dir / name for pod, name in self.names.items()}

        def lost() -> Collection[Tuple]:
            return [tuple_of(flow) for flow in self.flows(began) if flow.verdict == "deny"]

        return probe(places, goals, lost), self.flows(began)

    def said_of(self, attempt: Attempt) -> str:
        """What the mesh told of it, in words."""
        flow = self.told.get(attempt.sent)
        return f"told at {flow.time}: {flow.verdict} {flow.reason} {flow.rule_text}" if flow else "nothing was told"

    @property
    def node(self) -> tuple[str, str]:
        """The node's addresses in the mesh."""
        agent = self.client.agent()
        ipv4, ipv6 = (str(next(ip_network(pool).hosts())) for pool in (agent.pool, agent.pool6))
        return ipv4, ipv6

    def service_addresses(self, pod: str) -> list[str]:
        """Of the pod's service, of both families."""
        table = names.parse_state(names.state_file(self.whit.settings).read_text())
        namespace, name = pod.split("/")
        found = names.lookup(table, f"{name}.{namespace}.whit", "")
        return list(found.addresses) if found else []

    def flows(self, since: datetime) -> list[Flow]:
        """Beginnings and drops."""
        return [flow for flow in self.client.flows({"since": since.isoformat()}) if flow.kind == "flow"]


def tuple_of(flow: Flow) -> Tuple:
    """As it was asked: of the service, if one was."""
    address, port = flow.destination.address, flow.destination.port
    if flow.service:
        address, _, text = flow.service.rpartition(":")
        address, port = address.strip("[]"), int(text)
    return Tuple(flow.source.address, flow.source.port, address, port, flow.protocol)


def build(directory: Path) -> None:
    """The pods' program, the only file of their image."""
    directory.mkdir(parents=True, exist_ok=True)
    argv = [
        "clang",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-static",
        "-o",
        str(directory / "responder"),
        str(RESPONDER),
    ]
    subprocess.run(argv, check=True)
