"""Linking: decides which files of the merged tree come into the image, says why, and writes them as layers again.

Each part is linked whole, trimmed (trim.py) or by closure (closure.py). A package that several parts bring is linked by
the one that leaves the most in. Pure but for link(), which writes; runs in the worker.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whit.image.linking import bare, trim
from whit.image.linking.closure import Closure, Wanted
from whit.image.linking.index import Index, matches
from whit.image.linking.scans import Scans
from whit.image.provenance.bill import Bill, LeftOut
from whit.image.provenance.merged import Merged
from whit.image.rootfs import layer
from whit.image.rootfs.layer import Written
from whit.image.rootfs.tree import Entry
from whit.model.build import Link

_ORDER: tuple[Link, ...] = ("whole", "trim", "closure")
_COPYRIGHT = re.compile(r"usr/share/doc/[^/]+/copyright")
_STATUS = "var/lib/dpkg/status.d/"
_STATE = re.compile(r"(tmp|run|var|srv|home|root|mnt|opt|app|etc|proc|sys|dev|boot)(/.*)?")
_EXAMPLES = 200
_UNREACHED = "nothing reaches it"


@dataclass(frozen=True)
class Rule:
    """How a part is linked."""

    link: Link
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Order:
    """What is to be linked. `rules` are by the part's id, `observed` paths were opened in a run.

    Layers in `own_layers` are the person's work: they stay although their part is closed.
    """

    rules: Mapping[str, Rule]
    commands: tuple[tuple[str, ...], ...] = ()
    search: tuple[str, ...] = ()
    working_dir: str = ""
    own_layers: frozenset[int] = frozenset()
    observed: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Order:
        rules = {
            name: Rule(one["link"], tuple(one["include"]), tuple(one["exclude"]))
            for name, one in document["rules"].items()
        }
        commands = tuple(tuple(command) for command in document["commands"])
        own, observed = frozenset(document["own_layers"]), frozenset(document["observed"])
        return cls(rules, commands, tuple(document["search"]), document["working_dir"], own, observed)

    def document(self) -> dict[str, Any]:
        return {
            "rules": {name: dataclasses.asdict(rule) for name, rule in self.rules.items()},
            "commands": self.commands,
            "search": self.search,
            "working_dir": self.working_dir,
            "own_layers": sorted(self.own_layers),
            "observed": sorted(self.observed),
        }


@dataclass(frozen=True)
class Linked:
    """Layers by the index of the source that they are of, and the image's bill."""

    layers: dict[int, Written]
    bill: Bill


@dataclass
class _Selection:
    reasons: dict[str, tuple[str, str]] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    out: dict[str, str] = field(default_factory=dict)
    imported: set[str] = field(default_factory=set)
    """Modules that nothing opens as files."""

    def keep(self, path: str, reason: str, via: str = "") -> None:
        self.kept.add(path)
        self.reasons.setdefault(path, (reason, via))
        self.out.pop(path, None)


def link(merged: Merged, order: Order, destination: Path, scans: Scans | None = None) -> Linked:
    """Write the layers `destination`/layer-N.tar."""
    index = Index(merged.tree)
    chosen = select(merged, index, order, scans or Scans())
    entries, layer_of = dict(index.entries), dict(merged.layer_of)
    _bare(chosen, entries, layer_of)
    merged = dataclasses.replace(merged, layer_of=layer_of)
    with_parents = chosen.kept | _parents(chosen.kept)
    layers: dict[int, Written] = {}
    for number in range(len(merged.sources)):
        own = {path for path in with_parents if layer_of.get(path) == number and path in chosen.kept}
        if own:
            paths = sorted(own | _parents(own), key=lambda path: path.split("/"))
            layers[number] = layer.write((entries[path] for path in paths), destination / f"layer-{number}.tar")
    shown = [entries[path] for path in sorted(with_parents)]
    bill = Bill(merged.parts, merged.packages, merged.billed(shown, chosen.reasons), _left_out(chosen.out, entries))
    return Linked(layers, _without_absent(bill))


def select(merged: Merged, index: Index, order: Order, scans: Scans) -> _Selection:
    """Which files and directories stay, each with its reason, and what is left out and why."""
    links = _links(merged, order)
    chosen = _Selection()
    closed: list[Entry] = []
    for entry in index.entries.values():
        rule = order.rules.get(merged.part_of(entry), Rule("whole"))
        mode = links.get(entry.origin, rule.link)
        own = merged.layer_of.get(entry.path) in order.own_layers
        if entry.kind == "directory":
            continue
        if matches(entry.path, rule.exclude):
            chosen.out[entry.path] = "excluded"
        elif matches(entry.path, rule.include):
            chosen.keep(entry.path, "include")
        elif mode == "whole" or own:
            chosen.keep(entry.path, "the app's own file" if own else "the part is linked whole")
        elif mode == "trim":
            _trim(chosen, entry)
        else:
            closed.append(entry)
    if closed:
        _close(merged, index, order, chosen, closed, scans)
    _keep_directories(merged, index, links, order, chosen)
    return chosen


def _trim(chosen: _Selection, entry: Entry) -> None:
    if reason := trim.reason(entry.path):
        chosen.out[entry.path] = reason
    else:
        chosen.keep(entry.path, "the part is trimmed, and this is none of what trimming takes")


def _close(
    merged: Merged, index: Index, order: Order, chosen: _Selection, closed: Sequence[Entry], scans: Scans
) -> None:
    excluded = {path for path, reason in chosen.out.items() if reason == "excluded"}
    stay = {path: reason for path, (reason, _) in chosen.reasons.items()}
    wanted = Wanted(
        order.commands,
        order.search,
        order.working_dir,
        stay,
        tuple(sorted(order.observed)),
        excluded.__contains__,
        scans,
    )
    closure = Closure(index, wanted)
    reached = closure.walk()
    candidates = {entry.path for entry in closed}
    chosen.imported = (candidates & reached.keys()) - closure.files
    for path in candidates & reached.keys():
        chosen.keep(path, *reached[path])
    for path, how in reached.items():
        if path in chosen.kept:
            chosen.reasons[path] = how
    present = {index.entries[path].origin for path in chosen.kept}
    for entry in closed:
        if entry.path in chosen.kept:
            continue
        if entry.origin in present and (_COPYRIGHT.fullmatch(entry.path) or entry.path.startswith(_STATUS)):
            chosen.keep(entry.path, "tells what is in the image, and under which licence")
        else:
            chosen.out[entry.path] = trim.reason(entry.path) or _UNREACHED


def _bare(chosen: _Selection, entries: dict[str, Entry], layer_of: dict[str, int]) -> None:
    """Byte code takes the places of its sources, also as what led to other files."""
    moved: dict[str, str] = {}
    for one in bare.without_sources(entries, chosen.imported):
        entries[one.entry.path] = one.entry
        layer_of[one.entry.path] = layer_of[one.cache]
        moved[one.source] = one.entry.path
        chosen.keep(one.entry.path, *chosen.reasons[one.source])
        chosen.kept -= {one.source, one.cache}
        chosen.out[one.source] = bare.IN_PLACE
    chosen.reasons = {path: (reason, moved.get(via, via)) for path, (reason, via) in chosen.reasons.items()}


def _keep_directories(
    merged: Merged, index: Index, links: Mapping[str, Link], order: Order, chosen: _Selection
) -> None:
    """Those of whole and trimmed parts, and where programs write: state directories of packages that are there."""
    present = {index.entries[path].origin for path in chosen.kept}
    for entry in index.entries.values():
        if entry.kind != "directory" or matches(entry.path, _excluded(order)):
            continue
        rule = order.rules.get(merged.part_of(entry), Rule("whole"))
        mode = links.get(entry.origin, rule.link)
        if mode == "whole" or (mode == "trim" and not trim.reason(f"{entry.path}/x")):
            chosen.keep(entry.path, "directory of the part")
        elif matches(entry.path, rule.include):
            chosen.keep(entry.path, "include")
        elif _STATE.fullmatch(entry.path) and entry.origin in present and not trim.reason(f"{entry.path}/x"):
            chosen.keep(entry.path, "directory for a program's state")


def _excluded(order: Order) -> tuple[str, ...]:
    return tuple(pattern for rule in order.rules.values() for pattern in rule.exclude)


def _links(merged: Merged, order: Order) -> dict[str, Link]:
    """How each package is linked: by the part, of those that bring it, which leaves the most in."""
    by_id = {one.package.id: one.package for one in merged.packages}
    named = _named(merged)
    found: dict[str, Link] = {}
    for mode in _ORDER:
        queue = [name for name, part in named if part in order.rules and order.rules[part].link == mode]
        while queue:
            name = queue.pop()
            if name in by_id and name not in found:
                found[name] = mode
                queue += by_id[name].needs
    weakest: Link = min((rule.link for rule in order.rules.values()), key=_ORDER.index, default="whole")
    return {name: found.get(name, weakest) for name in by_id}


def _named(merged: Merged) -> Iterable[tuple[str, str]]:
    return [(one.package.id, one.part) for one in merged.packages if not one.via]


def _parents(paths: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        parent = posixpath.dirname(path)
        while parent and parent not in found:
            found.add(parent)
            parent = posixpath.dirname(parent)
    return found


def _left_out(out: Mapping[str, str], entries: Mapping[str, Entry]) -> tuple[LeftOut, ...]:
    """By package and reason, the largest first."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for path, reason in out.items():
        groups.setdefault((entries[path].origin, reason), []).append(entries[path])
    rows = [
        LeftOut(package, reason, len(group), sum(one.size for one in group), _examples(group))
        for (package, reason), group in groups.items()
    ]
    return tuple(sorted(rows, key=lambda row: (-row.bytes, row.package, row.reason)))


def _examples(group: Sequence[Entry]) -> tuple[str, ...]:
    """The largest of them, for `explain` of a file that is not there."""
    return tuple(one.path for one in sorted(group, key=lambda one: (-one.size, one.path))[:_EXAMPLES])


def _without_absent(bill: Bill) -> Bill:
    """Packages of which nothing is in the image are no part of it, unless they are in the chain to one that is."""
    via = {one.package.id: one.via for one in bill.packages}
    needed: set[str] = set()
    for name in {file.package for file in bill.files if file.kind != "directory"}:
        while name and name not in needed:
            needed.add(name)
            name = via.get(name, "")
    kept = tuple(one for one in bill.packages if one.package.id in needed)
    return dataclasses.replace(bill, packages=kept)
