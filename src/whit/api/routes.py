"""The calls of the REST interface: decode, call control, encode. README.md beside this file lists them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse

from whit import __version__
from whit.api import execute, metrics, observe, rehearse, stream
from whit.base.errors import Conflict, InputError, NotFound, TimedOut, Unavailable, WhitError
from whit.control.agent import Agent
from whit.model.app import AppSpec
from whit.model.feature import Feature
from whit.model.flow import Explanation
from whit.model.image import StoredImage
from whit.model.instance import InstanceStatus
from whit.model.policy import PolicySpec
from whit.model.progress import Report
from whit.model.status import AgentStatus, AppStatus
from whit.model.surface import Surface

STATUS: dict[type[WhitError], int] = {InputError: 400, NotFound: 404, Conflict: 409, Unavailable: 501, TimedOut: 504}


def make_app(agent: Agent) -> FastAPI:
    """The application that serves one agent."""
    app = FastAPI(title="Whit", version=__version__, openapi_url="/v1/openapi.json", docs_url=None, redoc_url=None)
    app.add_exception_handler(Exception, _answer_problem)
    app.add_exception_handler(WhitError, _answer_problem)
    _add_apps(app, agent)
    _add_instances(app, agent)
    _add_observation(app, agent)
    observe.add(app, agent.observation)
    rehearse.add(app, agent)
    metrics.add(app, agent.observation)
    return app


async def _answer_problem(request: Request, error: Exception) -> JSONResponse:
    status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse(stream.problem_of(error).model_dump(), status_code=status)


def _add_apps(app: FastAPI, agent: Agent) -> None:
    @app.get("/v1/apps")
    async def list_apps() -> list[AppStatus]:
        return agent.app_statuses()

    @app.get("/v1/apps/{name}")
    async def read_app(name: str) -> AppStatus:
        return agent.app_status(name)

    @app.put("/v1/apps/{name}")
    async def put_app(
        name: str, spec: AppSpec, dry_run: bool = False, build: bool = False, timeout: float = 300.0, wait: bool = True
    ) -> StreamingResponse:
        if spec.name != name:
            raise InputError(f"the document names the app {spec.name}, the address {name}")

        async def work(report: Report) -> dict[str, Any]:
            if dry_run:
                return {"operations": await agent.describe_up(spec)}
            return await agent.up(spec, report, refresh=build, timeout=timeout, wait=wait)

        return stream.progress(work)

    @app.delete("/v1/apps/{name}")
    async def delete_app(name: str, volumes: bool = False, timeout: float = 60.0) -> StreamingResponse:
        agent.app_status(name)

        async def work(report: Report) -> dict[str, Any]:
            await agent.down(name, report, volumes=volumes, timeout=timeout)
            return {}

        return stream.progress(work)

    @app.post("/v1/apps/{name}/restart")
    async def restart_app(
        name: str, service: Annotated[list[str] | None, Query()] = None, timeout: float = 120.0
    ) -> StreamingResponse:
        agent.app_status(name)

        async def work(report: Report) -> dict[str, Any]:
            return await agent.restart(name, service or [], report, timeout=timeout)

        return stream.progress(work)

    @app.post("/v1/apps/{name}/start")
    async def start_app(name: str, service: Annotated[list[str] | None, Query()] = None) -> dict[str, Any]:
        return await agent.start_services(name, service or [])

    @app.post("/v1/apps/{name}/stop")
    async def stop_app(name: str, service: Annotated[list[str] | None, Query()] = None) -> dict[str, Any]:
        return await agent.stop_services(name, service or [])

    @app.post("/v1/apps/{name}/build")
    async def build_app(name: str, spec: AppSpec, refresh: bool = False) -> StreamingResponse:
        async def work(report: Report) -> dict[str, Any]:
            images = await agent.settle_images(spec, report, refresh=refresh)
            fields = {"name", "digest", "size", "cached"}
            return {"images": {service: image.model_dump(include=fields) for service, image in images.items()}}

        return stream.progress(work)


def _add_instances(app: FastAPI, agent: Agent) -> None:
    @app.get("/v1/instances")
    async def list_instances(app: str = "") -> list[InstanceStatus]:
        return agent.instance_statuses(app)

    @app.get("/v1/instances/{name}/surface")
    async def read_surface(name: str) -> Surface:
        return await agent.surface(name)

    @app.get("/v1/apps/{name}/logs")
    async def read_logs(
        name: str,
        service: Annotated[list[str] | None, Query()] = None,
        follow: bool = False,
        tail: int | None = None,
        since: str = "",
    ) -> StreamingResponse:
        return stream.documents(agent.logs(name, service or [], follow=follow, tail=tail, since=since))

    execute.add(app, agent)


def _add_observation(app: FastAPI, agent: Agent) -> None:
    @app.get("/v1/agent")
    async def read_agent() -> AgentStatus:
        return agent.status()

    @app.get("/v1/explain")
    async def explain(source: str, destination: str, port: int, protocol: str = "tcp") -> Explanation:
        return await agent.explain(source, destination, port, protocol)

    @app.get("/v1/policies")
    async def list_policies() -> list[PolicySpec]:
        return list(agent.policies.all)

    @app.put("/v1/policies")
    async def apply_policies(policies: list[PolicySpec]) -> dict[str, int]:
        await agent.apply_policies(policies)
        return {"applied": len(policies)}

    @app.delete("/v1/policies")
    async def remove_policy(name: str, app: str = "") -> dict[str, int]:
        await agent.remove_policy(app, name)
        return {"removed": 1}

    @app.get("/v1/images")
    async def list_images() -> list[StoredImage]:
        return await agent.stored_images()

    @app.get("/v1/features")
    async def list_features() -> list[Feature]:
        return await agent.features()
