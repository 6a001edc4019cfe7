"""whit upgrade: another version of a machine, beside the one that a disk boots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from whit.base.errors import InputError, NotFound
from whit.cli.commands import boot
from whit.cli.invocation import Invocation, command


def add(app: typer.Typer) -> None:
    command(app)(upgrade)


def upgrade(
    run: Invocation,
    disk: Annotated[Path, typer.Argument(metavar="DISK|SOCKET", help="A disk, or what whit boot --upgrade was given.")],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="DISK|APP|MACHINE", help="The new version; left out, the disk's are listed."),
    ] = None,
    service: Annotated[str, typer.Option("--service", "-s", metavar="SERVICE", help="Of an app with several.")] = "",
    key: Annotated[
        list[Path] | None, typer.Option("--key", metavar="FILE", help="Only if this public key vouches for --to.")
    ] = None,
    reboot: Annotated[bool, typer.Option("--reboot", help="Let the machine that runs boot it at once.")] = False,
) -> None:
    """Write another version of a machine to its disk, also while it runs, or list those that it has.

    The version that boots is kept, and so is the state. The new one is booted next; if it does not come up in three
    boots, the kept one has its turn again. A cut at any moment leaves a version that boots. Needs no root.

    \b
    Example:
      whit build examples/hello --target disk -o hello.raw
      whit upgrade hello.raw --to examples/hello
      whit upgrade hello.raw
      whit boot hello.raw --upgrade hello.sock --reboot
      whit upgrade hello.sock --to examples/hello --reboot
    """
    from whit.kernel import temporary

    if not disk.exists():
        hint = "name a disk, or the socket of a machine that was booted with --upgrade SOCKET"
        raise NotFound(f"there is nothing at {disk}", hint=hint)
    if reboot and (to is None or not disk.is_socket()):
        raise InputError("--reboot is for a machine that runs", hint="name its socket, and with --to a new version")
    if to is None:
        _list(run, disk)
        return
    boot.vouched(to, key)
    with temporary.directory("upgrade") as scratch:
        _write(run, disk, _new(run, to, service, scratch), reboot)


def _new(run: Invocation, to: str, service: str, scratch: Path) -> Path:
    """The disk that the new version comes from."""
    from whit.control.machines import booting

    path = Path(to)
    return path if booting.is_machine(path) else boot.built(run, to, service, scratch / "new", "disk")


def _write(run: Invocation, disk: Path, new: Path, reboot: bool) -> None:
    from whit.cli import local
    from whit.cli.display import progress
    from whit.control.machines import upgrading
    from whit.model.progress import Progress

    async def work(report: Callable[[Progress], None]) -> dict[str, Any]:
        def say(step: str) -> None:
            report(Progress(subject=disk.name, step=step))

        if disk.is_socket():
            return await upgrading.into_machine(disk, new, say, reboot=reboot)
        return await upgrading.into_file(disk, new, say)

    result = progress.follow(local.stream(work), run.output)
    if not run.json:
        run.output.line("number {number}, version {version}, in slot {slot}: it is booted next".format(**result))


def _list(run: Invocation, disk: Path) -> None:
    from whit.control.machines import upgrading

    found = upgrading.versions(disk)
    if run.json:
        run.output.document({"versions": found})
        return
    rows = [(str(one["number"]), one["version"], one["slot"], one["state"], str(one["tries"])) for one in found]
    run.output.table(("NUMBER", "VERSION", "SLOT", "STATE", "TRIES"), rows)
