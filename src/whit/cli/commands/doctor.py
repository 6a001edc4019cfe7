"""The doctor command: what this machine can do and why not, and the removal of what an agent left. Needs no agent."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whit.base.errors import InputError, Unavailable, Unreachable
from whit.cli.display.output import remark, remark_alarms
from whit.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from whit.model.feature import Feature


def add(app: typer.Typer) -> None:
    command(app)(doctor)


def doctor(
    run: Invocation,
    clean: Annotated[bool, typer.Option("--clean", help="Remove everything this agent id left running.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before removing.")] = False,
) -> int:
    """Say what this machine can do, and why not.

    Ends with 5 if something is missing without which nothing runs. --clean ends the agent and its instances and
    removes their links, namespaces, mounts, cgroups and BPF objects, as a reboot would;
    volumes, images and the record of what was up stay. `whit down` first forgets an app.

    \b
    Example:
      whit doctor
      whit doctor --clean --yes
    """
    if clean:
        return _clean(run, yes)
    from whit.control.doctor import examine

    features = examine(run.settings)
    if run.json:
        run.output.document([feature.model_dump(mode="json") for feature in features])
    else:
        _print_features(run, features)
    if not run.json:
        _print_alarms(run)
    lacking = [feature for feature in features if feature.required and feature.state == "missing"]
    return Unavailable.exit_code if lacking else 0


def _print_features(run: Invocation, features: list[Feature]) -> None:
    run.output.table(
        ("FEATURE", "STATE", "DETAIL"), [(feature.name, feature.state, feature.detail) for feature in features]
    )
    hints = [feature for feature in features if feature.hint and feature.state != "works"]
    if hints:
        run.output.line()
    for feature in hints:
        needed = " (required)" if feature.required else ""
        run.output.line(f"{feature.name}{needed}: {feature.hint}")


def _print_alarms(run: Invocation) -> None:
    """Of the agent, if one runs."""
    with contextlib.suppress(Unreachable):
        remark_alarms(run.client.alarms())


def _clean(run: Invocation, yes: bool) -> int:
    from whit.cli import local
    from whit.cli.connection import systemd
    from whit.cli.display import progress
    from whit.control.cleanup import clean
    from whit.model.progress import Report

    if not yes and not _confirmed(run):
        remark("nothing was removed")
        return 1
    if systemd.in_charge(run.settings):
        systemd.stop(run.settings)

    async def work(report: Report) -> dict[str, Any]:
        return {"removed": await clean(run.settings, report)}

    items = local.stream(work)
    if run.json:
        progress.follow(items, run.output)
        return 0
    removed = progress.last(items)["removed"]
    for thing in removed:
        run.output.line(f"removed {thing}")
    if not removed:
        run.output.line("nothing was left")
    return 0


def _confirmed(run: Invocation) -> bool:
    if not sys.stdin.isatty():
        raise InputError("--clean asks first, and standard input is no terminal", hint="add --yes")
    return typer.confirm(f"Remove everything that the agent {run.settings.id} left running?", err=True)
