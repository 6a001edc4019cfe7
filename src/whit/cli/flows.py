"""Commands that see the mesh: flows and explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from whit.base.errors import InputError
from whit.cli.invocation import Invocation, command
from whit.cli.output import COLOURS, Output
from whit.cli.transport import Query

if TYPE_CHECKING:
    from whit.model.flow import Explanation, Flow, Party

VERDICTS = ("allow", "deny", "audit", "redirect")
_PARTY = "A service, an instance, an address, world or host."


def add(app: typer.Typer) -> None:
    for function in (flows, explain):
        command(app)(function)


def flows(
    run: Invocation,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    source: Annotated[str, typer.Option("--from", metavar="PARTY", help="Only from this service or address.")] = "",
    destination: Annotated[str, typer.Option("--to", metavar="PARTY", help="Only to this service or address.")] = "",
    verdict: Annotated[str, typer.Option(metavar="VERDICT", help=f"Only {', '.join(VERDICTS)}.")] = "",
    reason: Annotated[str, typer.Option(metavar="NAME", help="Only drops for this reason.")] = "",
    port: Annotated[int | None, typer.Option(metavar="PORT", min=1, max=65535, help="Only to this port.")] = None,
    since: Annotated[str, typer.Option(metavar="TIME", help="From then on: 10m, 2h, or an RFC 3339 time.")] = "",
    app: Annotated[str, typer.Option(metavar="APP", help="Only flows that this app takes part in.")] = "",
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="The last so many.")] = None,
) -> None:
    """Print the connections and drops that the kernel saw.

    A drop comes with its reason and the rule that decided.

    \b
    Example:
      whit flows -f --verdict deny
      whit flows --from web --to db --json
    """
    from whit.cli.inspection import point_in_time

    if verdict and verdict not in VERDICTS:
        raise InputError(f"--verdict: there is no verdict {verdict}", hint=f"one of {', '.join(VERDICTS)}")
    query: Query = {
        "follow": follow,
        "app": app,
        "source": _peer(run, source),
        "destination": _peer(run, destination),
        "verdict": verdict,
        "reason": reason,
        "port": port,
        "since": point_in_time(since),
        "limit": limit,
    }
    for flow in run.client.flows(query):
        if run.json:
            run.output.item(flow)
        else:
            print_flow(run.output, flow)


def explain(
    run: Invocation,
    source: Annotated[str, typer.Argument(metavar="SRC", help=_PARTY)],
    destination: Annotated[str, typer.Argument(metavar="DST", help=_PARTY)],
    port: Annotated[int, typer.Argument(metavar="PORT", min=1, max=65535, help="The destination's port.")],
    protocol: Annotated[str, typer.Option(metavar="tcp|udp", help="The protocol.")] = "tcp",
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 if it would be denied.")] = False,
) -> int:
    """Say what would happen to a first packet, and which rule says so. Nothing is sent.

    \b
    Example:
      whit explain web db 5432
      whit explain api 203.0.113.7 443 --exit-code
    """
    if protocol not in ("tcp", "udp"):
        raise InputError(f"--protocol: {protocol} is neither tcp nor udp")
    explanation = run.client.explain(_peer(run, source), _peer(run, destination), port, protocol)
    if run.json:
        run.output.document(explanation.model_dump(mode="json"))
    else:
        print_explanation(run.output, explanation)
    return 1 if exit_code and explanation.verdict == "deny" else 0


def print_flow(output: Output, flow: Flow) -> None:
    """One line; a second one, indented, says why something was dropped or that nobody declared it."""
    time = flow.time.astimezone().strftime("%H:%M:%S.%f")[:-3]
    way = f"{party_text(flow.source)} -> {party_text(flow.destination)} {flow.protocol}"
    asked = f" (asked for {flow.service})" if flow.service else ""
    output.line(f"{time} {flow.verdict:<8} {way}{asked}", style=COLOURS.get(flow.verdict, ""))
    why = [flow.reason, flow.reason_text, rule_said(flow.rule, flow.rule_text)] if flow.reason else []
    if flow.undeclared:
        why.append("nobody declared it")
    if text := ": ".join(part for part in why if part):
        output.line(f"             {text}")


def print_explanation(output: Output, explanation: Explanation) -> None:
    """The decisions in order, then the answer in one line."""
    width = max((len(hop.step) for hop in explanation.hops), default=0)
    for number, hop in enumerate(explanation.hops, 1):
        output.line(f"{number:>2}. {hop.step:{width}}  {hop.decision}")
        if hop.rule or hop.rule_text:
            output.line(f"    {'':{width}}  {rule_said(hop.rule, hop.rule_text)}")
    if explanation.hops:
        output.line()
    output.line(answer(explanation), style=COLOURS.get(explanation.verdict, ""))


def answer(explanation: Explanation) -> str:
    """`deny: shop/web 10.1.0.2 -> shop/db 10.1.0.3:5432 tcp: POLICY_EGRESS: rule 7: …`."""
    way = f"{_end(explanation.source)} -> {party_text(explanation.destination)} {explanation.protocol}"
    why = [explanation.reason, rule_said(explanation.rule, explanation.rule_text)]
    return ": ".join(part for part in (explanation.verdict, way, *why) if part)


def rule_said(rule: int, text: str) -> str:
    """`rule 7: db admits api (whit.yaml)`; empty where no rule decided."""
    if not rule:
        return text
    return f"rule {rule}: {text}" if text else f"rule {rule}"


def party_text(party: Party) -> str:
    address = f"{party.address}:{party.port}" if party.port else party.address
    return f"{party.name} {address}" if party.name else address


def _end(party: Party) -> str:
    """A source without its port, which a first packet has not chosen yet."""
    return f"{party.name} {party.address}" if party.name else party.address


def _peer(run: Invocation, name: str) -> str:
    from whit.cli import appfile
    from whit.cli.names import peer

    return peer(name, run.client.apps(), appfile.default_app()) if name else ""
