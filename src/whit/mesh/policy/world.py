"""World: the services of all apps as policies select them, by labels. Knows which answers a change of an app spoils."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from whit.mesh.policy.identities import service_name
from whit.model.app import AppSpec
from whit.model.policy import NUMBERS, RESOLVER
from whit.model.selector import APP_NAME, NETWORK, SERVICE_NAME, LabelSelector, Requirement

EVERY = LabelSelector()
RESOLVER_APP, RESOLVER_SERVICE = "kube-system", "kube-dns"
"""What the cluster's name server is called in the policies of Kubernetes; here it is the node's resolver."""


class Member(NamedTuple):
    """A service as a peer or subject. `ports` are its named ports: (protocol number, name) to number."""

    identity: int
    app: str
    name: str
    labels: tuple[tuple[str, str], ...]
    ports: tuple[tuple[int, str, int], ...] = ()

    def port(self, protocol: int, name: str) -> list[int]:
        return [number for kind, called, number in self.ports if (kind, called) == (protocol, name)]


class Members:
    """The services of one app, found by label without looking at each."""

    def __init__(self, labels: Mapping[str, str], members: Iterable[Member]) -> None:
        self.labels = dict(labels)
        self.all = tuple(members)
        self._found: dict[LabelSelector, tuple[Member, ...]] = {EVERY: self.all}
        self._by_label: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        for position, member in enumerate(self.all):
            for key, value in member.labels:
                self._by_label[key][value].add(position)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Members) and (self.labels, self.all) == (other.labels, other.all)

    __hash__ = None  # type: ignore[assignment]

    def select(self, selector: LabelSelector) -> tuple[Member, ...]:
        found = self._found.get(selector)
        if found is None:
            found = self._found[selector] = tuple(self.all[position] for position in sorted(self._positions(selector)))
        return found

    def _positions(self, selector: LabelSelector) -> set[int]:
        sets = [self._with(key, [value]) for key, value in selector.match_labels.items()]
        sets += [self._meeting(requirement) for requirement in selector.match_expressions]
        return set.intersection(*sorted(sets, key=len))

    def _with(self, key: str, values: Iterable[str]) -> set[int]:
        by_value = self._by_label.get(key, {})
        return set().union(*(by_value.get(value, ()) for value in values))

    def _meeting(self, requirement: Requirement) -> set[int]:
        everybody = set(range(len(self.all)))
        labelled = set().union(*self._by_label.get(requirement.key, {}).values())
        return {
            "In": lambda: self._with(requirement.key, requirement.values),
            "NotIn": lambda: everybody - self._with(requirement.key, requirement.values),
            "Exists": lambda: labelled,
            "DoesNotExist": lambda: everybody - labelled,
        }[requirement.operator]()


class World:
    """All of them. `version` rises when an answer about several apps may have become another."""

    def __init__(self) -> None:
        self.apps: dict[str, Members] = {RESOLVER_APP: resolver_members()}
        self.version = 0
        self._specs: dict[str, AppSpec] = {}
        self._across: dict[tuple[LabelSelector, LabelSelector], tuple[Member, ...]] = {}

    def update(self, apps: Iterable[AppSpec], numbers: Mapping[str, int]) -> None:
        """Take over what the apps are now. An app whose object is the same is not looked at."""
        specs = {app.name: app for app in apps}
        changed = [self._forget(name) for name in self._specs.keys() - specs.keys()]
        changed += [self._take(app, numbers) for app in specs.values() if self._specs.get(app.name) is not app]
        self._specs = specs
        if any(changed):
            self.version += 1
            self._across.clear()

    def select(self, app: str, services: LabelSelector | None, apps: LabelSelector | None) -> tuple[Member, ...]:
        """Services of the one app, or of all apps that have these labels."""
        wanted = EVERY if services is None else services
        if apps is None:
            return self.apps[app].select(wanted) if app in self.apps else ()
        key = (wanted, apps)
        found = self._across.get(key)
        if found is None:
            found = tuple(one for members in self._apps_with(apps) for one in members.select(wanted))
            self._across[key] = found
        return found

    def _apps_with(self, apps: LabelSelector) -> Iterator[Members]:
        return (members for members in self.apps.values() if apps.matches(members.labels))

    def _take(self, app: AppSpec, numbers: Mapping[str, int]) -> bool:
        members = Members(labels_of(app), (_member(app, name, numbers) for name in app.services))
        if self.apps.get(app.name) == members:
            return False
        self.apps[app.name] = members
        return True

    def _forget(self, app: str) -> bool:
        return self.apps.pop(app, None) is not None


def labels_of(app: AppSpec) -> dict[str, str]:
    return {**app.labels, APP_NAME: app.name}


def _member(app: AppSpec, name: str, numbers: Mapping[str, int]) -> Member:
    service = app.services[name]
    networks = {f"{NETWORK}/{network}": "" for network in app.networks_of(name)}
    labels = {**service.labels, **networks, SERVICE_NAME: name}
    exposed = [(NUMBERS[port.protocol], port.name, port.port) for port in service.expose]
    published = [(NUMBERS[port.protocol], port.name, port.target) for port in service.ports]
    ports = tuple(dict.fromkeys(port for port in (*exposed, *published) if port[1]))
    full = service_name(app.name, name)
    return Member(numbers[full], app.name, full, tuple(sorted(labels.items())), ports)


def resolver_members() -> Members:
    labels = (("k8s-app", RESOLVER_SERVICE), (SERVICE_NAME, RESOLVER_SERVICE))
    ports = ((NUMBERS["udp"], "dns", 53), (NUMBERS["tcp"], "dns-tcp", 53))
    member = Member(RESOLVER, RESOLVER_APP, "resolver", labels, ports)
    return Members({APP_NAME: RESOLVER_APP}, [member])
