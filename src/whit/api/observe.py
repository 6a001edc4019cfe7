"""The calls about what the node sees: flows, edges."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import StreamingResponse

from whit.api import stream
from whit.control.observing.observation import Observation
from whit.control.observing.query import FlowQuery
from whit.control.observing.trace import Asked
from whit.model.alarm import Alarm
from whit.model.edge import Edge
from whit.model.flow import Family, Trace


def add(app: FastAPI, observation: Observation) -> None:
    @app.get("/v1/flows")
    async def read_flows(query: Annotated[FlowQuery, Query()], follow: bool = False) -> StreamingResponse:
        return stream.documents(observation.flows(query, follow=follow))

    @app.get("/v1/alarms")
    async def list_alarms() -> list[Alarm]:
        return await observation.examine()

    @app.post("/v1/trace")
    async def trace(source: str, destination: str, port: int, protocol: str = "tcp", family: Family = 0) -> Trace:
        return await observation.trace(Asked(source, destination, port, protocol, family))

    @app.get("/v1/edges")
    async def list_edges(app: str = "", recent: bool = False) -> list[Edge]:
        return await observation.edges(app, recent=recent)
