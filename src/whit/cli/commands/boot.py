"""whit boot: a machine in the foreground, in QEMU: its console is the terminal, and Ctrl-C ends it."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whit.base.errors import InputError, Permanent
from whit.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from whit.control.machines.booting import Wishes
    from whit.runtime.microvm.boot import Verdict
    from whit.tools import qemu

_Service = Annotated[str, typer.Option("--service", "-s", metavar="SERVICE", help="Of an app with several.")]
_Publish = Annotated[
    list[str] | None,
    typer.Option("--publish", "-p", metavar="[ADDRESS:]HOST:GUEST[/udp]", help="A port; may be repeated."),
]
_Memory = Annotated[int | None, typer.Option("--memory", "-m", metavar="MIB", min=32, help="What it needs.")]
_Cpus = Annotated[int, typer.Option("--cpus", min=1, max=64, help="Processors.")]
_Disks = Annotated[
    list[Path] | None, typer.Option("--disk", metavar="FILE", help="A raw disk beside its own; may be repeated.")
]
_Arch = Annotated[
    str,
    typer.Option(
        "--arch",
        metavar="ARCH",
        help="amd64 or arm64: for which a disk or medium is made, or an app or machine file is built.",
    ),
]
_Discard = Annotated[bool, typer.Option("--discard", help="Forget what is written to its own disk.")]
_Log = Annotated[Path | None, typer.Option("--log", metavar="FILE", help="Write the console there too.")]
_Qmp = Annotated[Path | None, typer.Option("--qmp", metavar="SOCKET", help="QEMU's control socket.")]
_Debug = Annotated[
    Path | None, typer.Option("--debug", metavar="SOCKET", help="Let whit debug open a shell in it, through this.")
]
_FirstBoot = Annotated[
    Path | None, typer.Option("--first-boot", metavar="FILE", help="Tell it a cloud-config or an Ignition config.")
]
_Keys = Annotated[
    list[Path] | None, typer.Option("--key", metavar="FILE", help="Only if this public key vouches for the FILE.")
]
_Upgrade = Annotated[
    Path | None,
    typer.Option("--upgrade", metavar="SOCKET", help="Let whit upgrade write to its disk, through this."),
]
_Reboot = Annotated[bool, typer.Option("--reboot", help="Boot it again where it asks for that.")]
_Test = Annotated[bool, typer.Option("--test", help="End with the exit status of what it ran.")]
_Timeout = Annotated[float | None, typer.Option("--timeout", metavar="SECONDS", help="It has to end by then.")]


def add(app: typer.Typer) -> None:
    command(app)(boot)


def boot(
    run: Invocation,
    what: Annotated[
        str,
        typer.Argument(metavar="APP|MACHINE|IMAGE|FILE", help="App or machine file, image, or what whit build wrote."),
    ] = ".",
    service: _Service = "",
    publish: _Publish = None,
    memory: _Memory = None,
    cpus: _Cpus = 1,
    disk: _Disks = None,
    discard: _Discard = False,
    arch: _Arch = "",
    log: _Log = None,
    qmp: _Qmp = None,
    debug: _Debug = None,
    first_boot: _FirstBoot = None,
    key: _Keys = None,
    upgrade: _Upgrade = None,
    reboot: _Reboot = False,
    test: _Test = False,
    timeout: _Timeout = None,
) -> int:
    """Boot a machine and show its console until it powers off.

    Needs QEMU, but no agent and no root. Its network is QEMU's own: it reaches out, and is reached by -p.

    \b
    Example:
      whit boot examples/hello -p 8080:8080
      whit build examples/hello --target microvm -o hello
      whit boot hello --test --timeout 60
      whit boot examples/machine/minimal.yml
    """
    import asyncio

    from whit.cli.commands import building
    from whit.cli.commands.debug import PORT as DEBUG_PORT
    from whit.control.machines.booting import Wishes
    from whit.kernel import temporary
    from whit.runtime.microvm.guest_disk import PORT as UPGRADE_PORT
    from whit.tools import qemu as tool

    wishes = Wishes(
        memory=memory,
        cpus=cpus,
        forwards=tuple(forward(text) for text in publish or ()),
        disks=tuple(tool.Disk(path, f"disk{number}") for number, path in enumerate(disk or ())),
        qmp=qmp,
        discard=discard,
        architecture=building.foreign(arch),
    )
    with temporary.directory("boot") as scratch:
        vouched(what, key)
        machine = _told(_machine(run, what, service, wishes, scratch), first_boot, scratch)
        machine = _reached(machine, {DEBUG_PORT: debug, UPGRADE_PORT: upgrade}, reboot)
        with _console(log) as show:
            verdict = asyncio.run(_run(machine, show, timeout))
    return _status(verdict, test)


def forward(text: str) -> qemu.Forward:
    """`[ADDRESS:]HOST:GUEST[/PROTOCOL]`; without an address only this machine reaches it. Raises InputError."""
    from whit.tools import qemu

    ports, _, protocol = text.partition("/")
    address, _, rest = ports.rpartition(":")
    address, _, host = address.rpartition(":")
    if not (host.isdigit() and rest.isdigit() and 0 < int(host) < 65536 and 0 < int(rest) < 65536):
        raise InputError(f"{text!r} is no pair of ports", hint="write HOST:GUEST, as 8080:80")
    if protocol not in ("", "tcp", "udp"):
        raise InputError(f"{protocol!r} is no protocol", hint="tcp or udp")
    return qemu.Forward(address or "127.0.0.1", int(host), int(rest), "udp" if protocol == "udp" else "tcp")


def vouched(what: str, key: list[Path] | None) -> None:
    """Raises Untrusted unless one of the keys, if there are any, signed the file beside it."""
    from whit.image.trust import signing

    if key:
        signing.verify_file(Path(what).resolve(), signing.read_public_keys(key))


def _machine(run: Invocation, what: str, service: str, wishes: Wishes, scratch: Path) -> qemu.Machine:
    from whit.control.machines import booting

    path = Path(what)
    if not booting.is_machine(path):
        path = built(run, what, service, scratch / "built", architecture=wishes.architecture)
    unpacked = scratch / "unpacked"
    unpacked.mkdir()
    return booting.machine(path, wishes, unpacked)


def _told(machine: qemu.Machine, first_boot: Path | None, scratch: Path) -> qemu.Machine:
    """With the disk that a machine reads at its first boot."""
    from whit.cli.commands import machines
    from whit.image.machines.first_boot import SERIAL
    from whit.tools import qemu as tool

    if first_boot is None:
        return machine
    disk = tool.Disk(machines.first_boot_disk(first_boot, scratch / "first-boot"), SERIAL, read_only=True)
    return dataclasses.replace(machine, disks=(*machine.disks, disk))


def _reached(machine: qemu.Machine, places: Mapping[str, Path | None], reboots: bool) -> qemu.Machine:
    """With ports for whit debug and whit upgrade. Who may reach their sockets may do everything in the machine."""
    from whit.tools import qemu as tool

    ports = (tool.Port(name, place.absolute()) for name, place in places.items() if place is not None)
    return dataclasses.replace(machine, ports=(*machine.ports, *ports), reboots=reboots)


def built(
    run: Invocation, what: str, service: str, output: Path, target: str = "microvm", architecture: str = ""
) -> Path:
    """A machine of an app, a machine file, or an image of the store."""
    from whit.cli import local
    from whit.cli.commands import building, machines
    from whit.cli.display import progress
    from whit.control import trust
    from whit.control.machines import appliances
    from whit.formats.app.naming import valid_name
    from whit.formats.catalog import is_named
    from whit.model.service import ServiceSpec

    if machines.is_machine(Path(what)):
        return machines.written(run, Path(what), output, target, architecture)
    store = local.store(run.settings)

    async def work(report: Callable[..., None]) -> dict[str, object]:
        if Path(what).exists() or is_named(what):
            name, spec, image = await building.settled(run, store, Path(what), service, report, architecture)
        elif architecture:
            raise InputError(f"{what} is an image, which is for one architecture", hint="leave --arch out")
        else:
            image = await store.obtain(what, report)
            trust.require(store, [image], trust.rules(run.settings, ()))
            name, spec = valid_name(what.rpartition("/")[2].partition(":")[0]), ServiceSpec(image=what)
        exported = await appliances.write(store, target, name, spec, image, output)
        return {"path": str(exported.path)}

    return Path(progress.last(local.stream(work))["path"])


@contextlib.contextmanager
def _console(log: Path | None) -> Iterator[Callable[[bytes], None]]:
    """Shows what the machine prints on standard output, and keeps it."""
    from whit.runtime.microvm.boot import write_all

    with contextlib.ExitStack() as stack:
        outputs = [sys.stdout.fileno()]
        if log is not None:
            outputs.append(stack.enter_context(log.open("wb", buffering=0)).fileno())

        def show(data: bytes) -> None:
            for output in outputs:
                write_all(output, data)

        yield show


async def _run(machine: qemu.Machine, show: Callable[[bytes], None], timeout: float | None) -> Verdict:
    """The first signal asks it to end, a second one switches it off."""
    import asyncio

    from whit.runtime.microvm import boot as running

    stop = asyncio.Event()
    task = asyncio.current_task()
    assert task is not None

    def heard() -> None:
        if stop.is_set():
            task.cancel()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, heard)
    return await running.run(machine, show, stop, timeout=timeout)


def _status(verdict: Verdict, test: bool) -> int:
    if not test:
        return 0
    if verdict.status is None:
        raise Permanent("the machine ended and did not say how", hint="was it stopped, or did its kernel fail?")
    return verdict.status
