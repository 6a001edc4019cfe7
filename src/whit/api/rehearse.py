"""The calls about what policies would do: nothing of them changes anything."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import AwareDatetime

from whit.control.rehearsal import Rehearsal
from whit.model.finding import Candidate, Finding
from whit.model.replay import Replay


def add(app: FastAPI, rehearsal: Rehearsal) -> None:
    @app.post("/v1/policies/check")
    async def check_policies(candidate: Candidate) -> list[Finding]:
        return await rehearsal.check(candidate)

    @app.post("/v1/policies/replay")
    async def replay_policies(candidate: Candidate, since: AwareDatetime | None = None) -> Replay:
        return await rehearsal.replay(candidate, since)
