"""What a person asks of flows: by name, verdict, reason, rule, port, protocol, family, time, HTTP and DNS name."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

from pydantic import AwareDatetime, BaseModel, Field

from whit.datapath import abi
from whit.datapath.events import kind_of
from whit.model.flow import Family, Flow, Kind, Party
from whit.model.instance import InstanceStatus

_NUMBERS: dict[Kind, int] = {"flow": abi.EventKind.FLOW, "end": abi.EventKind.END, "http": abi.EventKind.HTTP}
_PORT = struct.Struct("!H")
_PORT_OFFSETS = {
    _NUMBERS[kind]: next(offset for name, offset, _ in abi.LAYOUT[f"{kind}_event"][1] if name == "destination_port")
    for kind in _NUMBERS
}
_REASON = struct.Struct("<H")
_REASON_OFFSET = next(offset for name, offset, _ in abi.LAYOUT["flow_event"][1] if name == "reason")


class FlowQuery(BaseModel):
    """Empty fields let everything through. A party is a service (`shop/api`), an instance, an address, or host, world,
    resolver; several are separated by commas."""

    kind: list[Kind] = Field(default=[], description="flow, end, http; repeated.")
    app: str = ""
    source: str = ""
    destination: str = Field(default="", description="A party, or the name of the DNS that was asked for.")
    verdict: str = ""
    reason: str = ""
    rule: int = 0
    port: int = 0
    protocol: str = ""
    family: Family = 0
    status: str = Field(default="", pattern=r"^([1-5](\d\d|xx))?$", description="503, or 5xx.")
    method: str = ""
    path: str = Field(default="", description="How the path begins.")
    undeclared: bool = False
    since: AwareDatetime | None = Field(default=None, description="RFC 3339.")
    until: AwareDatetime | None = Field(default=None, description="RFC 3339.")
    limit: int = Field(default=0, ge=0, description="The last so many; 0 is all.")

    def with_addresses(self, instances: Iterable[InstanceStatus]) -> FlowQuery:
        """Flows know instances by their addresses only."""
        known = {one.name: f"{one.address},{one.address6}" for one in instances}
        parties = {"source": self.source, "destination": self.destination}
        return self.model_copy(update={key: known.get(name, name) for key, name in parties.items()})

    def sieve(self) -> Callable[[bytes], bool]:
        """Tells from a record, at a tenth of the cost, that it cannot match."""
        kinds = {_NUMBERS[kind] for kind in self._kinds()}
        denied, port = self.verdict == "deny" or bool(self.reason), self.port

        def passes(record: bytes) -> bool:
            kind = kind_of(record)
            return (
                kind in kinds
                and (not port or _PORT.unpack_from(record, _PORT_OFFSETS[kind])[0] == port)
                and (not denied or _REASON.unpack_from(record, _REASON_OFFSET)[0] != 0)
            )

        return passes

    def matches(self, flow: Flow) -> bool:
        return (
            flow.kind in self._kinds()
            and self._is_of_app(flow)
            and _is(flow.source, self.source)
            and _is(flow.destination, self.destination)
            and self._decided_so(flow)
            and self.port in (0, flow.destination.port)
            and self.protocol in ("", flow.protocol)
            and self.family in (0, 6 if ":" in flow.source.address else 4)
            and (self.since is None or flow.time >= self.since)
            and (self.until is None or flow.time <= self.until)
            and self._asked_so(flow)
        )

    def _is_of_app(self, flow: Flow) -> bool:
        parties = (flow.source, flow.destination)
        return not self.app or any(party.name.startswith(f"{self.app}/") for party in parties)

    def _decided_so(self, flow: Flow) -> bool:
        return (
            self.verdict in ("", flow.verdict)
            and self.reason in ("", flow.reason)
            and self.rule in (0, flow.rule)
            and (not self.undeclared or flow.undeclared)
        )

    def _asked_so(self, flow: Flow) -> bool:
        if not self._about_http():
            return True
        return (
            flow.http is not None
            and _is_status(flow.http.status, self.status)
            and self.method.upper() in ("", flow.http.method)
            and flow.http.path.startswith(self.path)
        )

    def _about_http(self) -> bool:
        return bool(self.status or self.method or self.path)

    def _kinds(self) -> Iterable[Kind]:
        """What only some kinds have leaves out the others."""
        found = set(self.kind or _NUMBERS)
        if self._about_http():
            found &= {"http"}
        if self.verdict not in ("", "allow") or self.reason or self.rule or self.undeclared:
            found &= {"flow"}
        return found


def _is(party: Party, wanted: str) -> bool:
    return not wanted or not {party.name, party.address, party.dns}.isdisjoint(filter(None, wanted.split(",")))


def _is_status(status: int, wanted: str) -> bool:
    return not wanted or str(status) == wanted or (wanted.endswith("xx") and str(status)[0] == wanted[0])
