"""Which instance is started, restarted or removed next: state in, actions out."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.control.desired import Wanted
from whit.control.plan import Remove, Restart, Seen, Start, next_retry, plan, unmet
from whit.model.image import Image, ImageConfig
from whit.model.instance import InstanceSpec, InstanceStatus, NetworkSpec
from whit.model.service import DependencySpec

IMAGE = Image(name="i", digest="sha256:0", config=ImageConfig(), layers=(Path("/l"),), size=0)


def wanted(service: str, revision: str = "r1", index: int = 1, **depends: str) -> Wanted:
    spec = InstanceSpec(
        app="shop",
        service=service,
        index=index,
        image=IMAGE,
        args=("run",),
        env={},
        hostname=service,
        network=NetworkSpec(number=index, address="10.0.0.1", identity=1, service_address="10.1.0.1"),
        revision=revision,
    )
    conditions = {name: DependencySpec.model_validate({"condition": value}) for name, value in depends.items()}
    return Wanted(spec, conditions)


def seen(service: str, state: str = "running", revision: str = "r1", index: int = 1, **extra: object) -> Seen:
    document = {
        "name": f"shop-{service}-{index}",
        "app": "shop",
        "service": service,
        "state": state,
        "revision": revision,
    }
    busy, retry_at = bool(extra.pop("busy", False)), extra.pop("retry_at", None)
    depends = {name: DependencySpec() for name in extra.pop("needs", ())}  # type: ignore[attr-defined]
    status = InstanceStatus.model_validate(document | extra)
    return Seen(status, depends, busy, float(retry_at) if retry_at is not None else None)  # type: ignore[arg-type]


def by_name(*instances: Wanted) -> dict[str, Wanted]:
    return {one.spec.name: one for one in instances}


def at(*instances: Seen) -> dict[str, Seen]:
    return {one.status.name: one for one in instances}


def test_everything_without_dependencies_starts_at_once() -> None:
    assert plan(by_name(wanted("a"), wanted("b")), {}, 0) == [Start("shop-a-1"), Start("shop-b-1")]


@pytest.mark.parametrize(
    ("condition", "state", "health", "code", "holds"),
    [
        ("service_started", "running", "starting", None, True),
        ("service_started", "pending", "none", None, False),
        ("service_healthy", "running", "starting", None, False),
        ("service_healthy", "running", "healthy", None, True),
        ("service_healthy", "running", "none", None, True),
        ("service_healthy", "running", "unhealthy", None, False),
        ("service_completed_successfully", "running", "none", None, False),
        ("service_completed_successfully", "exited", "none", 0, True),
        ("service_completed_successfully", "exited", "none", 1, False),
    ],
)
def test_a_dependency_holds_its_dependent_back(
    condition: str, state: str, health: str, code: int | None, holds: bool
) -> None:
    want = by_name(wanted("db"), wanted("api", db=condition))
    there = at(seen("db", state, health=health, exit_code=code))
    assert (Start("shop-api-1") in plan(want, there, 0)) is holds
    assert bool(unmet(want["shop-api-1"], there, want)) is not holds


def test_every_replica_of_a_dependency_counts() -> None:
    want = by_name(wanted("db"), wanted("db", index=2), wanted("api", db="service_started"))
    assert plan(want, at(seen("db")), 0) == [Start("shop-db-2")]


def test_an_old_revision_of_a_dependency_does_not_count() -> None:
    want = by_name(wanted("db", "r2"), wanted("api", db="service_started"))
    assert plan(want, at(seen("db", revision="r1")), 0) == [Remove("shop-db-1", "changed")]


def test_what_is_not_wanted_is_removed_dependents_first() -> None:
    there = at(seen("db"), seen("api", needs=("db",)))
    assert plan({}, there, 0) == [Remove("shop-api-1", "not wanted")]
    assert plan({}, at(seen("db")), 0) == [Remove("shop-db-1", "not wanted")]


def test_busy_instances_are_left_alone() -> None:
    assert plan({}, at(seen("db", busy=True)), 0) == []
    assert plan(by_name(wanted("db", "r2")), at(seen("db", busy=True)), 0) == []


def test_a_retry_waits_for_its_time() -> None:
    want, there = by_name(wanted("a")), at(seen("a", "exited", retry_at=10.0))
    assert plan(want, there, 9.9) == []
    assert next_retry(there) == 10.0
    assert plan(want, there, 10.0) == [Restart("shop-a-1")]


def test_nothing_is_done_when_all_is_as_wanted() -> None:
    assert plan(by_name(wanted("a"), wanted("b", a="service_started")), at(seen("a"), seen("b")), 0) == []
