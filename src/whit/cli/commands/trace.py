"""The trace command: sends one packet and tells every decision about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from whit.base.errors import InputError
from whit.cli.asked import PROTOCOL_METAVAR, port_of
from whit.cli.commands.flows import party_text, peer_name, rule_said
from whit.cli.display.output import Output
from whit.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from whit.model.flow import Trace, TracedHop

STYLES = {"answered": "green", "delivered": "green", "dropped": "red", "lost": "yellow"}
SAID = {
    "answered": "answered",
    "delivered": "delivered; no answer was seen",
    "dropped": "dropped",
    "lost": "lost: the datapath told nothing of it",
}


def add(app: typer.Typer) -> None:
    command(app)(trace)


def trace(
    run: Invocation,
    source: Annotated[str, typer.Argument(metavar="SRC", help="A service or an instance: it sends the packet.")],
    destination: Annotated[
        str,
        typer.Argument(metavar="DST", help="A service, an instance, an address, a DNS name, world or host."),
    ],
    port: Annotated[str, typer.Argument(metavar="PORT", help="The destination's port; ICMP has none.")] = "",
    protocol: Annotated[
        str, typer.Option(metavar=PROTOCOL_METAVAR, help="A SYN, an empty datagram, an echo request, or an INIT.")
    ] = "tcp",
    udp: Annotated[bool, typer.Option("--udp", help="The same as --protocol udp.")] = False,
    ipv6: Annotated[bool, typer.Option("--ipv6", "-6", help="By IPv6.")] = False,
) -> int:
    """Send one packet and say what the kernel decides about it, step by step. Ends with 1 if it was not delivered.

    The packet is real: it leaves from the instance's network namespace, and the destination sees it. A connection
    that it opens is reset at once.

    \b
    Example:
      whit trace web api 8000
      whit trace web db 5432 -6 --json
      whit trace web db --protocol icmp
    """
    if udp:
        protocol = "udp"
    number = port_of(protocol, port)
    if protocol.startswith("icmp") and number != port_of(protocol, ""):
        raise InputError(f"PORT: of {protocol} only echo requests are sent", hint="leave it out; `explain` takes any")
    sender, peer = peer_name(run, source), peer_name(run, destination)
    if sender in ("world", "host"):
        raise InputError(f"packets are sent from instances, not from {sender}", hint="`whit explain` sends nothing")
    found = run.client.trace(sender, peer, number, protocol=protocol, family=6 if ipv6 else 0)
    if run.json:
        run.output.document(found.model_dump(mode="json"))
    else:
        print_trace(run.output, found)
    return 0 if found.outcome in ("answered", "delivered") else 1


def print_trace(output: Output, found: Trace) -> None:
    """The hops in order, those of answers after a line of their own; then what became of it."""
    width = max((len(hop.step) for hop in found.hops), default=0)
    back = False
    for number, hop in enumerate(found.hops, 1):
        if hop.back != back:
            output.line("    -- the answer" if hop.back else "    -- and on")
            back = hop.back
        output.line(f"{number:>2}. {hop.microseconds:>8.1f} us  {hop.step:{width}}  {hop.decision}", _style(hop))
        if hop.rule:
            output.line(f"    {'':11}  {'':{width}}  {rule_said(hop.rule, hop.rule_text)}")
    output.line()
    why = [found.reason, found.reason_text, rule_said(found.rule, found.rule_text)]
    way = f"{party_text(found.source)} -> {party_text(found.destination)} {found.protocol}"
    output.line(": ".join(part for part in (SAID[found.outcome], way, *why) if part), STYLES[found.outcome])


def _style(hop: TracedHop) -> str:
    return "red" if hop.step == "dropped" or hop.decision.startswith("deny") else ""
