"""The calls about what policies would do: nothing of them changes anything."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import AwareDatetime

from whit.control.agent import Agent
from whit.model.finding import Candidate, Finding
from whit.model.learned import Learned
from whit.model.replay import Replay


def add(app: FastAPI, agent: Agent) -> None:
    rehearsal = agent.rehearsal

    @app.get("/v1/apps/{name}/learned")
    async def learn_uses(name: str, since: AwareDatetime | None = None) -> Learned:
        return await agent.learn(name, since)

    @app.post("/v1/policies/check")
    async def check_policies(candidate: Candidate) -> list[Finding]:
        return await rehearsal.check(candidate)

    @app.post("/v1/policies/replay")
    async def replay_policies(candidate: Candidate, since: AwareDatetime | None = None) -> Replay:
        return await rehearsal.replay(candidate, since)
