"""Networks of Compose: at the top level, and those that a service is in. A network is who may talk to whom, no wire.

Services that share one reach each other; an internal one does not lead to the world (Compose Specification,
06-networks.md). Every service has one interface and one address, whatever its networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from whit.base.errors import InputError
from whit.formats import shapes
from whit.formats.app.draft import Draft, Placed
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Entry, Table
from whit.formats.problems import Problems, near
from whit.model.app import DEFAULT_NETWORK, AppNetworkSpec

KEYS = ("internal", "labels", "driver")


def read_networks(entry: Entry | None, problems: Problems) -> dict[str, AppNetworkSpec]:
    """Those of the top level. What cannot be read is among the problems."""
    found: dict[str, AppNetworkSpec] = {}
    with problems.guard():
        for one in shapes.table(entry.value).entries.values() if entry else ():
            if not one.key.startswith("x-"):
                found[one.key] = AppNetworkSpec()
                with problems.guard():
                    found[one.key] = _network(one, problems)
    return found


def _network(entry: Entry, problems: Problems) -> AppNetworkSpec:
    table = shapes.table(entry.value)
    refuse(table, "networks.*", KEYS, problems)
    entries = table.entries
    if "driver" in entries and shapes.text(entries["driver"].value) != "bridge":
        hint = "the mesh is the only one; leave it out"
        raise InputError("only bridge is honoured", place=entries["driver"].value.place, hint=hint)
    labels = shapes.assignments(entries["labels"].value) if "labels" in entries else {}
    return AppNetworkSpec(
        internal="internal" in entries and shapes.truth(entries["internal"].value),
        labels={key: value or "" for key, (value, _) in labels.items()},
    )


def read_memberships(entry: Entry, draft: Draft) -> None:
    """The networks of a service: a list of names, or a table of them."""
    if not isinstance(entry.value, Table):
        draft.networks = [Placed(shapes.text(item), item.place) for item in shapes.items(entry.value)]
        return
    for found in entry.value.entries.values():
        draft.networks.append(Placed(found.key, found.place))
        with draft.source.problems.guard():
            refuse(shapes.table(found.value), "services.*.networks.*", (), draft.source.problems)


def check_networks(drafts: Mapping[str, Draft], networks: Mapping[str, AppNetworkSpec]) -> Iterator[InputError]:
    """Networks that are not there, and uses that lead out of all networks of a service."""
    there = {*networks, DEFAULT_NETWORK}
    for draft in drafts.values():
        for one in draft.networks:
            if one.value not in there:
                hint = f"{near(one.value, networks)}; add it to the top-level networks"
                yield InputError(f"there is no network {one.value!r}", place=one.place, hint=hint)
    if networks or any(draft.networks for draft in drafts.values()):
        for draft in drafts.values():
            yield from _uses(draft, drafts, networks)


def _uses(draft: Draft, drafts: Mapping[str, Draft], networks: Mapping[str, AppNetworkSpec]) -> Iterator[InputError]:
    own = _names(draft)
    internal = all(name in networks and networks[name].internal for name in own)
    for use in draft.uses:
        peer = use.value.service
        if peer is not None and peer in drafts and not own & _names(drafts[peer]):
            hint = f"add {draft.name} to one of {', '.join(sorted(_names(drafts[peer])))}"
            yield InputError(f"shares no network with {peer}", place=use.place, hint=hint)
        if peer is None and use.value.entity != "host" and internal:
            hint = "add a network that is not internal"
            yield InputError("leads out of the app, and all its networks are internal", place=use.place, hint=hint)


def _names(draft: Draft) -> set[str]:
    return {one.value for one in draft.networks} or {DEFAULT_NETWORK}
