"""Brings the datapath's maps to what they should hold, by the difference to what they hold now.

What is there is read from the maps once and remembered then: a new agent finds its predecessor's entries right and
writes nothing. The order keeps every moment safe: who somebody is before what he may, backends before the slots that
lead to them, slots before the frontend that counts them.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

from whit.base.errors import MapFull
from whit.datapath.abi import (
    POLICY_PREFIX_ANY_PROTOCOL,
    BackendValue,
    IdentityKey,
    IdentityValue,
    PolicyKey,
    PolicyValue,
    Verdict,
)
from whit.datapath.datapath import Datapath
from whit.datapath.maps import HashMap
from whit.mesh import maglev
from whit.mesh.policy import compiler
from whit.mesh.policy.identities import NAME_SCOPE, NETWORK_SCOPE, scope_of
from whit.mesh.services import Service, ServiceTables, service_tables
from whit.model.policy import WORLD

UNFINISHED = PolicyKey(POLICY_PREFIX_ANY_PROTOCOL, subject=0, peer=0, direction=0, protocol=0, port=0)
"""Of a subject that nobody is, so that it decides nothing. There while policy is being changed."""
MARK = PolicyValue(rule=0, precedence=0, verdict=Verdict.DENY, flags=0, redirect_port=0)

Identities = Mapping[IdentityKey, IdentityValue]

_SIZED = ("backends", "slots", "frontends")

log = logging.getLogger(__name__)
K = TypeVar("K")
V = TypeVar("V")


class IdentityMap:
    """The map of identities, and what was written to it. Entries of instances come and go beside it by `network`, to
    the same end, so that writing one twice does no harm.

    Addresses that names lead to are a layer of their own, over the networks of policies and under everything else.
    """

    def __init__(self, datapath: Datapath) -> None:
        self.table = datapath.identities
        self._written: dict[IdentityKey, IdentityValue] | None = None
        self._outside: dict[str, Identities] = {}
        self._named: dict[IdentityKey, IdentityValue] | None = None
        self._hidden: dict[IdentityKey, IdentityValue] = {}
        """Addresses that names lead to and somebody else has."""

    def named(self) -> dict[IdentityKey, IdentityValue]:
        """The addresses that names lead to, as they are in the kernel. The first time the map is read."""
        if self._named is None:
            self._named = {key: value for key, value in self.table.items() if scope_of(value.identity) == NAME_SCOPE}
        return self._named

    def write_named(self, wanted: Identities, *, whole: bool = True) -> None:
        """Bring the addresses that names lead to to this; not `whole`: add these. Not before the first `write`.

        Who else has one of them keeps it. Raises MapFull.
        """
        there = self.named()
        gone = [key for key in there if key not in wanted] if whole else []
        asked = wanted if whole else {**self._hidden, **wanted}
        fresh = {key: value for key, value in asked.items() if there.get(key) != value}
        self._hidden = {key: fresh.pop(key) for key in [key for key in fresh if self._is_taken(key)]}
        self.table.put_many({key: self._written[key] for key in gone if self._written and key in self._written})
        self.table.delete_many([key for key in gone if not self._written or key not in self._written])
        for key in gone:
            del there[key]
        self.table.put_many(fresh)
        there.update(fresh)

    def _is_taken(self, key: IdentityKey) -> bool:
        found = (self._written or {}).get(key)
        if found is not None:
            return not _is_of_networks(found)
        return any(key in part for part in self._outside.values())

    def write(self, wanted: Identities, outside: Mapping[str, Identities] = MappingProxyType({})) -> int:
        """Returns how many entries changed. `outside` are many that seldom change, by app, and give way to those
        wanted: of an app they are looked at only if they are not the same object as the last time."""
        known, self._written = self._written, None
        named = self.named()
        if known is None:
            before = {key: value for key, value in self.table.items() if key not in named}
            after = {key: value for part in outside.values() for key, value in part.items()}
        else:
            names = [name for name in {*self._outside, *outside} if self._outside.get(name) is not outside.get(name)]
            before = {key: value for name in names for key, value in self._outside.get(name, {}).items()} | known
            after = {key: value for name in names for key, value in outside.get(name, {}).items()}
            # What one has given up may be another's too.
            lost = before.keys() - after.keys() - wanted.keys()
            after |= {key: part[key] for part in outside.values() for key in lost & part.keys()} if lost else {}
        after |= wanted
        for key in [key for key in named if key in after or key in before]:
            self._settle(key, named, before, after)
        changed = self._change(before, after)
        self._written, self._outside = dict(wanted), dict(outside)
        if self._hidden:
            self.write_named({}, whole=False)
        return changed

    def _settle(
        self,
        key: IdentityKey,
        named: dict[IdentityKey, IdentityValue],
        before: dict[IdentityKey, IdentityValue],
        after: dict[IdentityKey, IdentityValue],
    ) -> None:
        """A name's address stays what it is under a network, and gives way to who else has it."""
        before.pop(key, None)
        if key in after and not _is_of_networks(after[key]):
            self._hidden[key] = named.pop(key)
        else:
            after.pop(key, None)

    def _change(self, before: Identities, after: Identities) -> int:
        """In a full map the old make room first: nobody has their addresses any more."""
        try:
            put = _put(self.table, before, after)
        except MapFull:
            dropped = _drop(self.table, before, after)
            return dropped + _put(self.table, before, after)
        return put + _drop(self.table, before, after)


def _is_of_networks(value: IdentityValue) -> bool:
    """Said by a network of some policy, or by its exception."""
    return value.identity == WORLD or scope_of(value.identity) == NETWORK_SCOPE


class ServiceMaps:
    """The service maps, and what was written to them: only services that changed are looked at again.

    What an agent before this one left is read once. After an error it is read anew. Not for several threads at once.
    Only the services are kept: their entries follow from them, and those of ten thousand would take 20 MB more.
    """

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        self._written: dict[int, Service] | None = None

    def found(self) -> dict[int, BackendValue]:
        """The backends that are in the kernel."""
        return dict(self.datapath.backends.items())

    def write(self, services: Iterable[Service]) -> int:
        """Grow from the backends up, shrink from the frontends down. Returns how many entries changed.

        Flows are told, by the generation, when a backend of theirs may have gone.

        Raises:
            MapFull: services that have no room are as they were, all others as they should be.
        """
        wanted = {service.number: service for service in services}
        try:
            return self._attempt(wanted)
        except MapFull:
            fitting = self._fitting(wanted)
            log.error("no room for %d of %d services", sum(fitting.get(n) != wanted[n] for n in wanted), len(wanted))
            self._attempt(fitting)
            raise

    def _attempt(self, wanted: Mapping[int, Service]) -> int:
        known, self._written = self._written, None
        try:
            return self._write(wanted, known)
        except MapFull:
            self._written = known
            raise

    def _fitting(self, wanted: Mapping[int, Service]) -> dict[int, Service]:
        """Those that are there, then what has become of them, then new ones, as far as there is room."""
        there = self._written or {}
        chosen = {number: service for number, service in there.items() if number in wanted}
        used = Counter(_sizes(service_tables(chosen.values())))
        for number, service in wanted.items():
            more = Counter(used)
            more.update(_sizes(service_tables([service])))
            more.subtract(_sizes(service_tables([there[number]])) if number in chosen else {})
            if all(more[name] <= getattr(self.datapath, name).max_entries for name in _SIZED):
                chosen[number], used = service, more
        return chosen

    def _write(self, wanted: Mapping[int, Service], known: Mapping[int, Service] | None) -> int:
        if known is None:
            changed = self._change(_read(self.datapath), service_tables(wanted.values()))
        else:
            new = [one for number, one in wanted.items() if known.get(number) is not one and known.get(number) != one]
            stale = [one for number, one in known.items() if number not in wanted]
            replaced = [known[one.number] for one in new if one.number in known]
            changed = self._change(service_tables([*replaced, *stale]), service_tables(new))
        self._written = dict(wanted)
        return changed

    def _change(self, before: ServiceTables, after: ServiceTables) -> int:
        lost = [
            number
            for number, value in before.backends.items()
            if number not in after.backends or after.backends[number].address != value.address
        ]
        try:
            changed = self._grow(before, after)
        except MapFull:
            self._grow(after, before)
            self._shrink(after, before)
            if not self._would_fit(before, after):
                raise
            changed = self._change_in_place(before, after)
        else:
            changed += self._shrink(before, after)
        if lost:
            raise_generation(self.datapath)
        return changed

    def _change_in_place(self, before: ServiceTables, after: ServiceTables) -> int:
        """With no room for the old and the new beside each other. What changes is without a backend for a moment."""
        try:
            return self._shrink(before, after) + self._grow(before, after)
        except MapFull:
            self._shrink(after, before)
            self._grow(after, before)
            raise

    def _would_fit(self, before: ServiceTables, after: ServiceTables) -> bool:
        return all(
            getattr(self.datapath, name).count() - len(getattr(before, name)) + len(getattr(after, name))
            <= getattr(self.datapath, name).max_entries
            for name in _SIZED
        )

    def _grow(self, before: ServiceTables, after: ServiceTables) -> int:
        datapath = self.datapath
        changed = _put(datapath.backends, before.backends, after.backends)
        changed += _put(datapath.slots, before.slots, after.slots)
        changed += self._put_maglev(before, after)
        return changed + _put(datapath.frontends, before.frontends, after.frontends)

    def _shrink(self, before: ServiceTables, after: ServiceTables) -> int:
        datapath = self.datapath
        changed = _drop(datapath.frontends, before.frontends, after.frontends)
        for number in before.maglev.keys() - after.maglev.keys():
            datapath.maglev.delete(number)
        changed += _drop(datapath.slots, before.slots, after.slots)
        return changed + _drop(datapath.backends, before.backends, after.backends)

    def _put_maglev(self, before: ServiceTables, after: ServiceTables) -> int:
        """A table takes its place at once, and leads to backends that are there already."""
        changed = [n for n, weights in after.maglev.items() if weights and before.maglev.get(n) != weights]
        for number in changed:
            weights = dict(after.maglev[number])
            names = {one: f"{after.backends[one].address} {after.backends[one].port}" for one in weights}
            self.datapath.maglev.put(number, maglev.table(weights, names))
        return len(changed)


def _read(datapath: Datapath) -> ServiceTables:
    """Of Maglev tables only whose they are: an agent makes them anew."""
    return ServiceTables(
        dict(datapath.backends.items()),
        dict(datapath.slots.items()),
        dict(datapath.frontends.items()),
        dict.fromkeys(datapath.maglev.services(), ()),
    )


def _sizes(tables: ServiceTables) -> dict[str, int]:
    return {name: len(getattr(tables, name)) for name in _SIZED}


def raise_generation(datapath: Datapath) -> None:
    """Every flow is judged again by its next packet: policy, and whether its backend is there."""
    state = datapath.state.get(0)
    datapath.state.put(0, replace(state, generation=(state.generation + 1) & 0xFFFFFFFF))


def write_policy(datapath: Datapath, wanted: compiler.Table) -> int:
    """All of it, by the difference to what the map holds. Returns how many entries changed."""
    return _change(datapath, dict(datapath.policies.items()), wanted)


class PolicyMap:
    """The map of policies, and what was written to it: only subjects that changed are looked at again.

    At first, and after an error, the map is read: some 10 µs an entry. Not for several threads at once.
    """

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        self._written: dict[int, compiler.Table] | None = None

    def write(self, tables: Mapping[int, compiler.Table], touched: Mapping[int, compiler.Table]) -> int:
        """Tables by subject: all, and those that may be others than the last time; an empty one is of a subject that
        is gone. Returns how many entries changed."""
        known, self._written = self._written, None
        if known is None:
            known = _by_subject(self.datapath.policies.items())
            touched = {subject: tables.get(subject, {}) for subject in {*known, *tables}}
        before = {key: value for subject in touched for key, value in known.get(subject, {}).items()}
        after = {key: value for table in touched.values() for key, value in table.items()}
        changed = _change(self.datapath, before, after)
        known.update(touched)
        self._written = {subject: table for subject, table in known.items() if table}
        return changed


def _by_subject(entries: Iterable[tuple[PolicyKey, PolicyValue]]) -> dict[int, compiler.Table]:
    found: dict[int, compiler.Table] = {}
    for key, value in entries:
        found.setdefault(key.subject, {})[key] = value
    return found


def _change(datapath: Datapath, old: compiler.Table, new: compiler.Table) -> int:
    """Write the difference, then raise the generation: flows that were let through are asked about again.

    An agent that dies on the way leaves a mark, which is a difference to its successor: that raises it then.

    Raises:
        MapFull: what was there is there again. Old and new have to fit in together.
    """
    changes = compiler.changes(old, new)
    if not changes:
        return 0
    try:
        datapath.policies.put_many({UNFINISHED: MARK})
        _carry_out(datapath, changes)
    except MapFull:
        # First, because a full trie replaces an entry only since Linux 6.13.
        datapath.policies.delete_many([UNFINISHED])
        subjects = {key.subject for table in (old, new) for key in table}
        there = {key: value for key, value in datapath.policies.items() if key.subject in subjects}
        _carry_out(datapath, compiler.changes(there, old))
        raise
    datapath.policies.delete_many([UNFINISHED])
    return len(changes)


def _carry_out(datapath: Datapath, changes: compiler.Changes) -> None:
    datapath.policies.put_many(changes.tightening)
    datapath.policies.put_many(changes.loosening)
    datapath.policies.delete_many([key for key in changes.removals if key != UNFINISHED])
    raise_generation(datapath)


def _put(table: HashMap[K, V], there: Mapping[K, V], wanted: Mapping[K, V]) -> int:
    missing = {key: value for key, value in wanted.items() if there.get(key) != value}
    table.put_many(missing)
    return len(missing)


def _drop(table: HashMap[K, V], there: Mapping[K, V], wanted: Mapping[K, V]) -> int:
    stale = [key for key in there if key not in wanted]
    table.delete_many(stale)
    return len(stale)
