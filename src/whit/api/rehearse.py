"""The calls about what policies would do: nothing of them changes anything."""

from __future__ import annotations

from fastapi import FastAPI

from whit.control.rehearsal import Rehearsal
from whit.model.finding import Candidate, Finding


def add(app: FastAPI, rehearsal: Rehearsal) -> None:
    @app.post("/v1/policies/check")
    async def check_policies(candidate: Candidate) -> list[Finding]:
        return await rehearsal.check(candidate)
