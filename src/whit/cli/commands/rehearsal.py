"""whit policy check, replay and learn: what policies would do, and what they would have to say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whit.base.errors import InputError, Unreachable
from whit.cli.display.output import remark
from whit.cli.invocation import Invocation

if TYPE_CHECKING:
    from datetime import datetime

    from whit.model.finding import Candidate, Finding
    from whit.model.learned import Learned
    from whit.model.replay import Change, Replay

NamespaceOption = Annotated[
    str, typer.Option("--app", metavar="APP", help="The app of policies that name no namespace.")
]
SinceOption = Annotated[str, typer.Option(metavar="TIME", help="Flows from then on: 10m, 2h, or an RFC 3339 time.")]
FilesArgument = Annotated[
    list[Path], typer.Argument(metavar="FILE", help="App files, or YAML with policies of Kubernetes.")
]


def check(
    run: Invocation,
    files: FilesArgument,
    app: NamespaceOption = "",
    alone: Annotated[bool, typer.Option("--alone", help="Judge the files by themselves; ask no agent.")] = False,
) -> int:
    """Say what is doubtful about policies, beside what runs. Ends with 1 if there is a problem; remarks are none.

    \b
    shadowed         the rule never decides, others before it do
    redundant        a remark: it never decides, and others say the same
    unreachable      one end lets through what the other end denies
    dns-blocked      a service cannot ask the resolver
    selects-nothing  a selector without services
    no-listener      a port that nobody has, or (a remark) that nobody lists

    Nothing is applied. Without an agent the files are judged by themselves: name the app file too.

    \b
    Example:
      whit policy check network-policies.yaml
      whit policy check whit.yaml network-policies.yaml --alone
    """
    from whit.formats.policy.candidate import load_candidate

    candidate = load_candidate(files, namespace=app or "default")
    found = _checked(run, candidate, alone=alone)
    if run.json:
        run.output.document([one.model_dump(mode="json") for one in found])
    elif found:
        rows = [(one.kind, one.severity, one.place, one.rule, one.text) for one in found]
        run.output.table(("FINDING", "SEVERITY", "PLACE", "ABOUT", "WHAT"), rows)
    else:
        run.output.line("nothing is doubtful")
    return int(any(one.severity == "problem" for one in found))


def _checked(run: Invocation, candidate: Candidate, *, alone: bool) -> list[Finding]:
    from whit.mesh.policy.check import check as check_alone
    from whit.mesh.policy.scenario import Present

    if not alone:
        try:
            return run.client.check_policies(candidate)
        except Unreachable:
            remark("no agent answers: the files are judged by themselves")
    if not candidate.apps:
        remark("no services are known, so what selectors mean is not judged: name the app file too")
    return check_alone(candidate, Present())


def replay(
    run: Invocation,
    files: FilesArgument,
    app: NamespaceOption = "",
    since: SinceOption = "",
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 1 if something that passes would be denied.")
    ] = False,
) -> int:
    """Say what changed policies would have done to the recorded flows. Nothing is applied.

    The files' apps and policies take the place of those with the same name. Flows are told whose verdict would not be
    what it is now.

    \b
    Example:
      whit policy replay network-policies.yaml --since 24h
      whit policy replay whit.yaml --exit-code
    """
    from whit.cli.commands.inspection import point_in_time
    from whit.formats.policy.candidate import load_candidate

    found = run.client.replay_policies(load_candidate(files, namespace=app or "default"), point_in_time(since))
    if run.json:
        run.output.document(found.model_dump(mode="json"))
    else:
        _print_replay(run, found)
    return int(exit_code and any(one.then == "deny" for one in found.changes))


def learn(
    run: Invocation,
    app: Annotated[str, typer.Argument(metavar="PATH|APP", help="The app, or its app file.")] = "",
    since: SinceOption = "",
    write: Annotated[bool, typer.Option("--write", help="Change the app file, after showing how and asking.")] = False,
) -> int:
    """Write the `uses` that the recorded flows show to be needed, as a part of an app file.

    What was let through is learned, also what an audited policy would deny; what was denied is not. Behind each line
    stands how often it was seen, and when last; below, what is declared and was never seen.

    \b
    Example:
      whit policy learn shop
      whit policy learn ./whit.yaml --since 24h --write
    """
    from whit.cli import appfile
    from whit.cli.commands.inspection import point_in_time
    from whit.formats.policy.learned import fragment

    found = run.client.learned(appfile.named_app(app, run.client.apps()), point_in_time(since))
    if write:
        return _write(run, Path(app) if app and Path(app).exists() else Path(), found)
    if run.json:
        run.output.document(found.model_dump(mode="json", exclude_none=True))
    else:
        run.output.line(fragment(found).rstrip())
    return 0


def _write(run: Invocation, path: Path, found: Learned) -> int:
    """Ends with 1 if the person does not want it."""
    import difflib

    from whit.formats.app.appfile import load_app_file
    from whit.formats.policy.learned import edited, replaced

    there = load_app_file(path)
    if there.spec.name != found.app:
        raise InputError(f"{there.file} is of the app {there.spec.name}, not of {found.app}", hint="name its app file")
    before = there.file.read_text(encoding="utf-8")
    after = edited(before, str(there.file), found)
    if before == after:
        run.output.line(f"{there.file} says so already")
        return 0
    shown = difflib.unified_diff(before.splitlines(), after.splitlines(), str(there.file), "learned", lineterm="")
    typer.echo("\n".join(shown), err=True)
    if not typer.confirm(f"Write {there.file}?", err=True):
        run.output.line("nothing was written")
        return 1
    replaced(there, after, found)
    run.output.line(f"wrote {there.file}; `whit up` puts it into force")
    return 0


def _print_replay(run: Invocation, found: Replay) -> None:
    if found.changes:
        columns = ("NOW", "THEN", "SOURCE", "DESTINATION", "PORT", "COUNT", "FIRST", "LAST", "BY")
        run.output.table(columns, map(_row, found.changes), wide=("FIRST",))
    since = f" since {_time(found.since)}" if found.since else ""
    judged = f"{found.flows} flows of {found.distinct} kinds{since}"
    run.output.line(f"{len(found.changes)} of {found.distinct} kinds would change; {judged} were looked at")
    if found.gone:
        remark(f"{found.gone} kinds are of services that are no more, and were not judged")


def _row(change: Change) -> tuple[str, ...]:
    times = _time(change.first), _time(change.last)
    ends = change.source, change.destination, _port(change.protocol, change.port)
    return change.now, change.then, *ends, str(change.count), *times, change.then_rule


def _port(protocol: str, port: int) -> str:
    if protocol.startswith("icmp"):
        return f"{protocol} type {port >> 8}"
    return f"{port}/{protocol}"


def _time(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")
