"""Identities: the numbers that stand for services and for what is outside, never reused. Pure.

The top byte is the scope: 0 reserved, 1 a service, 2 a set of networks that this node's policy speaks of, 3 such a set
with names of the DNS in it, whose addresses the resolver learns.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from pydantic import Field

from whit.base.errors import Unavailable
from whit.mesh.policy.outside import Numbers, Outside, title
from whit.model.base import Noun
from whit.model.policy import HOST, RESOLVER, UNASSIGNED, WORLD

SERVICE_SCOPE = 1 << 24
NETWORK_SCOPE = 2 << 24
NAME_SCOPE = 3 << 24
SCOPE_SIZE = 1 << 24
MOST_UNUSED_SETS = 1000
"""Sets of names of the DNS that no address has, but flows of the past may have had."""

RESERVED = {HOST: "host", WORLD: "world", RESOLVER: "resolver", UNASSIGNED: "nobody"}


class IdentityBook(Noun):
    """Names by number, as control stores them. A number is never given to another name."""

    names: dict[int, str] = Field(default_factory=dict)
    following: dict[int, int] = Field(default_factory=dict)
    """By scope in which names were forgotten: the first number that was never given out."""

    @cached_property
    def numbers(self) -> dict[str, int]:
        return {name: number for number, name in self.names.items()}

    def number(self, name: str) -> int:
        """Raises KeyError if the name has none."""
        return self.numbers[name]

    def name(self, number: int) -> str:
        return RESERVED.get(number) or self.names.get(number, f"identity {number}")


def scope_of(number: int) -> int:
    return number & 0xFF000000


def service_name(app: str, service: str) -> str:
    """The security labels of a service, sorted and joined, in the form in which people read them."""
    return f"{app}/{service}"


def assign(book: IdentityBook, services: Iterable[str], outside: Outside) -> IdentityBook:
    """Numbers for all that have none yet. Raises Unavailable when a scope is used up."""
    book = _forget_sets(book, set(map(title, outside.named_sets)))
    names = dict(book.names)
    known = set(names.values())
    wanted = (
        (SERVICE_SCOPE, services),
        (NETWORK_SCOPE, map(title, outside.sets)),
        (NAME_SCOPE, map(title, outside.named_sets)),
    )
    for scope, titles in wanted:
        following = max(_following(book, scope), book.following.get(scope, 0))
        for name in titles:
            if name not in known:
                if following == scope + SCOPE_SIZE:
                    raise Unavailable(f"all {SCOPE_SIZE - 1:,} identities of this scope were given out")
                names[following] = name
                known.add(name)
                following += 1
    return book if len(names) == len(book.names) else IdentityBook(names=names, following=book.following)


def _following(book: IdentityBook, scope: int) -> int:
    return max((number for number in book.names if scope_of(number) == scope), default=scope) + 1


def _forget_sets(book: IdentityBook, wanted: set[str]) -> IdentityBook:
    """What several names share changes with every answer, and all that ever was would outgrow the document."""
    unused = [number for number, name in book.names.items() if scope_of(number) == NAME_SCOPE and name not in wanted]
    if len(unused) <= MOST_UNUSED_SETS:
        return book
    gone = set(unused)
    following = max(_following(book, NAME_SCOPE), book.following.get(NAME_SCOPE, 0))
    kept = {number: name for number, name in book.names.items() if number not in gone}
    return IdentityBook(names=kept, following=book.following | {NAME_SCOPE: following})


def numbers_of(book: IdentityBook, outside: Outside) -> Numbers:
    """The outside with its identities, which `assign` gave it."""
    titles = map(title, (*outside.sets, *outside.named_sets))
    return Numbers(outside, {found: book.numbers[found] for found in titles})
