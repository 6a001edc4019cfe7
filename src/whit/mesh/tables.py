"""Brings the datapath's maps to what they should hold, by the difference to what they hold now.

What is there is read from the maps once and remembered then: a new agent finds its predecessor's entries right and
writes nothing. The order keeps every moment safe: who somebody is before what he may, backends before the slots that
lead to them, slots before the frontend that counts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

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
from whit.mesh import compiler, maglev
from whit.mesh.services import Service, ServiceTables, service_tables

UNFINISHED = PolicyKey(POLICY_PREFIX_ANY_PROTOCOL, subject=0, peer=0, direction=0, protocol=0, port=0)
"""Of a subject that nobody is, so that it decides nothing. There while policy is being changed."""
MARK = PolicyValue(rule=0, precedence=0, verdict=Verdict.DENY, flags=0, redirect_port=0)

Identities = Mapping[IdentityKey, IdentityValue]

K = TypeVar("K")
V = TypeVar("V")


class IdentityMap:
    """The map of identities, and what was written to it. Entries of instances come and go beside it by `network`, to
    the same end, so that writing one twice does no harm."""

    def __init__(self, datapath: Datapath) -> None:
        self.table = datapath.identities
        self._written: dict[IdentityKey, IdentityValue] | None = None
        self._outside: dict[str, Identities] = {}

    def write(self, wanted: Identities, outside: Mapping[str, Identities] = MappingProxyType({})) -> int:
        """Returns how many entries changed. `outside` are many that seldom change, by app, and give way to those
        wanted: of an app they are looked at only if they are not the same object as the last time."""
        known, self._written = self._written, None
        if known is None:
            before = dict(self.table.items())
            after = {key: value for part in outside.values() for key, value in part.items()}
        else:
            names = [name for name in {*self._outside, *outside} if self._outside.get(name) is not outside.get(name)]
            before = {key: value for name in names for key, value in self._outside.get(name, {}).items()} | known
            after = {key: value for name in names for key, value in outside.get(name, {}).items()}
            # What one has given up may be another's too.
            lost = before.keys() - after.keys() - wanted.keys()
            after |= {key: part[key] for part in outside.values() for key in lost & part.keys()} if lost else {}
        after |= wanted
        changed = _put(self.table, before, after) + _drop(self.table, before, after)
        self._written, self._outside = dict(wanted), dict(outside)
        return changed


class ServiceMaps:
    """The service maps, and what was written to them: only services that changed are looked at again.

    What an agent before this one left is read once. After an error it is read anew. Not for several threads at once.
    """

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        self._written: dict[int, tuple[Service, ServiceTables]] | None = None

    def found(self) -> dict[int, BackendValue]:
        """The backends that are in the kernel."""
        return dict(self.datapath.backends.items())

    def write(self, services: Iterable[Service]) -> int:
        """Grow from the backends up, shrink from the frontends down. Returns how many entries changed.

        Flows are told, by the generation, when a backend of theirs may have gone.
        """
        wanted = {service.number: service for service in services}
        known, self._written = self._written, None
        if known is None:
            after = {number: (service, service_tables([service])) for number, service in wanted.items()}
            changed = self._change(_read(self.datapath), _joined(tables for _, tables in after.values()))
        else:
            new = {
                number: one
                for number, one in wanted.items()
                if number not in known or (known[number][0] is not one and known[number][0] != one)
            }
            replaced = {number: (service, service_tables([service])) for number, service in new.items()}
            stale = [number for number in known if number not in wanted]
            before = _joined(known[number][1] for number in (*(new.keys() & known.keys()), *stale))
            changed = self._change(before, _joined(tables for _, tables in replaced.values()))
            after = known | replaced
            for number in stale:
                del after[number]
        self._written = after
        return changed

    def _change(self, before: ServiceTables, after: ServiceTables) -> int:
        datapath = self.datapath
        lost = [
            number
            for number, value in before.backends.items()
            if number not in after.backends or after.backends[number].address != value.address
        ]
        changed = _put(datapath.backends, before.backends, after.backends)
        changed += _put(datapath.slots, before.slots, after.slots)
        changed += self._put_maglev(before, after)
        changed += _put(datapath.frontends, before.frontends, after.frontends)
        changed += _drop(datapath.frontends, before.frontends, after.frontends)
        for number in before.maglev.keys() - after.maglev.keys():
            datapath.maglev.delete(number)
        changed += _drop(datapath.slots, before.slots, after.slots)
        changed += _drop(datapath.backends, before.backends, after.backends)
        if lost:
            raise_generation(datapath)
        return changed

    def _put_maglev(self, before: ServiceTables, after: ServiceTables) -> int:
        """A table takes its place at once, and leads to backends that are there already."""
        changed = [number for number, weights in after.maglev.items() if before.maglev.get(number) != weights]
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


def _joined(parts: Iterable[ServiceTables]) -> ServiceTables:
    """Of several services, which have no entry in common."""
    whole = ServiceTables()
    for part in parts:
        for name in ("backends", "slots", "frontends", "maglev"):
            getattr(whole, name).update(getattr(part, name))
    return whole


def raise_generation(datapath: Datapath) -> None:
    """Every flow is judged again by its next packet: policy, and whether its backend is there."""
    state = datapath.state.get(0)
    datapath.state.put(0, replace(state, generation=(state.generation + 1) & 0xFFFFFFFF))


def write_policy(datapath: Datapath, wanted: compiler.Table) -> int:
    """Write the difference, then raise the generation: flows that were let through are asked about again.

    An agent that dies on the way leaves a mark, which is a difference to its successor: that raises it then.
    """
    changes = compiler.changes(dict(datapath.policies.items()), wanted)
    if not changes:
        return 0
    datapath.policies.put_many({UNFINISHED: MARK})
    datapath.policies.put_many(changes.tightening)
    datapath.policies.put_many(changes.loosening)
    datapath.policies.delete_many([key for key in changes.removals if key != UNFINISHED])
    raise_generation(datapath)
    datapath.policies.delete_many([UNFINISHED])
    return len(changes)


def _put(table: HashMap[K, V], there: Mapping[K, V], wanted: Mapping[K, V]) -> int:
    missing = {key: value for key, value in wanted.items() if there.get(key) != value}
    table.put_many(missing)
    return len(missing)


def _drop(table: HashMap[K, V], there: Mapping[K, V], wanted: Mapping[K, V]) -> int:
    stale = [key for key in there if key not in wanted]
    table.delete_many(stale)
    return len(stale)
