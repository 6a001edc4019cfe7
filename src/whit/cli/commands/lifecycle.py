"""Commands that change what runs: up, down, start, stop, restart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whit.cli.invocation import Invocation, NamesArgument, command

if TYPE_CHECKING:
    from whit.model.status import AppStatus

_PUBLISHED = re.compile(r"(?P<host>[^>]*):(?P<port>\d+)->(?P<target>\d+)/(?P<protocol>\w+)")

PathArgument = Annotated[Path, typer.Argument(metavar="PATH", help="App file, or the directory that holds it.")]


def add(app: typer.Typer) -> None:
    for function in (up, down, start, stop, restart):
        command(app)(function)


def up(
    run: Invocation,
    path: PathArgument = Path(),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")] = False,
    build: Annotated[bool, typer.Option("--build", help="Build anew, also where nothing changed.")] = False,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Seconds until everything is healthy.")
    ] = 300.0,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Do not wait until it is healthy.")] = False,
) -> None:
    """Build what changed, start it, and wait until it is healthy.

    Starts the agent if none runs. Running it again changes only what differs from the app file.

    \b
    Example:
      whit up examples/shop
      whit up --dry-run
    """
    from whit.cli import appfile
    from whit.cli.connection.agent import ensure_agent
    from whit.cli.display import progress

    spec = appfile.load(path)
    ensure_agent(run.settings)
    items = run.client.up(spec, dry_run=dry_run, build=build, timeout=timeout, wait=not detach)
    result = progress.follow(items, run.output)
    if run.json:
        return
    if dry_run:
        _print_operations(run, result.get("operations", []))
    else:
        _print_app(run, result)


def down(
    run: Invocation,
    app: Annotated[str, typer.Argument(metavar="PATH|APP", help="The app, or its app file.")] = "",
    volumes: Annotated[bool, typer.Option("--volumes", help="Remove its named volumes and their data too.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Seconds that the whole may take.")] = 60.0,
) -> None:
    """Stop an app and remove what it put on the machine.

    Its named volumes stay, unless --volumes is given.

    \b
    Example:
      whit down shop
      whit down --volumes
    """
    from whit.cli import appfile
    from whit.cli.connection.agent import ensure_agent
    from whit.cli.display import progress

    if run.settings.database.exists():  # apps outlive an agent that was killed, and only an agent takes them down
        ensure_agent(run.settings)
    name = appfile.named_app(app, run.client.apps())
    progress.follow(run.client.down(name, volumes=volumes, timeout=timeout), run.output)
    if not run.json:
        run.output.line(f"{name} is down")


def start(run: Invocation, names: NamesArgument = None) -> None:
    """Wake what sleeps of an app or of some of its services (`scale` in the app file).

    It returns when somebody listens there. The first connection wakes an instance too.

    \b
    Example:
      whit start api
    """
    _send(run, names, run.client.start)


def stop(run: Invocation, names: NamesArgument = None) -> None:
    """Put an app or some of its services to sleep now, as `scale` in the app file says how.

    The next connection wakes them. Whoever is connected stays so only with `idle: frozen`.

    \b
    Example:
      whit stop api
    """
    _send(run, names, run.client.stop)


def _send(run: Invocation, names: list[str] | None, call: Callable[[str, list[str]], dict[str, Any]]) -> None:
    from whit.cli import appfile
    from whit.cli.names import select

    selection = select(names or [], run.client.apps(), appfile.default_app())
    result = call(selection.app, list(selection.members))
    if run.json:
        run.output.document(result)
    else:
        _print_app(run, result)


def restart(
    run: Invocation,
    names: NamesArgument = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="Seconds until everything is healthy again.")
    ] = 120.0,
) -> None:
    """Restart the instances of an app or of some of its services.

    \b
    Example:
      whit restart api
      whit restart shop
    """
    from whit.cli import appfile
    from whit.cli.display import progress
    from whit.cli.names import select

    selection = select(names or [], run.client.apps(), appfile.default_app())
    items = run.client.restart(selection.app, selection.members, timeout=timeout)
    result = progress.follow(items, run.output)
    if not run.json:
        _print_app(run, result)


def addresses_of(ports: tuple[str, ...]) -> Iterator[str]:
    """How to reach published ports from this machine, as `http://127.0.0.1:8080`."""
    for port in ports:
        match = _PUBLISHED.fullmatch(port)
        if match is None:
            yield port
            continue
        host = "127.0.0.1" if match["host"] == "0.0.0.0" else match["host"]
        scheme = {"443": "https://", "8443": "https://"}.get(match["target"], "http://")
        if match["protocol"] == "tcp":
            yield f"{scheme}{host}:{match['port']}"
        else:
            yield f"{match['protocol']} {host}:{match['port']}"


def _print_operations(run: Invocation, operations: list[str]) -> None:
    for operation in operations:
        run.output.line(operation)
    if not operations:
        run.output.line("nothing to do")


def _print_app(run: Invocation, result: dict[str, Any]) -> None:
    """What runs where, and how to reach it."""
    from whit.cli.commands.inspection import print_instances
    from whit.model.status import AppStatus

    status = AppStatus.model_validate(result["app"])
    print_instances(run.output, status.instances)
    reachable = _reachable(status)
    width = max((len(service) for service, _ in reachable), default=0)
    if reachable:
        run.output.line()
    for service, address in reachable:
        run.output.line(f"{service:{width}}  {address}")
    if result.get("changed") is False:
        run.output.line()
        run.output.line(f"{status.name} was up to date")


def _reachable(status: AppStatus) -> list[tuple[str, str]]:
    return [(service.name, address) for service in status.services for address in addresses_of(service.ports)]
