"""Writes docs/reference/cli.md from the commands themselves: `python -m whit.cli.reference [FILE]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from whit.cli.main import EXIT_CODES, app

DEFAULT_FILE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "cli.md"
_COLUMNS = 80

HEAD = """\
# Command line

*Written by `python -m whit.cli.reference`; do not edit.*

Results go to standard output; errors, progress and remarks go to standard error. Colours appear on terminals only, and
never if `NO_COLOR` is set. Output into a pipe is neither folded nor cut.
"""

NAMES = """\
## Names

`shop` is an app, `shop/api` a service, `shop-api-1` an instance. `api` is a service too: of the app whose file is in
the current directory, else of the only app that has one. Where a name could mean two things, the error says both.

A command that needs an app and is given none takes the app whose file is in the current directory, else the only app
there is. `whit ps` without a name lists all.
"""

ENVIRONMENT = """\
## Environment

| variable | is |
|---|---|
| `WHIT_ID` | the agent's id, as `--id`; several agents run side by side on one machine |
| `WHIT_RUN_ROOT`, `WHIT_STATE_ROOT` | where agents keep their things, instead of `/run/whit` and `/var/lib/whit` |
| `NO_COLOR` | no colours |
"""

JSON = """\
## JSON

With `--json` a result is one document. An error is one too, on standard error: `{"code", "message", "hint",
"exit_code"}`. New fields may appear.

| command | prints |
|---|---|
| `up`, `start`, `stop`, `restart` | `{"app": …, "changed": …}`: app, services, instances; `changed` with `up` only |
| `up --dry-run` | `{"operations": [text, …]}` |
| `down` | `{}` |
| `build` | `{"images": {service: {"name", "digest", "size", "cached"}}}`; with `--output` also `exported` |
| `build --explain FILE` | `{"path", "because": [text, …]}` |
| `build --explain`, `image inspect` | `{"parts", "packages", "files", "left_out", "checks"}`, also `config` |
| `image tree` | list of `{"path", "kind", "size", "part", "package", "reason", "via"}` |
| `image diff` | `{"packages", "files", "bytes"}`, each with `old` and `new` |
| `image gc` | `{"blobs", "layers", "bytes"}` |
| `ps` | list: `{"app", "service", "instance", "state", "health", "isolation", "addresses", "ports", "pid", "image"}` |
| `logs` | a line each: `{"instance", "time", "stream", "text"}` |
| `exec` | a line each: `{"stream", "text"}` |
| `flows` | a line each: `{"time", "source", "destination", "protocol", "verdict", "reason", "rule", "rule_text", …}` |
| `explain` | `{"source", "destination", "protocol", "verdict", "reason", "rule", "rule_text", "hops"}` |
| `images` | list of `{"name", "digest", "size", "created"}` |
| `doctor` | list of `{"name", "state", "detail", "hint", "required"}` |
| `doctor --clean` | `{"removed": [text, …]}` |
| `version` | `{"version", "agent"}`; `agent` is null if none runs |
"""


def reference() -> str:
    """The whole page."""
    group: Any = get_command(app)
    root = _context(group, "whit", None)
    sections = [HEAD, _section("whit", root.get_help())]
    for name, command in group.commands.items():
        context = _context(command, name, root)
        inside = getattr(command, "commands", {})
        if not inside:
            sections.append(_section(f"whit {name}", context.get_help()))
        for inner, part in inside.items():
            sections.append(_section(f"whit {name} {inner}", _context(part, inner, context).get_help()))
    return "\n".join([*sections, NAMES, _exit_codes(), JSON, ENVIRONMENT])


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(reference())


def _context(command: Any, name: str, parent: typer.Context | None) -> typer.Context:
    return typer.Context(
        command, info_name=name, parent=parent, terminal_width=_COLUMNS, help_option_names=["--help", "-h"]
    )


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text.rstrip()}\n```\n"


def _exit_codes() -> str:
    rows = "\n".join(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())
    return f"## Exit codes\n\n| code | means |\n|---|---|\n{rows}\n\n`whit exec` ends with the status of its command.\n"


if __name__ == "__main__":
    main()
