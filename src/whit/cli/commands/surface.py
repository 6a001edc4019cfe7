"""The inspect command: how one instance is, and what it can get at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from whit.cli.display.output import Output
from whit.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from whit.model.surface import Reach, Surface


def add(app: typer.Typer) -> None:
    command(app)(inspect)


def inspect(
    run: Invocation,
    target: Annotated[str, typer.Argument(metavar="INSTANCE|SERVICE", help="Of a service, its first instance.")],
    surface: Annotated[
        bool, typer.Option("--surface", help="What it can get at: kernel, powers, devices, files, peers.")
    ] = False,
) -> None:
    """Say how an instance is, or what whoever takes it over could attack.

    \b
    Example:
      whit inspect shop-api-1
      whit inspect api --surface
    """
    from whit.cli import appfile
    from whit.cli.commands.inspection import instance_document
    from whit.cli.names import find_instance

    status = find_instance(target, run.client.apps(), appfile.default_app())
    if surface:
        found = run.client.surface(status.name)
        if run.json:
            run.output.document(found.model_dump(mode="json"))
        else:
            print_surface(run.output, found)
        return
    document = instance_document(status)
    if run.json:
        run.output.document(document)
    else:
        rows = ((name, ", ".join(value) if isinstance(value, list) else value) for name, value in document.items())
        _print_rows(run.output, [(name, str(value)) for name, value in rows if value not in (None, "")])


def print_surface(output: Output, surface: Surface) -> None:
    """One line for each kind of thing, as few as it takes."""
    rows = [
        ("instance", f"{surface.instance}  {surface.isolation}, {surface.runtime}"),
        ("kernel", f"{surface.kernel}, {surface.kernel_version}"),
        ("user", surface.user),
        ("capabilities", _listed(one.removeprefix("CAP_").lower() for one in surface.capabilities)),
        ("system calls", f"{len(surface.system_calls)}, before {surface.filter}"),
        ("devices", _listed(surface.devices)),
    ]
    if surface.isolation == "microvm":
        rows.append(("of the machine", _listed(surface.machine_devices)))
    rows += _many("writable", surface.writable)
    rows += _many("reaches", [_reach_text(one) for one in surface.reaches])
    rows += _many("reached by", [_reach_text(one) for one in surface.reached_by])
    _print_rows(output, rows)


def _many(title: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    return [(title if at == 0 else "", line) for at, line in enumerate(lines or ["nothing"])]


def _reach_text(reach: Reach) -> str:
    return f"{reach.peer} {', '.join(reach.ports)}"


def _listed(words: Iterable[str]) -> str:
    return " ".join(words) or "none"


def _print_rows(output: Output, rows: Sequence[tuple[str, str]]) -> None:
    width = max(len(title) for title, _ in rows)
    for title, text in rows:
        output.line(f"{title:{width}}  {text}".rstrip())
