"""What a person asks of flows: filters by name, verdict, reason, port and time."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from whit.model.flow import Flow, Party


class FlowQuery(BaseModel):
    """Empty fields let everything through. A party is a service (`shop/api`), an address, or host, world, resolver."""

    app: str = ""
    source: str = ""
    destination: str = ""
    verdict: str = ""
    reason: str = ""
    port: int = 0
    since: str = Field(default="", description="RFC 3339.")
    limit: int = Field(default=0, ge=0, description="The last so many; 0 is all.")

    def matches(self, flow: Flow) -> bool:
        return (
            (not self.app or any(party.name.startswith(f"{self.app}/") for party in (flow.source, flow.destination)))
            and _is(flow.source, self.source)
            and _is(flow.destination, self.destination)
            and self.verdict in ("", flow.verdict)
            and self.reason in ("", flow.reason)
            and self.port in (0, flow.destination.port)
            and (not self.since or flow.time >= datetime.fromisoformat(self.since))
        )


def _is(party: Party, wanted: str) -> bool:
    return wanted in ("", party.name, party.address)
