"""Brings the programs of one object into the kernel and into every place where they are attached.

Maps that are pinned already are adopted, so that flows and sockets survive; links are switched one by one, each
atomically. A kill at any point leaves the old or the new program at each place, and no finished digest: the next
installation does it all again.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from whit.base.errors import NotFound
from whit.datapath import libbpf
from whit.datapath.attach import Attachment, attach, attachments, detach_all, replace_all, take_over
from whit.datapath.build import object_path
from whit.datapath.objects import BpfObject, Constant
from whit.datapath.pins import Pins, program_of
from whit.kernel.network import netns

log = logging.getLogger(__name__)

OBJECT = "datapath"


@dataclass(frozen=True)
class DatapathConfig:
    """What is fixed when the programs are loaded (bpf/include/config.h). A change makes `install` load them anew."""

    pool: IPv4Network
    """The mesh's addresses on this node."""
    pool6: IPv6Network | None = None
    """The same for IPv6. None: IPv6 addresses are held to be the world's."""
    mark: int = 0
    """Put on packets that an instance sends to the host's stack, in the bits of `mark_mask`."""
    mark_mask: int = 0
    redirect_peer: bool = True
    """Deliver straight to the instance's side of its link, but where that is a tap (EndpointFlags.TAP)."""
    netns_cookie: int = field(default_factory=netns.cookie)
    """Of the host's network namespace: only its processes are balanced at their sockets. 0: nobody is."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Entries of maps (bytes of ring buffers), where the object's own do not fit. For maps that are not there yet."""
    object: Path | None = None
    """The object, if it is not the one that Whit comes with."""

    @property
    def path(self) -> Path:
        return self.object or object_path(OBJECT)

    @property
    def constants(self) -> dict[str, Constant]:
        return {
            "pool": int(self.pool.network_address),
            "pool_mask": int(self.pool.netmask),
            "pool6": self.pool6.network_address.packed if self.pool6 else bytes(16),
            "pool6_mask": self.pool6.netmask.packed if self.pool6 else bytes(16),
            "mark": self.mark,
            "mark_mask": self.mark_mask,
            "redirect_peer": self.redirect_peer,
            "netns_cookie": self.netns_cookie,
        }

    def digest(self) -> str:
        """Of all that decides what the loaded programs are: object, constants and sizes."""
        digest = hashlib.sha256(self.path.read_bytes())
        digest.update(repr((sorted(self.constants.items()), sorted(self.sizes.items()))).encode())
        return digest.hexdigest()[:32]


def is_installed(pins: Pins, digest: str) -> bool:
    return [path.name for path in pins.generations()] == [digest]


def load(pins: Pins, config: DatapathConfig) -> None:
    """Load, adopt, pin, switch, and only then say so. Raises LoadError, InputError, Conflict."""
    with BpfObject(config.path) as obj:
        obj.set_constants(config.constants)
        adopted = _adopt_maps(obj, pins, config.sizes)
        obj.load()
        for name in obj.map_names:
            if name not in adopted:
                obj.pin_map(name, pins.maps / name)
        _pin_programs(obj, pins)
        replace_all(pins.links, lambda pin: obj.program_fd(program_of(pin)))
        _finish(pins, config.digest(), obj.map_names)


def retire_others(pins: Pins) -> None:
    """Take away what was installed under another ABI_VERSION, or traffic would be judged twice.

    Each link is switched to the new program at once. The new maps are empty until the agent has filled them, so that
    nobody passes unjudged. Filters are named for their place: the new one comes before the old one goes.
    """
    for other in pins.others():
        log.warning("taking away the datapath of another ABI in %s", other.root)
        for found in attachments(other.links):
            _retire(found, pins)
        detach_all(other.root)
        shutil.rmtree(other.root)


def _retire(found: Attachment, pins: Pins) -> None:
    pin = pins.links / found.pin.name
    with suppress(NotFound), libbpf.opened_pin(pins.program(program_of(pin))) as program:
        if found.form != "clsact":
            take_over(found.pin, pin, program)
        elif found.hook in ("ingress", "egress"):
            attach(found.ifindex, "ingress" if found.hook == "ingress" else "egress", program, pin, "clsact")


def _adopt_maps(obj: BpfObject, pins: Pins, sizes: Mapping[str, int]) -> set[str]:
    """Take over the maps that are pinned. They keep their size."""
    adopted = set()
    for name in obj.map_names:
        with suppress(NotFound), libbpf.opened_pin(pins.maps / name) as descriptor:
            obj.reuse_map(name, descriptor)
            adopted.add(name)
            size: int = libbpf.map_info(descriptor).max_entries
            if sizes.get(name, size) != size:
                log.warning("map %s keeps its size of %d until `whit doctor --clean`", name, size)
    for name in sizes.keys() - adopted:
        obj.set_max_entries(name, sizes[name])
    return adopted


def _pin_programs(obj: BpfObject, pins: Pins) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(pins.pending)
    pins.pending.mkdir(mode=0o700)
    for name in obj.program_names:
        obj.pin_program(name, pins.pending / name)


def _finish(pins: Pins, digest: str, maps: list[str]) -> None:
    """The new programs get their name, the old ones go, and so do maps that nothing uses any more."""
    finished = pins.programs / digest
    with suppress(FileNotFoundError):
        shutil.rmtree(finished)  # of an installation that was killed right here
    pins.pending.rename(finished)
    for path in pins.generations():
        if path != finished:
            shutil.rmtree(path)
    for path in pins.maps.iterdir():
        if path.name not in maps:
            path.unlink()
