"""Policy of apps compiled as the agent does it, all at once, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from whit.mesh.policy import identities
from whit.mesh.policy.compiler import Table
from whit.mesh.policy.engine import Engine, Situation
from whit.mesh.policy.identities import IdentityBook
from whit.mesh.policy.outside import outside_of
from whit.mesh.policy.policies import Addresses
from whit.mesh.policy.rulebook import RuleBook
from whit.model.app import AppSpec
from whit.model.policy import PolicySpec


@dataclass(frozen=True)
class Compiled:
    """The whole map, and what its numbers mean."""

    table: Table
    identities: IdentityBook
    rules: RuleBook

    def number(self, name: str) -> int:
        return self.identities.number(name)


def compiled(
    apps: Sequence[AppSpec],
    policies: Sequence[PolicySpec] = (),
    *,
    known: IdentityBook | None = None,
    rules: RuleBook | None = None,
    leaving: Sequence[str] = (),
    addresses: Addresses = MappingProxyType({}),
) -> Compiled:
    found = outside_of(apps, [*policies, *(policy for app in apps for policy in app.policies)])
    owners = [f"{app.name}/{service}" for app in apps for service in app.services]
    book = identities.assign(known or IdentityBook(), [*owners, *leaving], found)
    engine = Engine(rules or RuleBook())
    numbers = identities.numbers_of(book, found)
    tables = engine.compile(Situation(apps, policies, leaving, book.numbers, numbers, addresses), at=0.0)
    table = {key: value for one in tables.values() for key, value in one.items()}
    return Compiled(table, book, engine.book)
