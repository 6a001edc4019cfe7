"""whit policy check: says what policies would do before they are applied."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whit.base.errors import Unreachable
from whit.cli.invocation import Invocation
from whit.cli.output import remark

if TYPE_CHECKING:
    from whit.model.finding import Candidate, Finding

NamespaceOption = Annotated[
    str, typer.Option("--app", metavar="APP", help="The app of policies that name no namespace.")
]
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
    shadowed         a rule that never decides: others before it decide all that it selects
    redundant        a remark: a rule that never decides, and others say the same
    unreachable      one end lets through what the other end denies
    dns-blocked      a service that cannot ask the resolver
    selects-nothing  a selector without services
    no-listener      a port that nobody has; a remark where services may have unlisted ports

    Nothing is applied. Without an agent the files are judged by themselves: name the app file too.

    \b
    Example:
      whit policy check network-policies.yaml
      whit policy check whit.yaml network-policies.yaml --alone
    """
    from whit.formats.candidate import load_candidate

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
    from whit.mesh.check import check as check_alone
    from whit.mesh.scenario import Present

    if not alone:
        try:
            return run.client.check_policies(candidate)
        except Unreachable:
            remark("no agent answers: the files are judged by themselves")
    if not candidate.apps:
        remark("no services are known, so what selectors mean is not judged: name the app file too")
    return check_alone(candidate, Present())
