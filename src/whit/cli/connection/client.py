"""The calls of the REST interface with their types, as src/whit/api/README.md lists them.

The nouns are imported where they are needed: pydantic costs 50 ms, which `whit --help` need not pay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from whit.base.errors import Unreachable
from whit.base.settings import Settings
from whit.cli.connection import transport
from whit.cli.connection.transport import Query, target_of

if TYPE_CHECKING:
    from pydantic import BaseModel

    from whit.model.alarm import Alarm
    from whit.model.app import AppSpec
    from whit.model.edge import Edge
    from whit.model.finding import Candidate, Finding
    from whit.model.flow import Explanation, Flow, Trace
    from whit.model.image import StoredImage
    from whit.model.instance import InstanceStatus
    from whit.model.learned import Learned
    from whit.model.policy import PolicySpec
    from whit.model.replay import Replay
    from whit.model.status import AgentStatus, AppStatus, LogLine, StreamItem
    from whit.model.surface import Surface


class Client:
    """Speaks with the agent of `settings`. Every call raises the WhitError that the agent answered with."""

    def __init__(self, settings: Settings) -> None:
        self.socket = settings.socket

    def agent(self) -> AgentStatus:
        from whit.model.status import AgentStatus

        return AgentStatus.model_validate(self._get("agent"))

    def apps(self) -> list[AppStatus]:
        from whit.model.status import AppStatus

        return [AppStatus.model_validate(document) for document in self._get("apps")]

    def up(
        self, spec: AppSpec, *, dry_run: bool = False, build: bool = False, timeout: float = 300.0, wait: bool = True
    ) -> Iterator[StreamItem]:
        """Make what runs agree with `spec`. `timeout` is in seconds; without `wait` nobody waits for health."""
        query: Query = {"dry_run": dry_run, "build": build, "timeout": timeout, "wait": "true" if wait else "false"}
        return self._work("PUT", target_of("apps", spec.name, query=query), spec)

    def down(self, app: str, *, volumes: bool = False, timeout: float = 60.0) -> Iterator[StreamItem]:
        return self._work("DELETE", target_of("apps", app, query={"volumes": volumes, "timeout": timeout}))

    def restart(self, app: str, services: Sequence[str], *, timeout: float = 120.0) -> Iterator[StreamItem]:
        query: Query = {"service": services, "timeout": timeout}
        return self._work("POST", target_of("apps", app, "restart", query=query))

    def start(self, app: str, services: Sequence[str]) -> dict[str, Any]:
        """Wake what sleeps. Returns when it listens."""
        target = target_of("apps", app, "start", query={"service": services})
        return dict(transport.call(self.socket, "POST", target))

    def stop(self, app: str, services: Sequence[str]) -> dict[str, Any]:
        """Put to sleep what has `scale`."""
        target = target_of("apps", app, "stop", query={"service": services})
        return dict(transport.call(self.socket, "POST", target))

    def instances(self, app: str = "") -> list[InstanceStatus]:
        from whit.model.instance import InstanceStatus

        return [InstanceStatus.model_validate(document) for document in self._get("instances", {"app": app})]

    def surface(self, instance: str) -> Surface:
        from whit.model.surface import Surface

        return Surface.model_validate(transport.call(self.socket, "GET", target_of("instances", instance, "surface")))

    def logs(
        self, app: str, services: Sequence[str], *, follow: bool = False, tail: int | None = None, since: str = ""
    ) -> Iterator[LogLine]:
        from whit.model.status import LogLine

        query: Query = {"service": services, "follow": follow, "tail": tail, "since": since}
        for document in transport.stream(self.socket, "GET", target_of("apps", app, "logs", query=query)):
            yield LogLine.model_validate(document)

    def flows(self, query: Query) -> Iterator[Flow]:
        from whit.model.flow import Flow

        for document in transport.stream(self.socket, "GET", target_of("flows", query=query)):
            yield Flow.model_validate(document)

    def edges(self, app: str = "", *, recent: bool = False) -> list[Edge]:
        from whit.model.edge import Edge

        return [Edge.model_validate(document) for document in self._get("edges", {"app": app, "recent": recent})]

    def alarms(self) -> list[Alarm]:
        from whit.model.alarm import Alarm

        return [Alarm.model_validate(document) for document in self._get("alarms")]

    def metrics(self) -> str:
        """In the text format of Prometheus."""
        return transport.text(self.socket, "/metrics")

    def trace(self, source: str, destination: str, port: int, *, protocol: str, family: int) -> Trace:
        from whit.model.flow import Trace

        query: Query = {
            "source": source,
            "destination": destination,
            "port": port,
            "protocol": protocol,
            "family": family,
        }
        return Trace.model_validate(transport.call(self.socket, "POST", target_of("trace", query=query)))

    def explain(self, source: str, destination: str, port: int, protocol: str) -> Explanation:
        from whit.model.flow import Explanation

        query: Query = {"source": source, "destination": destination, "port": port, "protocol": protocol}
        return Explanation.model_validate(self._get("explain", query))

    def images(self) -> list[StoredImage]:
        from whit.model.image import StoredImage

        return [StoredImage.model_validate(document) for document in self._get("images")]

    def policies(self) -> list[PolicySpec]:
        from whit.model.policy import PolicySpec

        return [PolicySpec.model_validate(document) for document in self._get("policies")]

    def apply_policies(self, policies: Sequence[PolicySpec]) -> None:
        """They hold when this returns."""
        body = json.dumps([policy.model_dump(mode="json") for policy in policies]).encode()
        transport.call(self.socket, "PUT", target_of("policies"), body)

    def check_policies(self, candidate: Candidate) -> list[Finding]:
        """What is doubtful about it beside what runs now. Nothing is applied."""
        from whit.model.finding import Finding

        return [Finding.model_validate(document) for document in self._post("policies/check", candidate)]

    def replay_policies(self, candidate: Candidate, since: str = "") -> Replay:
        """What it would have done to recorded flows. Nothing is applied."""
        from whit.model.replay import Replay

        return Replay.model_validate(self._post("policies/replay", candidate, {"since": since}))

    def learned(self, app: str, since: str = "") -> Learned:
        from whit.model.learned import Learned

        target = target_of("apps", app, "learned", query={"since": since})
        return Learned.model_validate(transport.call(self.socket, "GET", target))

    def remove_policy(self, app: str, name: str) -> None:
        """`app` is empty for one of the whole cluster."""
        transport.call(self.socket, "DELETE", target_of("policies", query={"app": app, "name": name}))

    def _get(self, segment: str, query: Query | None = None) -> Any:
        return transport.call(self.socket, "GET", target_of(segment, query=query))

    def _post(self, path: str, body: BaseModel, query: Query | None = None) -> Any:
        target = target_of(*path.split("/"), query=query)
        return transport.call(self.socket, "POST", target, body.model_dump_json().encode())

    def _work(self, method: str, target: str, spec: AppSpec | None = None) -> Iterator[StreamItem]:
        """Progress as it comes; the last item is the result.

        Raises:
            Unreachable: the stream ended before the result, so the agent was killed or stopped.
        """
        from whit.model.status import StreamItem

        body = spec.model_dump_json().encode() if spec is not None else None
        for document in transport.stream(self.socket, method, target, body):
            item = StreamItem.model_validate(document)
            yield item
            if item.result is not None:
                return
        raise Unreachable("the agent went away before it was done", hint="run the command again: it goes on from there")
