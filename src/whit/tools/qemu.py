"""QEMU: the command line of a virtual machine, and which accelerator really works here. Its control socket: qmp.py.

Every machine is a q35 (amd64) or virt (arm64) with virtio devices and nothing else: no defaults, no display, no network
that was not asked for, the seccomp sandbox on. Options: qemu-system-x86_64(1), of 7.2 and later.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whit.base.errors import CommandError, TimedOut, Unavailable, WhitError
from whit.kernel import temporary
from whit.tools import process

Accelerator = Literal["kvm", "tcg"]

_BINARIES = {"x86_64": "qemu-system-x86_64"}
_FOREIGN = {"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}
_BOARDS = {"amd64": "q35,usb=off,vmport=off,smm=off", "arm64": "virt"}
_BARE = {"amd64": ",sata=off,smbus=off"}
"""A q35's own controllers, which it has without being asked: Linux looks at each of six empty SATA ports for a third of
a second. With an optical disk, which hangs there, they stay."""
_TRANSLATED = {"arm64": "cortex-a57"}
"""The processor where instructions are translated; "max" of arm64 takes three times as long."""
SPARED = " nolapic_timer noreplace-smp"
"""What Linux need not do for one processor where instructions are translated: measure the local APIC's timer for a
tenth of a second of ticks (the board's, the HPET, does as well), and write over every lock prefix of its own code."""
_BY_WORDS = "erms=off,fsrm=off"
_KVM = Path("/dev/kvm")
_TRANSLATION = 128
"""MiB that translated code may take; by default it takes what there is of a gigabyte, beside the guest's own memory."""
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_PROBE_TIMEOUT = 2.0
"""Seconds; where KVM works, the probe takes 0.2."""
_FAILED = Path("/run/whit/kvm-failed")
_FAILED_FOR = 600.0
INCOMING = ("-S", "-incoming", "defer")

# mov dx,0x501; mov al,0x31; out dx,al; hlt: the machine ends with the status (0x31 << 1) | 1 (isa-debug-exit).
_BOOT_SECTOR = bytes.fromhex("ba0105b031eef4").ljust(510, b"\0") + b"\x55\xaa"
_SMALLEST_DISK = 1 << 20
_BOOTED = 0x31 << 1 | 1


@dataclass(frozen=True)
class Port:
    """A virtio-serial port; the guest finds it by its name. QEMU listens at a Unix socket, for one peer; or it is given
    a connected socket as a descriptor."""

    name: str
    socket: Path | int


@dataclass(frozen=True)
class Disk:
    """An image or block device. The guest finds it by its serial number, /dev/disk/by-id or serial in sysfs."""

    path: Path
    serial: str
    read_only: bool = False
    form: Literal["raw", "qcow2"] = "raw"
    discard: bool = False
    """What is written is forgotten at the end."""
    optical: bool = False
    """In a drive of its own, on SATA, as firmware knows them."""


@dataclass(frozen=True)
class Firmware:
    """UEFI: its code, and a file of the machine's own with its variables."""

    code: Path
    variables: Path


@dataclass(frozen=True)
class Tap:
    """A tap that exists, by name, in QEMU's network namespace."""

    name: str
    mac: str


@dataclass(frozen=True)
class Forward:
    """A port of this machine that QEMU's own network (slirp) hands on to the guest."""

    address: str
    port: int
    target: int
    protocol: Literal["tcp", "udp"] = "tcp"


@dataclass(frozen=True)
class Share:
    """A directory that a virtiofsd serves at `socket`; the guest mounts it by `tag`."""

    tag: str
    socket: Path


@dataclass(frozen=True)
class Machine:
    """A virtual machine. `console` takes what the kernel prints; memory is in MiB."""

    kernel: Path | None
    """None: the firmware finds one on a disk."""
    initrd: Path | None
    append: str
    console: Path | int
    """A file, or the descriptor of a connected socket."""
    memory: int = 256
    translation: int = _TRANSLATION
    """MiB for translated code. When it is full all is thrown away: much that is run in turn wants more."""
    cpus: int = 1
    ports: tuple[Port, ...] = ()
    disks: tuple[Disk, ...] = ()
    shares: tuple[Share, ...] = ()
    tap: Tap | None = None
    forwards: tuple[Forward, ...] | None = None
    """QEMU's own network, which needs no rights; None for none."""
    firmware: Firmware | None = None
    architecture: str = ""
    """As OCI names it; empty for this machine's own. Another one is translated."""
    qmp: Path | int | None = None
    """Where it listens for who controls it; or the descriptor of a socket that does."""
    incoming: bool = False
    """It waits to be loaded, and then to be let go on."""
    reboots: bool = False
    """Where it asks to be booted again, it is; otherwise that is its end."""
    name: str = "whit"


def binary() -> str:
    """The program for machines of the host's own architecture. Raises Unavailable where there is none."""
    machine = os.uname().machine
    if machine not in _BINARIES:
        raise Unavailable(f"virtual machines of {machine} are not supported", hint="use another isolation")
    return _BINARIES[machine]


async def version() -> tuple[int, int]:
    """Raises Unavailable if QEMU is not installed."""
    shown = await process.run([binary(), "--version"])
    found = re.search(r"version (\d+)\.(\d+)", shown.text)
    if found is None:
        raise CommandError([binary(), "--version"], 0, shown.text)
    return int(found[1]), int(found[2])


def program(machine: Machine) -> str:
    """What runs it. Raises Unavailable where there is none."""
    return _FOREIGN[machine.architecture] if machine.architecture in _FOREIGN else binary()


async def accelerator_of(machine: Machine) -> Accelerator:
    """What this machine may be run with."""
    own = machine.architecture in ("", next((key for key, one in _FOREIGN.items() if one == binary()), ""))
    return await accelerator() if own else "tcg"


def cpu(accelerator: Accelerator, release: tuple[int, int], architecture: str = "") -> str:
    """TCG of QEMU 7.2 gets cmpxchg16b wrong now and then, which the slab allocator of Linux 6.12 does not survive.

    It also claims to fill and copy memory fast by bytes (ERMS, FSRM), which takes it eight times as long as by words.
    """
    if accelerator == "kvm":
        return "host"
    if architecture in _TRANSLATED:
        return _TRANSLATED[architecture]
    return f"max,{_BY_WORDS},cx16=off" if release < (10, 0) else f"max,{_BY_WORDS}"


_found: list[Accelerator] = []


async def accelerator() -> Accelerator:
    """KVM where a guest really runs: that /dev/kvm can be opened says little, above all in a virtual machine.

    Asked once in the life of a process, and where it fails, which takes long, once in ten minutes by all of them.
    """
    if not _found:
        tried = os.access(_KVM, os.R_OK | os.W_OK) and not _failed_before()
        works = tried and await _runs_on_kvm()
        _found.append("kvm" if works else "tcg")
        if tried and not works:
            _note_failure()
    return _found[0]


def _failed_before() -> bool:
    with contextlib.suppress(OSError):
        return time.time() - _FAILED.stat().st_mtime < _FAILED_FOR and _FAILED.read_text() == _tried_with()
    return False


def _note_failure() -> None:
    """Who may not write there asks again."""
    with contextlib.suppress(OSError):
        _FAILED.parent.mkdir(exist_ok=True)
        _FAILED.write_text(_tried_with())


def _tried_with() -> str:
    """Another module of the kernel or another QEMU may do better."""
    return f"{_KVM.stat().st_ctime_ns} {Path(shutil.which(binary()) or binary()).stat().st_mtime_ns}"


async def _runs_on_kvm() -> bool:
    with temporary.directory("kvm") as directory:
        sector = directory / "boot"
        sector.write_bytes(_BOOT_SECTOR.ljust(_SMALLEST_DISK, b"\0"))
        argv = [binary(), *_bare("kvm"), "-m", "64", "-device", "isa-debug-exit,iobase=0x501,iosize=1"]
        argv += ["-drive", f"file={sector},format=raw,if=ide"]
        try:
            return (await process.run(argv, timeout=_PROBE_TIMEOUT, check=False)).returncode == _BOOTED
        except WhitError:
            return False


def _spared(machine: Machine) -> str:
    return "" if any(disk.optical for disk in machine.disks) else _BARE.get(machine.architecture or "amd64", "")


def _bare(
    accelerator: Accelerator, architecture: str = "", spared: str = "", translation: int = _TRANSLATION
) -> list[str]:
    how = f"tcg,tb-size={translation}" if accelerator == "tcg" else accelerator
    return [
        *("-machine", _BOARDS[architecture or "amd64"] + spared, "-accel", how),
        *("-nodefaults", "-no-user-config", "-display", "none", "-sandbox", _SANDBOX),
    ]


def command(machine: Machine, accelerator: Accelerator, release: tuple[int, int]) -> list[str]:
    """The whole command line. Pure; the sockets are made by QEMU, which replaces old ones."""
    bare = _bare(accelerator, machine.architecture, _spared(machine), machine.translation)
    model = cpu(accelerator, release, machine.architecture)
    return [program(machine), *bare, *_core(machine, model), *_kernel(machine, accelerator), *_devices(machine)]


def _core(machine: Machine, model: str) -> Iterator[str]:
    yield from ("-name", machine.name, "-cpu", model, "-smp", str(machine.cpus))
    if machine.shares:  # virtiofsd reads the guest's memory
        yield from ("-object", f"memory-backend-memfd,id=memory,size={machine.memory}M,share=on")
        yield from ("-numa", "node,memdev=memory")
    yield from ("-m", f"{machine.memory}M")
    if machine.firmware is not None:
        yield from ("-drive", f"if=pflash,format=raw,readonly=on,file={_escaped(machine.firmware.code)}")
        yield from ("-drive", f"if=pflash,format=raw,file={_escaped(machine.firmware.variables)}")
    form = "socket,id=console,fd={}" if isinstance(machine.console, int) else "file,id=console,path={}"
    yield from ("-chardev", form.format(_escaped(machine.console)), "-serial", "chardev:console")
    if not machine.reboots:
        yield "-no-reboot"
    if machine.qmp is not None:
        peer = f"fd={machine.qmp}" if isinstance(machine.qmp, int) else f"path={_escaped(machine.qmp)}"
        yield from ("-chardev", f"socket,id=qmp,{peer},server=on,wait=off", "-mon", "chardev=qmp,mode=control")
    if machine.incoming:
        yield from INCOMING


def _kernel(machine: Machine, accelerator: Accelerator) -> Iterator[str]:
    if machine.kernel is not None:
        spares = accelerator == "tcg" and machine.architecture in ("", "amd64") and machine.cpus == 1
        yield from ("-kernel", str(machine.kernel), "-append", machine.append + (SPARED if spares else ""))
    if machine.initrd is not None:
        yield from ("-initrd", str(machine.initrd))


def _kind(disk: Disk, architecture: str) -> str:
    """The board of arm64 has no drive; its firmware knows a medium by the size of its sectors."""
    if not disk.optical:
        return "virtio-blk-pci"
    return "virtio-blk-pci,logical_block_size=2048,physical_block_size=2048" if architecture == "arm64" else "ide-cd"


def _devices(machine: Machine) -> Iterator[str]:
    yield from ("-device", "virtio-rng-pci")
    if machine.ports:  # the first is for a console; the guest prepares all that there could be, by default 31
        yield from ("-device", f"virtio-serial-pci,max_ports={len(machine.ports) + 1}")
    for number, port in enumerate(machine.ports):
        yield from ("-chardev", f"socket,id=port{number},{_peer(port.socket)}")
        yield from ("-device", f"virtserialport,chardev=port{number},name={port.name}")
    for number, disk in enumerate(machine.disks):
        how = f"format={disk.form},readonly={_switch(disk.read_only)}" + (",snapshot=on" if disk.discard else "")
        how += ",media=cdrom" if disk.optical else ""
        yield from ("-drive", f"if=none,id=disk{number},file={_escaped(disk.path)},{how}")
        kind = _kind(disk, machine.architecture)
        yield from ("-device", f"{kind},drive=disk{number},serial={disk.serial}")
    for number, share in enumerate(machine.shares):
        yield from ("-chardev", f"socket,id=share{number},path={_escaped(share.socket)}")
        yield from ("-device", f"vhost-user-fs-pci,chardev=share{number},tag={share.tag}")
    if machine.tap is not None:
        yield from ("-netdev", f"tap,id=net,ifname={machine.tap.name},script=no,downscript=no")
        yield from ("-device", f"virtio-net-pci,netdev=net,mac={machine.tap.mac},romfile=")
    if machine.forwards is not None:
        rules = (f",hostfwd={one.protocol}:{one.address}:{one.port}-:{one.target}" for one in machine.forwards)
        yield from ("-netdev", f"user,id=user{''.join(rules)}", "-device", "virtio-net-pci,netdev=user,romfile=")


def _switch(on: bool) -> str:
    return "on" if on else "off"


def _peer(socket: Path | int) -> str:
    return f"fd={socket}" if isinstance(socket, int) else f"path={_escaped(socket)},server=on,wait=off"


def _escaped(path: Path | int) -> str:
    return str(path).replace(",", ",,")


async def run_to_end(machine: Machine, *, timeout: float) -> str:
    """Run a machine until it powers off, and return what it printed.

    Raises:
        TimedOut: it did not end; the last of what it printed is in the message.
        CommandError: QEMU itself failed.
    """
    argv = command(machine, await accelerator(), await version())
    try:
        await process.run(argv, timeout=timeout)
    except TimedOut as error:
        tail = "\n".join(_printed(machine).splitlines()[-12:])
        raise TimedOut(f"{error.message}\nthe machine printed at last:\n{tail}") from None
    return _printed(machine)


def _printed(machine: Machine) -> str:
    if isinstance(machine.console, Path) and machine.console.exists():
        return machine.console.read_text(errors="replace")
    return ""
