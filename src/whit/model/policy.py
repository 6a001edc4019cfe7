"""Policy: which identity may reach which. A rule has an id that every verdict carries."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whit.model.base import Noun

Direction = Literal["egress", "ingress"]

ANY_PEER = 0
HOST = 1
WORLD = 2
RESOLVER = 3
UNASSIGNED = 4
"""An address of the mesh that nobody has."""


class Rule(Noun):
    """One line of policy, after names have become identities."""

    id: int = Field(ge=1, description="Stored; never given to another rule.")
    subject: int = Field(description="Identity whose traffic is decided.")
    direction: Direction
    peer: int = Field(default=ANY_PEER, description="Identity of the other end; 0 is every one.")
    protocol: int = Field(default=0, description="IP protocol number; 0 is every one.")
    first_port: int = Field(default=0, ge=0, le=65535, description="0 with last_port 65535 is every port.")
    last_port: int = Field(default=65535, ge=0, le=65535)
    verdict: Literal["allow", "deny"] = "allow"
    audit: bool = False
    precedence: int = Field(default=1, ge=0, description="Higher decides; default-deny is 0.")
    text: str = Field(description="In words, with its origin: `shop/web uses api (whit.yaml)`.")
