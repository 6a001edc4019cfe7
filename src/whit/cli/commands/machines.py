"""whit build and whit boot of machine files: LinuxKit's YAML, linked in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whit.base.errors import InputError, NotLocked
from whit.cli import local
from whit.cli.display import progress
from whit.cli.invocation import Invocation
from whit.model.lock import FILE, Lock, read
from whit.model.machine import MachineSpec

if TYPE_CHECKING:
    from whit.image.machines.link import LinkedMachine
    from whit.image.provenance.bill import Bill

DEFAULT_TARGET = "microvm"


def is_machine(path: Path) -> bool:
    """Whether it is a machine file, not an app's."""
    from whit.formats.machine.document import is_machine_file

    return is_machine_file(path)


def build(
    run: Invocation,
    path: Path,
    target: str | None,
    output: Path | None,
    *,
    refresh: bool,
    lock: bool,
    locked: bool,
    observe: bool,
    asked: bool,
    architecture: str = "",
) -> tuple[str, Bill]:
    """Link a machine; its name, and what it is made of. Without `output`, only to see that it can be.

    Where something is `asked` of that bill, nothing else is printed.
    """
    from whit.control.machines import settling as machines
    from whit.kernel import temporary

    spec = _load(path, architecture)
    store = local.store(run.settings)
    found: list[LinkedMachine] = []

    async def work(report: Callable[..., None]) -> dict[str, Any]:
        how = await asyncio.to_thread(_how, spec, refresh, lock, locked, observe)
        if output is not None:
            form = target or DEFAULT_TARGET
            exported = await machines.write(spec, store, report, form, output, how, found.append)
            result = {"path": str(exported.path), "digest": exported.digest, "size": exported.size}
        else:
            with temporary.directory("machine") as scratch:
                found.append(await machines.settle_machine(spec, store, report, scratch, how))
            result = {"machine": found[0].name, "because": found[0].summary()}
        if lock or observe:
            await asyncio.to_thread(_write_lock, spec, machines.locked(spec, store, found[0], how.lock), how.lock)
        return result

    items = local.stream(work)
    result = progress.last(items) if asked else progress.follow(items, run.output)
    if not asked and not run.json:
        _print(run, result)
    return found[0].name, found[0].bill


def _print(run: Invocation, result: dict[str, Any]) -> None:
    if "path" in result:
        run.output.line("{path} {digest}".format(**result))
    else:
        run.output.table(("BROUGHT BY", "FILES", "BYTES"), [tuple(map(str, row)) for row in result["because"]])


def _write_lock(spec: MachineSpec, lock: Lock, before: Lock | None) -> None:
    """Into what the file had, if it was used."""
    entries = dict(before.entries) if before else {}
    path = spec.directory / FILE
    path.with_suffix(".new").write_text(Lock({**entries, **lock.entries}).encode())
    path.with_suffix(".new").rename(path)


def written(run: Invocation, path: Path, output: Path, target: str = DEFAULT_TARGET, architecture: str = "") -> Path:
    """The machine in a form, for whit boot and whit upgrade."""
    spec = _load(path, architecture)
    store = local.store(run.settings)

    async def work(report: Callable[..., None]) -> dict[str, Any]:
        from whit.control.machines import settling as machines

        await machines.write(spec, store, report, target, output, await asyncio.to_thread(_how, spec))
        return {}

    progress.last(local.stream(work))
    return output


def first_boot_disk(path: Path, output: Path) -> Path:
    """A disk that tells a machine what a cloud-config or an Ignition config says. Raises InputError."""
    from whit.formats.firstboot.userdata import load_first_boot
    from whit.image.machines import first_boot

    output.write_bytes(first_boot.disk(load_first_boot(path)))
    return output


def refuse(**options: object) -> None:
    """Raises InputError for the first option of apps that was given for a machine."""
    for name, value in options.items():
        if value:
            raise InputError(f"--{name} is for apps, and this is a machine file", hint="leave it out")


def _load(path: Path, architecture: str) -> MachineSpec:
    from whit.formats.machine.document import load_machine

    spec = load_machine(path)
    return spec.built_for(architecture) if architecture else spec


def _how(
    spec: MachineSpec, refresh: bool = False, lock: bool = False, locked: bool = False, observe: bool = False
) -> Any:
    from whit.control.images import How

    known = None if lock else read(spec.directory)
    if locked and known is None:
        raise NotLocked(f"there is no {FILE} in {spec.directory}", hint="make it with: whit build --lock")
    return How(refresh=refresh or lock, lock=known, fetch=not locked, observe=observe)
