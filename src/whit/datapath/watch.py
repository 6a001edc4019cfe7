"""Watches over what is in the kernel: keeps it there if bpffs is unmounted, and tells what goes wrong in silence.

A pinned link is detached when its bpffs goes, which would let every packet pass. So the agent holds a descriptor of all
that is pinned, and pins it again. Filters (clsact) need neither.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from whit.base.errors import NotFound, SystemCallError
from whit.datapath import attach, libbpf
from whit.datapath.abi import DropKey, DropReason, Hook
from whit.datapath.attach import Attachment
from whit.datapath.datapath import Datapath
from whit.datapath.pins import mount_bpffs

log = logging.getLogger(__name__)


class Watch:
    """Of one datapath. `look` again and again; not for several threads at once."""

    def __init__(self, datapath: Datapath) -> None:
        self.datapath = datapath
        self._held: dict[Path, int] = {}
        self._lost = _lost_events(datapath)
        self._told: set[str] = set()
        self._hold()
        datapath.close_with(self)

    def look(self) -> list[str]:
        """Mend what can be, and log what is new. Returns all that is wrong now."""
        mended = list(self._mended())
        places = [one for one in self.datapath.attachments() if one.form == "tcx"]
        found = [*mended, *self._lost_now(), *_gone_links(places), *_in_front(places)]
        for text in found:
            if text not in self._told:
                log.warning("datapath: %s", text)
        self._told = set(found)
        return found

    def close(self) -> None:
        """Safe twice; what is pinned stays."""
        while self._held:
            os.close(self._held.popitem()[1])

    def _mended(self) -> Iterator[str]:
        if self.datapath.pins.root.is_dir():
            self._hold()
            return
        mount_bpffs()
        self.datapath.pins.make()
        for path, descriptor in self._held.items():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(SystemCallError):  # of a link that was detached
                libbpf.pin(descriptor, path)
        yield "bpffs was unmounted; all is pinned again"

    def _hold(self) -> None:
        there = {path for path in self.datapath.pins.root.rglob("*") if path.is_file()}
        for path in self._held.keys() - there:
            os.close(self._held.pop(path))
        for path in there:
            if path not in self._held or path.parent.name == "links":
                self._take(path)

    def _take(self, path: Path) -> None:
        """Anew also if it is held: the number of an instance may stand for another link now."""
        with suppress(NotFound):
            descriptor = libbpf.open_pin(path)
            if path in self._held:
                os.close(self._held[path])
            self._held[path] = descriptor

    def _lost_now(self) -> Iterator[str]:
        before, self._lost = self._lost, _lost_events(self.datapath)
        if self._lost > before:
            yield f"the ring of events was full: {self._lost - before} flows are not told ({self._lost} in all)"


def _gone_links(places: Sequence[Attachment]) -> Iterator[str]:
    for found in places:
        if not found.ifindex and found.pin.name.endswith("-ingress"):
            yield f"the link of {found.pin.name.removesuffix('-ingress')} is gone: `whit restart` makes a new one"


def _in_front(places: Sequence[Attachment]) -> Iterator[str]:
    """What comes before ours may drop, or let pass, what policy is not asked about."""
    for found in places:
        if found.ifindex and found.pin.name.startswith("instance-"):
            programs = attach.programs_on(found.ifindex, found.hook)
            if before := programs[: programs.index(found.program_id)] if found.program_id in programs else []:
                yield f"foreign programs come before {found.pin.name}, and may decide alone: {before}"


def _lost_events(datapath: Datapath) -> int:
    found = datapath.drops.get(DropKey(DropReason.NONE, Hook.LOST_EVENTS))
    return found.packets if found else 0
