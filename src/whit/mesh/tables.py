"""Brings the datapath's maps to what they should hold, by the difference to what they hold now.

What is there is read from the maps themselves, never remembered: a new agent finds its predecessor's entries right and
writes nothing. The order keeps every moment safe: who somebody is before what he may, backends before the slots that
lead to them, slots before the frontend that counts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from whit.datapath.abi import (
    POLICY_PREFIX_ANY_PROTOCOL,
    IdentityKey,
    IdentityValue,
    PolicyKey,
    PolicyValue,
    Verdict,
)
from whit.datapath.datapath import Datapath
from whit.datapath.maps import HashMap
from whit.mesh import compiler
from whit.mesh.services import ServiceTables

UNFINISHED = PolicyKey(POLICY_PREFIX_ANY_PROTOCOL, subject=0, peer=0, direction=0, protocol=0, port=0)
"""Of a subject that nobody is, so that it decides nothing. There while policy is being changed."""
MARK = PolicyValue(rule=0, precedence=0, verdict=Verdict.DENY, flags=0, redirect_port=0)

K = TypeVar("K")
V = TypeVar("V")


def write_identities(datapath: Datapath, wanted: Mapping[IdentityKey, IdentityValue]) -> int:
    """Returns how many entries changed."""
    return _write(datapath.identities, wanted)


def write_services(datapath: Datapath, wanted: ServiceTables) -> int:
    """Grow from the backends up, shrink from the frontends down. Returns how many entries changed."""
    stale_frontends = _stale(datapath.frontends, wanted.frontends)
    changed = _put(datapath.backends, wanted.backends) + _put(datapath.slots, wanted.slots)
    changed += _put(datapath.frontends, wanted.frontends)
    datapath.frontends.delete_many(stale_frontends)
    changed += _drop(datapath.slots, wanted.slots) + _drop(datapath.backends, wanted.backends)
    return changed + len(stale_frontends)


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
    state = datapath.state.get(0)
    datapath.state.put(0, replace(state, generation=(state.generation + 1) & 0xFFFFFFFF))
    datapath.policies.delete_many([UNFINISHED])
    return len(changes)


def _write(table: HashMap[K, V], wanted: Mapping[K, V]) -> int:
    return _put(table, wanted) + _drop(table, wanted)


def _put(table: HashMap[K, V], wanted: Mapping[K, V]) -> int:
    there = dict(table.items())
    missing = {key: value for key, value in wanted.items() if there.get(key) != value}
    table.put_many(missing)
    return len(missing)


def _drop(table: HashMap[K, V], wanted: Mapping[K, V]) -> int:
    stale = _stale(table, wanted)
    table.delete_many(stale)
    return len(stale)


def _stale(table: HashMap[K, V], wanted: Mapping[K, V]) -> list[K]:
    return [key for key, _ in table.items() if key not in wanted]
