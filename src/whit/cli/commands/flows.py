"""Commands that see the mesh: flows and explain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from whit.base.errors import InputError
from whit.cli.asked import PORT_HELP, PROTOCOL_METAVAR, port_of, port_text
from whit.cli.connection.transport import Query
from whit.cli.display.output import COLOURS, Output
from whit.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from whit.model.flow import Explanation, Flow, Party

VERDICTS = ("allow", "deny", "audit", "redirect")
_PARTY = "A service, an instance, an address, a DNS name, world or host."

_Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")]
_Ends = Annotated[bool, typer.Option("--ends", help="Connections that were closed: bytes, duration, RTT.")]
_Http = Annotated[bool, typer.Option("--http", help="HTTP requests with their answers.")]
_From = Annotated[str, typer.Option("--from", metavar="PARTY", help="Only from this service or address.")]
_To = Annotated[str, typer.Option("--to", metavar="PARTY", help="Only to this service, address or DNS name.")]
_Verdict = Annotated[str, typer.Option(metavar="VERDICT", help=f"Only {', '.join(VERDICTS)}.")]
_Reason = Annotated[str, typer.Option(metavar="NAME", help="Only drops for this reason.")]
_Rule = Annotated[int | None, typer.Option(metavar="N", min=1, help="Only what this rule decided.")]
_Undeclared = Annotated[bool, typer.Option("--undeclared", help="Only what nobody declared.")]
_Port = Annotated[int | None, typer.Option(metavar="PORT", min=1, max=65535, help="Only to this port.")]
_Protocol = Annotated[str, typer.Option(metavar="NAME", help="Only tcp, udp, icmp or icmpv6.")]
_Family = Annotated[str, typer.Option(metavar="4|6", help="Only IPv4 or IPv6.")]
_Status = Annotated[str, typer.Option(metavar="CODE", help="Only HTTP with this status: 503, or 5xx.")]
_Method = Annotated[str, typer.Option(metavar="NAME", help="Only HTTP with this method.")]
_Path = Annotated[str, typer.Option(metavar="PREFIX", help="Only HTTP with a path that begins so.")]
_Since = Annotated[str, typer.Option(metavar="TIME", help="From then on: 10m, 2h, or an RFC 3339 time.")]
_Until = Annotated[str, typer.Option(metavar="TIME", help="Up to then.")]
_App = Annotated[str, typer.Option(metavar="APP", help="Only flows that this app takes part in.")]
_Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="The last so many.")]


def add(app: typer.Typer) -> None:
    for function in (flows, explain):
        command(app)(function)


def flows(
    run: Invocation,
    follow: _Follow = False,
    ends: _Ends = False,
    http: _Http = False,
    source: _From = "",
    destination: _To = "",
    verdict: _Verdict = "",
    reason: _Reason = "",
    rule: _Rule = None,
    undeclared: _Undeclared = False,
    port: _Port = None,
    protocol: _Protocol = "",
    family: _Family = "",
    status: _Status = "",
    method: _Method = "",
    path: _Path = "",
    since: _Since = "",
    until: _Until = "",
    app: _App = "",
    limit: _Limit = None,
) -> None:
    """Print the connections and drops that the kernel saw, also those before the agent was started.

    A drop comes with its reason and the rule that decided. Without --ends and --http, and filters of HTTP, only
    beginnings and drops are printed.

    \b
    Example:
      whit flows -f --verdict deny
      whit flows --from web --to db --json
      whit flows --http --status 5xx --since 10m
    """
    from whit.cli.commands.inspection import point_in_time

    _check(verdict, family)
    http = http or bool(status or method or path)
    query: Query = {
        "follow": follow,
        "kind": [*(["end"] if ends else []), *(["http"] if http else [])] or ["flow"],
        "app": app,
        "source": peer_name(run, source),
        "destination": peer_name(run, destination),
        "verdict": verdict,
        "reason": reason.upper().replace("-", "_"),
        "rule": rule,
        "undeclared": undeclared,
        "port": port,
        "protocol": protocol.lower(),
        "family": family,
        "status": status.lower(),
        "method": method,
        "path": path,
        "since": point_in_time(since),
        "until": point_in_time(until),
        "limit": limit,
    }
    _print(run, query)


def _check(verdict: str, family: str) -> None:
    if verdict and verdict not in VERDICTS:
        raise InputError(f"--verdict: there is no verdict {verdict}", hint=f"one of {', '.join(VERDICTS)}")
    if family not in ("", "4", "6"):
        raise InputError(f"--family: {family} is neither 4 nor 6")


def _print(run: Invocation, query: Query) -> None:
    printer = FlowPrinter(run.output)
    for flow in run.client.flows(query):
        if run.json:
            run.output.item(flow)
        else:
            printer.show(flow)


def explain(
    run: Invocation,
    source: Annotated[str, typer.Argument(metavar="SRC", help=_PARTY)],
    destination: Annotated[str, typer.Argument(metavar="DST", help=_PARTY)],
    port: Annotated[str, typer.Argument(metavar="PORT", help=PORT_HELP)] = "",
    protocol: Annotated[str, typer.Option(metavar=PROTOCOL_METAVAR, help="The protocol.")] = "tcp",
    exit_code: Annotated[bool, typer.Option("--exit-code", help="End with 1 if it would be denied.")] = False,
) -> int:
    """Say what would happen to a first packet, and which rule says so. Nothing is sent.

    \b
    Example:
      whit explain web db 5432
      whit explain api 203.0.113.7 443 --exit-code
      whit explain web db --protocol icmp
    """
    number = port_of(protocol, port)
    explanation = run.client.explain(peer_name(run, source), peer_name(run, destination), number, protocol)
    if run.json:
        run.output.document(explanation.model_dump(mode="json"))
    else:
        print_explanation(run.output, explanation)
    return 1 if exit_code and explanation.verdict == "deny" else 0


class FlowPrinter:
    """One line a flow, in columns that grow with what is in them; a second line, indented, says why."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self.widths = [0, 0]

    def show(self, flow: Flow) -> None:
        time = flow.time.astimezone().strftime("%H:%M:%S.%f")[:-3]
        ends = [party_text(flow.source), party_text(flow.destination)]
        self.widths = [max(pair) for pair in zip(self.widths, map(len, ends), strict=True)]
        source, destination = (text.ljust(width) for text, width in zip(ends, self.widths, strict=True))
        what = flow.verdict if flow.kind == "flow" else flow.kind
        line = f"{time} {what:<8} {source} -> {destination} {flow.protocol}{detail(flow)}"
        self.output.line(line, style=_flow_style(flow))
        if text := reason_said(flow):
            self.output.line(f"             {text}")


def _flow_style(flow: Flow) -> str:
    if flow.http and flow.http.status >= 500:
        return "red"
    return COLOURS.get(flow.verdict, "") if flow.kind == "flow" else ""


def detail(flow: Flow) -> str:
    """What only some kinds have, after a space; empty if there is nothing."""
    from whit.cli.commands.inspection import size_text

    if flow.http:
        return f" {flow.http.method} {flow.http.path} {flow.http.status} {duration_text(flow.http.latency_us / 1e6)}"
    if flow.end:
        end = flow.end
        rtt = f", rtt {duration_text(end.rtt_us / 1e6)}" if end.rtt_us else ""
        again = f", {end.retransmits} retransmitted" if end.retransmits else ""
        how = ", reset" if end.reset else ""
        sizes = f"{size_text(end.bytes)} out, {size_text(end.reply_bytes)} back"
        return f" {duration_text(end.seconds)}, {sizes}{rtt}{again}{how}"
    return f" (asked for {flow.service})" if flow.service else ""


def reason_said(flow: Flow) -> str:
    """`POLICY_EGRESS: …: rule 7: …`; empty where there is nothing to explain."""
    why = [flow.reason, flow.reason_text, rule_said(flow.rule, flow.rule_text)] if flow.reason else []
    if flow.verdict == "audit":
        why = ["would be denied", rule_said(flow.rule, flow.rule_text)]
    if flow.undeclared:
        why.append("nobody declared it")
    return ": ".join(part for part in why if part)


def duration_text(seconds: float) -> str:
    """`120 us`, `3.1 ms`, `2.50 s`, `5m03s`, `2h10m`."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"


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
    kind = port_text(explanation.protocol, explanation.destination.port)
    there = _end(explanation.destination) if kind else party_text(explanation.destination)
    way = f"{_end(explanation.source)} -> {there} {explanation.protocol} {kind}".rstrip()
    why = [explanation.reason, rule_said(explanation.rule, explanation.rule_text)]
    return ": ".join(part for part in (explanation.verdict, way, *why) if part)


def rule_said(rule: int, text: str) -> str:
    """`rule 7: db admits api (whit.yaml)`; empty where no rule decided."""
    if not rule:
        return text
    return f"rule {rule}: {text}" if text else f"rule {rule}"


def party_text(party: Party) -> str:
    """`shop/api 10.1.0.2:8000`; with the DNS name that was asked for, where there is one."""
    host = f"[{party.address}]" if party.port and ":" in party.address else party.address
    address = f"{host}:{party.port}" if party.port else host
    name = party.dns or party.name
    return f"{name} {address}" if name else address


def _end(party: Party) -> str:
    """A source without its port, which a first packet has not chosen yet."""
    return f"{party.name} {party.address}" if party.name else party.address


def peer_name(run: Invocation, name: str) -> str:
    from whit.cli import appfile
    from whit.cli.names import peer

    return peer(name, run.client.apps(), appfile.default_app()) if name else ""
