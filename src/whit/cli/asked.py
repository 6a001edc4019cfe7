"""What `explain` and `trace` are asked about: a protocol, and with it a port, or a type and code of ICMP."""

from __future__ import annotations

from whit.base.errors import InputError

PROTOCOL_METAVAR = "tcp|udp|sctp|icmp|icmpv6"
PORT_HELP = "The destination's port; of ICMP TYPE or TYPE/CODE, an echo request if it is left out."
_HIGHEST = 65535
_HIGHEST_OF_ICMP = 255


def port_of(protocol: str, text: str) -> int:
    """The number that policy is asked about. Raises InputError for what is no such protocol, port or type."""
    from whit.model.policy import ECHO_REQUESTS, NUMBERS

    if protocol not in NUMBERS:
        raise InputError(f"--protocol: {protocol} is not one of {', '.join(NUMBERS)}")
    if protocol in ECHO_REQUESTS:
        return _icmp(protocol, text)
    if not text:
        raise InputError(f"PORT is missing: {protocol} is asked by port", hint="as 443")
    if not text.isdecimal() or not 1 <= int(text) <= _HIGHEST:
        raise InputError(f"PORT: {text!r} is no port of {protocol}", hint=f"1 to {_HIGHEST}")
    return int(text)


def _icmp(protocol: str, text: str) -> int:
    from whit.model.policy import ECHO_REQUESTS, icmp_port

    kind, slash, code = text.partition("/")
    numbers = [kind, code] if slash else [kind]
    if not text:
        return icmp_port(ECHO_REQUESTS[protocol])
    if any(not number.isdecimal() or int(number) > _HIGHEST_OF_ICMP for number in numbers):
        raise InputError(f"PORT: {text!r} is no type of {protocol}", hint="TYPE or TYPE/CODE, each 0 to 255, as 3/4")
    return icmp_port(int(kind), int(code) if slash else 0)


def port_text(protocol: str, port: int) -> str:
    """`type 8`, `type 3 code 4`; empty for all but ICMP."""
    if not protocol.startswith("icmp"):
        return ""
    kind, code = divmod(port, 256)
    return f"type {kind} code {code}" if code else f"type {kind}"
