"""Commands that look and change nothing: ps, logs, images, version."""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whit.base.errors import InputError
from whit.cli.display.output import Output, colourful, remark_alarms
from whit.cli.invocation import Invocation, NamesArgument, command

if TYPE_CHECKING:
    from whit.model.instance import InstanceStatus
    from whit.model.status import LogLine

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PREFIX_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
"""SGR codes: neither red, which means an error, nor black and white."""


def add(app: typer.Typer) -> None:
    for function in (ps, logs, images, version):
        command(app)(function)


def ps(
    run: Invocation,
    app: Annotated[str, typer.Argument(metavar="APP", help="Only this app; default all.")] = "",
) -> None:
    """List the instances and how they are.

    \b
    Example:
      whit ps
      whit ps shop --json
    """
    from whit.cli import appfile

    name = appfile.named_app(app, run.client.apps()) if app else ""
    instances = run.client.instances(name)
    if run.json:
        run.output.document([instance_document(instance) for instance in instances])
    elif instances:
        print_instances(run.output, instances)
    else:
        run.output.line("nothing is up")
    if not run.json:
        remark_alarms(run.client.agent().alarms)


def logs(
    run: Invocation,
    names: NamesArgument = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    tail: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="The last so many lines of each instance.")
    ] = None,
    since: Annotated[str, typer.Option(metavar="TIME", help="From then on: 10m, 2h, or an RFC 3339 time.")] = "",
    timestamps: Annotated[bool, typer.Option("--timestamps", "-t", help="Begin each line with its time.")] = False,
) -> None:
    """Print what the instances of an app wrote to their outputs.

    \b
    Example:
      whit logs -f --tail 20 shop api
      whit logs --since 10m shop-db-1
    """
    from whit.cli import appfile
    from whit.cli.names import select

    start = point_in_time(since)
    selection = select(names or [], run.client.apps(), appfile.default_app())
    lines = run.client.logs(selection.app, selection.members, follow=follow, tail=tail, since=start)
    show = run.output.item if run.json else log_printer(timestamps)
    for line in lines:
        show(line)


def images(run: Invocation) -> None:
    """List the images of the store.

    \b
    Example:
      whit images
    """
    stored = run.client.images()
    if run.json:
        run.output.document([image.model_dump(mode="json") for image in stored])
        return
    rows = [(image.name, short_digest(image.digest), size_text(image.size), image.created[:19]) for image in stored]
    run.output.table(("IMAGE", "DIGEST", "SIZE", "CREATED"), rows)


def version(run: Invocation) -> None:
    """Print the version of the command and of the agent.

    \b
    Example:
      whit version
    """
    import whit
    from whit.cli.connection.agent import version_of_agent

    agent = version_of_agent(run.settings)
    if run.json:
        run.output.document({"version": whit.__version__, "agent": agent})
        return
    run.output.line(f"whit {whit.__version__}")
    known = f"{agent.get('version', '?')} (id {agent.get('id')}, pid {agent.get('pid')})" if agent else "none runs"
    run.output.line(f"agent {known}")


def instance_document(instance: InstanceStatus) -> dict[str, Any]:
    """The stable shape of `whit ps --json`: the documented fields first, then what else is known."""
    document = instance.model_dump(mode="json")
    name, addresses = document.pop("name"), [document.pop("address"), document.pop("address6")]
    first = {
        "app": document.pop("app"),
        "service": document.pop("service"),
        "instance": name,
        "state": document.pop("state"),
        "health": document.pop("health"),
        "isolation": document.pop("isolation"),
        "addresses": [address for address in addresses if address],
        "ports": document.pop("ports"),
        "pid": document.pop("pid"),
        "image": document.pop("image"),
    }
    return first | document


def print_instances(output: Output, instances: Iterable[InstanceStatus]) -> None:
    """The table of instances, then what is to be said about those that are not well."""
    listed = sorted(instances, key=lambda one: (one.app, one.service, len(one.name), one.name))
    columns = ("INSTANCE", "STATE", "ISOLATION", "ADDRESS", "PORTS", "PID", "IMAGE")
    output.table(columns, [_row(one) for one in listed], wide=("PID", "IMAGE"))
    for one in listed:
        if one.message:
            output.line(f"{one.name}: {one.message}")


def _row(one: InstanceStatus) -> tuple[str, ...]:
    state = one.state if one.health == "none" or one.state != "running" else f"{one.state} ({one.health})"
    if one.state == "exited" and one.exit_code is not None:
        state = f"exited ({one.exit_code})"
    ports = ", ".join(port.removeprefix("0.0.0.0:") for port in one.ports)
    addresses = ", ".join(address for address in (one.address, one.address6) if address)
    return one.name, state, one.isolation, addresses, ports, str(one.pid or ""), one.image


def log_printer(timestamps: bool) -> Callable[[LogLine], None]:
    """Prints `instance | text`, each instance in a colour of its own on a terminal."""
    colours: dict[str, int] = {}
    coloured = colourful(sys.stdout)
    width = 0

    def show(line: LogLine) -> None:
        nonlocal width
        width = max(width, len(line.instance))
        prefix = f"{line.instance:{width}} |"
        if coloured:
            code = colours.setdefault(line.instance, _PREFIX_COLOURS[len(colours) % len(_PREFIX_COLOURS)])
            prefix = f"\x1b[{code}m{prefix}\x1b[0m"
        time = f"{line.time} " if timestamps else ""
        print(f"{prefix} {time}{line.text}", flush=True)

    return show


def point_in_time(text: str, now: datetime.datetime | None = None) -> str:
    """`10m`, `1h30m` before now, or an RFC 3339 time, as RFC 3339 in UTC; empty stays empty. Raises InputError."""
    if not text:
        return ""
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        ago = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        moment = (now or datetime.datetime.now(datetime.UTC)) - datetime.timedelta(seconds=ago)
    else:
        try:
            moment = datetime.datetime.fromisoformat(text)
        except ValueError:
            raise InputError(f"{text!r} is no time", hint="write 30s, 10m, 2h or 2025-01-31T12:00:00Z") from None
    return moment.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")


def short_digest(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def size_text(size: int) -> str:
    """Bytes in the decimal units that registries use, as `9.8 MB`."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
