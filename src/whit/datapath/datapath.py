"""Datapath: what the rest of Whit touches. Its maps by name, and what is attached where.

Nothing of it lives in this process: maps, programs and links are pinned. Closing it, or being killed, changes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, Self

from whit.base.settings import Settings
from whit.datapath import attach, install, libbpf
from whit.datapath.abi import (
    AffinityKey,
    AffinityValue,
    BackendValue,
    DatapathState,
    DropKey,
    DropValue,
    EdgeKey,
    EdgeValue,
    EndpointKey,
    EndpointValue,
    FlowKey,
    FlowValue,
    FragmentKey,
    FragmentValue,
    FrontendKey,
    FrontendValue,
    IdentityKey,
    IdentityValue,
    LimitValue,
    PolicyKey,
    PolicyValue,
    SlotKey,
    SocketValue,
)
from whit.datapath.attach import Attachment, Form
from whit.datapath.clsact import Direction
from whit.datapath.codec import U32, U64, struct_codec
from whit.datapath.events import FlowEvents
from whit.datapath.install import DatapathConfig
from whit.datapath.knocks import Knocks
from whit.datapath.maps import ArrayMap, BpfMap, HashMap, LpmMap, MaglevMap, PerCpuMap
from whit.datapath.pins import Pins, mount_bpffs, program_of, remove
from whit.datapath.policy_entries import PolicyEntries
from whit.kernel.network import links
from whit.kernel.network.netlink import NetlinkSocket


class Closable(Protocol):
    def close(self) -> None: ...


class Datapath:
    """Made by `install` (the agent) or `open` (everyone else). Use as a context manager, or `close` it.

    `form` is how programs are attached to links; None is the best that the kernel has.
    """

    def __init__(self, pins: Pins, form: Form | None = None) -> None:
        """Opens the pinned maps. Raises NotFound if one is missing."""
        self.pins = pins
        self.form = form
        self._opened: list[Closable] = []
        try:
            self._open_maps(pins.maps)
        except BaseException:
            self.close()
            raise

    @classmethod
    def install(cls, settings: Settings, config: DatapathConfig, *, form: Form | None = None) -> Datapath:
        """Have the programs loaded and the maps pinned. Does nothing if they are; replaces programs if they changed.
        What was installed under another ABI_VERSION goes, and its places are taken over.

        Raises:
            Unavailable: the object was not built, or libbpf is not installed.
            LoadError: the kernel refused the programs; with the end of the verifier's log.
            Conflict: a pinned map has another layout.
        """
        mount_bpffs()
        pins = Pins.of(settings)
        pins.make()
        if not install.is_installed(pins, config.digest()):
            install.load(pins, config)
        install.retire_others(pins)
        return cls(pins, form)

    @classmethod
    def open(cls, settings: Settings, *, form: Form | None = None) -> Datapath:
        """What an agent installed. Raises NotFound if there is none."""
        pins = Pins.of(settings)
        pins.current()
        return cls(pins, form)

    def _open_maps(self, maps: Path) -> None:
        self.identities: LpmMap[IdentityKey, IdentityValue] = self._keep(
            LpmMap.open(maps / "identities", struct_codec(IdentityKey), struct_codec(IdentityValue))
        )
        self.endpoints: HashMap[EndpointKey, EndpointValue] = self._keep(
            HashMap.open(maps / "endpoints", struct_codec(EndpointKey), struct_codec(EndpointValue))
        )
        policy = struct_codec(PolicyKey), struct_codec(PolicyValue)
        self.policies = PolicyEntries(
            exact=self._keep(HashMap.open(maps / "exact_policies", *policy)),
            prefixes=self._keep(LpmMap.open(maps / "policies", *policy)),
        )
        self.frontends: HashMap[FrontendKey, FrontendValue] = self._keep(
            HashMap.open(maps / "frontends", struct_codec(FrontendKey), struct_codec(FrontendValue))
        )
        self.slots: HashMap[SlotKey, int] = self._keep(HashMap.open(maps / "slots", struct_codec(SlotKey), U32))
        """To the number of a backend."""
        self.backends: HashMap[int, BackendValue] = self._keep(
            HashMap.open(maps / "backends", U32, struct_codec(BackendValue))
        )
        self.flows: HashMap[FlowKey, FlowValue] = self._keep(
            HashMap.open(maps / "flows", struct_codec(FlowKey), struct_codec(FlowValue))
        )
        self.fragments: HashMap[FragmentKey, FragmentValue] = self._keep(
            HashMap.open(maps / "fragments", struct_codec(FragmentKey), struct_codec(FragmentValue))
        )
        self.mtus: HashMap[int, int] = self._keep(HashMap.open(maps / "mtus", U32, U32))
        """By index of a link: what it carries, from the IP header on. Written when something is attached to it."""
        self.sockets: HashMap[int, SocketValue] = self._keep(
            HashMap.open(maps / "sockets", U64, struct_codec(SocketValue))
        )
        """By socket cookie."""
        self.affinity: HashMap[AffinityKey, AffinityValue] = self._keep(
            HashMap.open(maps / "affinity", struct_codec(AffinityKey), struct_codec(AffinityValue))
        )
        self.maglev: MaglevMap = self._keep(MaglevMap.open(maps / "maglev", U32, U32))
        self.limits: HashMap[int, LimitValue] = self._keep(HashMap.open(maps / "limits", U32, struct_codec(LimitValue)))
        """By index of the node's side of an instance's link."""
        self.activity: HashMap[int, int] = self._keep(HashMap.open(maps / "activity", U32, U64))
        """By index of the link: when a packet last came for an instance that may sleep."""
        self.edges: PerCpuMap[EdgeKey, EdgeValue] = self._keep(
            PerCpuMap.open(maps / "edges", struct_codec(EdgeKey), struct_codec(EdgeValue))
        )
        self.traces: HashMap[FlowKey, int] = self._keep(HashMap.open(maps / "traces", struct_codec(FlowKey), U32))
        self.drops: PerCpuMap[DropKey, DropValue] = self._keep(
            PerCpuMap.open(maps / "drops", struct_codec(DropKey), struct_codec(DropValue))
        )
        self.state: ArrayMap[DatapathState] = self._keep(
            ArrayMap.open(maps / "state", U32, struct_codec(DatapathState))
        )
        """One entry, at 0."""
        self.events: FlowEvents = self._keep(FlowEvents(maps / "events"))
        self.control: Knocks = self._keep(Knocks(maps / "control"))

    def _keep(self, opened: Any) -> Any:
        self._opened.append(opened)
        return opened

    def tables(self) -> list[BpfMap[Any, Any]]:
        """The maps that fill up."""
        return [one for one in self._opened if isinstance(one, BpfMap) and not isinstance(one, ArrayMap)]

    def close_with(self, opened: Closable) -> None:
        """Close this too, and before what is open now."""
        self._opened.append(opened)

    def close(self) -> None:
        """Close the descriptors. Safe twice; everything goes on."""
        while self._opened:
            self._opened.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def attach_instance(self, ifindex: int, number: int) -> None:
        """Both programs on the host side of an instance's link. Replaces what stood under this number."""
        self._note_mtu(ifindex)
        self._attach(ifindex, "egress", self.pins.instance(number, "egress"))
        self._attach(ifindex, "ingress", self.pins.instance(number, "ingress"))

    def detach_instance(self, number: int) -> None:
        """Safe if the link is gone, and twice."""
        for direction in ("ingress", "egress"):
            attach.detach(self.pins.instance(number, direction), self.form)

    def attach_uplink(self, ifindex: int, name: str) -> None:
        """The programs for packets that come in and leave by a link of the host. `name` is the link's.

        Again when its MTU has changed, which the datapath does not see by itself.
        """
        self._note_mtu(ifindex)
        self._attach(ifindex, "egress", self.pins.uplink(name, "egress"))
        self._attach(ifindex, "ingress", self.pins.uplink(name))

    def detach_uplink(self, name: str) -> None:
        for direction in ("ingress", "egress"):
            attach.detach(self.pins.uplink(name, direction), self.form)

    def attach_host_sockets(self, cgroup: Path) -> None:
        """The programs for connect() and its like, of all processes in a cgroup2 directory and below."""
        for program in attach.CGROUP_HOOKS:
            with libbpf.opened_pin(self.pins.program(program)) as descriptor:
                attach.attach_cgroup(cgroup, program, descriptor, self.pins.host(program))

    def detach_host_sockets(self) -> None:
        for program in attach.CGROUP_HOOKS:
            attach.detach(self.pins.host(program), "tcx")

    def attachments(self) -> list[Attachment]:
        """What is attached where, in the order of the pins' names."""
        return attach.attachments(self.pins.links)

    def _note_mtu(self, ifindex: int) -> None:
        with NetlinkSocket() as netlink:
            self.mtus.put(ifindex, links.by_index(netlink, ifindex).mtu)

    def _attach(self, ifindex: int, direction: Direction, pin: Path) -> None:
        with libbpf.opened_pin(self.pins.program(program_of(pin))) as descriptor:
            attach.attach(ifindex, direction, descriptor, pin, self.form)


def uninstall(settings: Settings) -> None:
    """Take away every program, link, filter and map of this agent, of all versions. Safe twice and after a half one.

    Traffic then passes as if there were no Whit: stop the instances first.
    """
    attach.detach_all(settings.bpf_dir)
    remove(settings.bpf_dir)
