"""whit catalog: ready apps and machines, which `catalog:NAME` stands for wherever a file is named."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from whit.cli.invocation import Invocation, command

catalog = typer.Typer(name="catalog", help="Ready apps and machines, linked from parts: `whit up catalog:NAME`.")


def add(app: typer.Typer) -> None:
    for function in (ls, show):
        command(catalog)(function)
    app.add_typer(catalog)


def ls(run: Invocation) -> None:
    """List what is there. `up`, `build` and `boot` take each as catalog:NAME; `extends` takes an app as a base.

    \b
    Example:
      whit catalog ls
      whit up catalog:nginx
      whit build catalog:postgresql --target disk -o database.raw
      whit boot catalog:nginx-machine -p 8080:8080
    """
    from whit.formats.catalog import entries

    found = entries()
    if run.json:
        run.output.document([{"name": one.name, "kind": one.kind, "summary": one.summary} for one in found])
        return
    run.output.table(("NAME", "KIND", ""), [(one.name, one.kind, one.summary) for one in found])


def show(
    run: Invocation, name: Annotated[str, typer.Argument(metavar="NAME", help="As `whit catalog ls` has it.")]
) -> None:
    """Print the file of an entry, to be read, or to start a file of your own from.

    \b
    Example:
      whit catalog show nginx
    """
    from whit.formats.catalog import PREFIX, find

    entry = find(name.removeprefix(PREFIX))
    if not run.json:
        run.output.line(entry.file.read_text(encoding="utf-8").rstrip("\n"))
        return
    spec: dict[str, Any]
    if entry.kind == "app":
        from whit.formats.app.appfile import load_app

        spec = load_app(entry.file).model_dump(mode="json", exclude_defaults=True)
    else:
        from whit.formats.machine.document import load_machine

        spec = load_machine(entry.file).model_dump(mode="json", exclude_defaults=True)
    head = {"name": entry.name, "kind": entry.kind, "summary": entry.summary, "file": str(entry.file)}
    run.output.document(head | {"spec": spec})
