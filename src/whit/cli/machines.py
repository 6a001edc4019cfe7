"""whit build and whit boot of machine files: LinuxKit's YAML, linked in this process."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whit.base.errors import InputError, NotLocked
from whit.cli import local, progress
from whit.cli.invocation import Invocation
from whit.model.machine import MachineSpec

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
    locked: bool,
    explain: str | None,
) -> None:
    """Link a machine. Without `output`, only to see that it can be, and what is in it."""
    spec = _load(path)
    store = local.store(run.settings)

    async def work(report: Callable[..., None]) -> dict[str, Any]:
        how = await asyncio.to_thread(_how, spec, refresh, locked)
        if output is not None:
            exported = await machines.write(spec, store, report, target or DEFAULT_TARGET, output, how)
            return {"path": str(exported.path), "digest": exported.digest, "size": exported.size}
        with tempfile.TemporaryDirectory(prefix="whit-machine-") as scratch:
            linked = await machines.settle_machine(spec, store, report, Path(scratch), how)
            return {"machine": linked.name, "because": linked.explain(explain) if explain else linked.summary()}

    from whit.control.machines import settling as machines

    result = progress.follow(local.stream(work), run.output)
    if run.json:
        return
    if "path" in result:
        run.output.line("{path} {digest}".format(**result))
    elif explain:
        for depth, line in enumerate(result["because"]):
            run.output.line(f"{'  ' * depth}{line}")
    else:
        run.output.table(("BROUGHT BY", "FILES", "BYTES"), [tuple(map(str, row)) for row in result["because"]])


def written(run: Invocation, path: Path, output: Path, target: str = DEFAULT_TARGET) -> Path:
    """The machine in a form, for whit boot and whit upgrade."""
    spec = _load(path)
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


def _load(path: Path) -> MachineSpec:
    from whit.formats.machine.document import load_machine

    return load_machine(path)


def _how(spec: MachineSpec, refresh: bool = False, locked: bool = False) -> Any:
    from whit.control.images import How
    from whit.model.lock import FILE, read

    known = read(spec.directory)
    if locked and known is None:
        raise NotLocked(f"there is no {FILE} in {spec.directory}", hint="leave out --locked")
    return How(refresh=refresh, lock=known, fetch=not locked)
