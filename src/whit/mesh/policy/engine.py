"""Engine: keeps the tables of all subjects, and makes anew only those that a change touches.

An app is the unit that is looked at again: when the app's object, its policies, or an answer that its lines were made
of is another. Of its services, those whose lines are the same keep their tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from whit.base.latest import Latest
from whit.mesh.policy.compiler import WAYS, Table, compile_side
from whit.mesh.policy.lines import CLOSED, ISOLATED, Line, denial
from whit.mesh.policy.outside import Numbers
from whit.mesh.policy.policies import Addresses, Scene, lines_for
from whit.mesh.policy.rulebook import RuleBook
from whit.mesh.policy.rules import Lines, Peers, Side, lines_of, lines_of_leaving
from whit.mesh.policy.world import World
from whit.model.app import AppSpec
from whit.model.policy import PolicySpec

Tables = Mapping[int, Table]
"""By subject."""
Compiled = tuple[tuple[Line, ...], Table]


@dataclass(frozen=True)
class Situation:
    """What policy follows from. Apps and policies are compared as objects first: keep them while they are the same."""

    apps: Sequence[AppSpec] = ()
    policies: Sequence[PolicySpec] = ()
    """Those that were applied by themselves; apps bring their own."""
    leaving: Sequence[str] = ()
    """Services (app/service) that no app names any more, of which instances still run."""
    services: Mapping[str, int] = field(default_factory=dict)
    """Identities by name."""
    outside: Numbers = field(default_factory=Numbers)
    addresses: Addresses = field(default_factory=dict)
    """Of instances, by service; the same object while they are the same."""


@dataclass
class _Unit:
    """An app, as it was last looked at."""

    cause: tuple[object, ...]
    sides: dict[Side, Compiled]


class Engine:
    """Not for two threads at once."""

    def __init__(self, book: RuleBook) -> None:
        self.book = book
        self.world = World()
        self.tables: dict[int, Table] = {}
        self._units: dict[str, _Unit] = {}
        self._settled = False
        self._touched: dict[int, Table] = {}
        self._looking: Latest[frozenset[str]] = Latest()

    def compile(self, now: Situation, at: float) -> Tables:
        """The tables of the subjects that changed, as they are now; empty of those that are gone. `at` is wall-clock
        time.

        Raises:
            InputError: an app uses a service that is not there.
            Unavailable: a subject needs too many entries.
        """
        self.world.update(now.apps, now.services)
        scene = Scene(self.world, Peers(now.services, now.outside), now.addresses)
        gone = self._units.keys() - {app.name for app in now.apps} - set(now.leaving)
        touched = self._touched
        for name in gone:
            touched.update(self._take(name, (), {}, at))
            del self._units[name]
        for app in now.apps:
            policies = policies_of(app, now.policies)
            cause = self._cause(app, policies, now)
            if not _same(self._units.get(app.name), cause):
                lines = lines_of(app, scene.peers)
                for side, found in lines_for(app.name, policies, scene).items():
                    lines[side] += found
                touched.update(self._take(app.name, cause, lines, at))
        for who in now.leaving:
            if who not in self._units:
                touched.update(self._take(who, (who,), lines_of_leaving(who, now.services[who]), at))
        self._tidy(at)
        self.tables = {subject: table for subject, table in (self.tables | touched).items() if table}
        # Not before: what was made before something failed is told the next time.
        self._touched = {}
        return touched

    def lines(self) -> Iterator[tuple[Side, tuple[Line, ...]]]:
        """What the tables are made of, by subject and direction."""
        for unit in self._units.values():
            for side, (own, _) in unit.sides.items():
                yield side, own

    def _cause(self, app: AppSpec, policies: Sequence[PolicySpec], now: Situation) -> tuple[object, ...]:
        """Only policies look at other apps, whose version stands for them."""
        outside = now.outside if policies or app.name in self._looking_outside(now.apps) else None
        blocks = any(peer.cidr for policy in policies for rule in policy.rules for peer in rule.peers)
        addresses = now.addresses if blocks else None
        return app, self.world.version if policies else None, outside, addresses, *policies

    def _looking_outside(self, apps: Sequence[AppSpec]) -> frozenset[str]:
        return self._looking.get(apps, lambda: frozenset(app.name for app in apps if _looks_outside(app)))

    def _take(self, name: str, cause: tuple[object, ...], lines: Lines, at: float) -> dict[int, Table]:
        before = self._units[name].sides if name in self._units else {}
        sides: dict[Side, Compiled] = {}
        touched = {side[0] for side in before.keys() - lines.keys()}
        for side, found in lines.items():
            known = before.get(side)
            own = tuple(explained(found))
            if known is None or known[0] != own:
                known = own, compile_side(*side, own, self.book.number)
                touched.add(side[0])
            sides[side] = known
        self._tell(before, sides, at)
        self._units[name] = _Unit(cause, sides)
        return {subject: _table(subject, sides) for subject in touched}

    def _tell(self, before: Mapping[Side, Compiled], after: Mapping[Side, Compiled], at: float) -> None:
        """The book counts by entry: what no entry names, no flow can name either."""
        self.book.use(_rules(after, before), _rules(before, after), at)

    def _tidy(self, at: float) -> None:
        if not self._settled:
            self.book.settle(at)
            self._settled = True
        self.book.forget(at)


def policies_of(app: AppSpec, others: Iterable[PolicySpec]) -> tuple[PolicySpec, ...]:
    """Those that may be for services of the app: its own, those applied to it, and the cluster's."""
    return (*app.policies, *(policy for policy in others if policy.app in ("", app.name)))


def explained(lines: Sequence[Line]) -> Iterator[Line]:
    """The lines, with those that deny what no rule allows put together, and saying how many rules there were."""
    yield from (line for line in lines if line.order[0] not in (ISOLATED, CLOSED))
    for stage in (ISOLATED, CLOSED):
        for audit in (False, True):
            texts = dict.fromkeys(line.text for line in lines if line.order[0] == stage and line.audit == audit)
            if texts:
                text = f"{' and '.join(texts)}; {_unmatched(_allowing(lines, stage))}"
                yield denial(text, stage=stage, audit=audit)


def _allowing(lines: Iterable[Line], stage: int) -> int:
    """How many rules could have allowed it before this stage."""
    allowances = (line for line in lines if line.action == "allow" and not line.audit)
    return len({line.text for line in allowances if int(line.order[0]) < stage})


def _unmatched(rules: int) -> str:
    return {0: "there is no rule", 1: "its one rule does not match"}.get(rules, f"none of {rules} rules matches")


def _table(subject: int, sides: Mapping[Side, Compiled]) -> Table:
    table: Table = {}
    for direction in WAYS:
        if (subject, direction) in sides:
            table |= sides[subject, direction][1]
    return table


def _rules(sides: Mapping[Side, Compiled], others: Mapping[Side, Compiled]) -> list[int]:
    """The rules of each side that is not the same among the others."""
    found: list[int] = []
    for side, compiled in sides.items():
        if others.get(side) is not compiled:
            found += {value.rule for value in compiled[1].values()}
    return found


def _same(unit: _Unit | None, cause: Sequence[object]) -> bool:
    return (
        unit is not None
        and len(unit.cause) == len(cause)
        and all(old is new or (isinstance(new, int) and old == new) for old, new in zip(unit.cause, cause, strict=True))
    )


def _looks_outside(app: AppSpec) -> bool:
    return app.mode == "open" or any(
        service.ports or any(use.service is None for use in service.uses) for service in app.services.values()
    )
