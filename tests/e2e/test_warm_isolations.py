"""Sandboxes and virtual machines that wait, at each level, while nobody asks for them."""

from __future__ import annotations

import secrets
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.leftovers import leftovers_after
from support.slowness import patient
from support.warm import Warm, ask_port
from support.whit import Whit

from whit.base.settings import Settings

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.network, pytest.mark.timeout(3600)]
HEALTH = 'healthcheck: {test: [CMD, /late, "0"], interval: 30s, start_interval: 200ms, start_period: 60s}'


SLOWEST = {"frozen": 5.0, "created": 15.0, "stopped": 30.0}
"""Seconds."""


@pytest.fixture(
    scope="module",
    params=[
        *(("sandbox", "frozen"), ("sandbox", "created"), ("microvm", "frozen"), ("microvm", "created")),
        *(pytest.param((isolation, "stopped"), marks=pytest.mark.full) for isolation in ("sandbox", "microvm")),
    ],
    ids="-".join,
)
def warm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    isolation, idle = request.param
    more, after = f"isolation: {isolation}\n    {HEALTH}", "200ms" if isolation == "sandbox" else "1s"
    with warm_app(tmp_path_factory.mktemp(isolation), more, after, idle=idle) as warm:
        yield warm


@contextmanager
def warm_app(
    where: Path,
    more: str,
    after: str = "1s",
    late: int = 0,
    idle: str = "frozen",
    environment: dict[str, str] | None = None,
) -> Iterator[Warm]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=where / "state")
    whit = Whit(settings, environment or {})
    try:
        yield Warm(whit, where / "app", idle, after, more, late)
    finally:
        whit("down", "warm", check=False)
        whit.clean()
    assert not (left := leftovers_after(settings)), left
    shutil.rmtree(settings.run_dir, ignore_errors=True)


def test_no_wake_up_is_lost(
    warm: Warm, sample: Callable[[int, int], int], record_number: Callable[[str, object], None]
) -> None:
    took: list[float] = []
    # A virtual machine that is translated takes seconds to fall asleep.
    for number in range(sample(2, 1000 if isolation_of(warm) == "sandbox" else 200)):
        warm.wait_until_asleep(patience=60)
        took.append(warm.ask_datagram(timeout=60) if number % 2 else woken(warm))
    assert max(took) < SLOWEST[warm.idle], took
    name = f"warm: first byte of a {isolation_of(warm)} that is {warm.idle}, p50 ms"
    record_number(name, round(statistics.median(took) * 1e3, 2))


def stands_still(warm: Warm) -> bool:
    return warm.group.exists() and warm.is_frozen()


def woken(warm: Warm) -> float:
    asked = warm.ask(timeout=60)
    assert asked.at_once or warm.idle != "frozen", f"a packet was lost: {asked}"
    return asked.seconds


def isolation_of(warm: Warm) -> str:
    return warm.status().isolation


def test_a_new_agent_and_the_end_of_one_that_stands_still(warm: Warm) -> None:
    warm.wait_until_asleep(patience=60)
    pid = warm.status().pid
    warm.whit.kill_agent()
    warm.whit.start_agent()
    # One agent wakes frozen sandboxes to learn how they are; they fall asleep again.
    warm.wait_until_asleep(patience=60)
    assert warm.status().pid == pid
    if isolation_of(warm) == "sandbox":
        assert stands_still(warm) is (warm.idle != "stopped")
    warm.ask(timeout=60)
    warm.wait_until_asleep(patience=60)
    began = time.monotonic()
    warm.whit("down", "warm")
    assert time.monotonic() - began < 30
    assert not warm.group.exists()


@pytest.mark.parametrize("isolation", ["sandbox", pytest.param("microvm", marks=pytest.mark.full)])
def test_without_health_check_it_sleeps_once_it_listens(isolation: str, tmp_path: Path) -> None:
    """Who woke it before that would be refused."""
    with warm_app(tmp_path, f"isolation: {isolation}", after="200ms", late=2500) as warm:
        until = time.monotonic() + 120
        while not answers(warm.port):
            assert not warm.is_frozen() or answers(warm.port), "before it listened"
            assert time.monotonic() < until
            time.sleep(0.1)
        warm.wait_until_frozen()
        assert warm.ask().seconds < 10
        warm.wait_until_frozen()
        warm.whit.kill_agent()
        warm.whit.start_agent()
        warm.wait_until_frozen()
        assert warm.ask().seconds < 10
        warm.whit("restart", "warm", "web")
        time.sleep(1)
        assert not warm.is_frozen() or answers(warm.port), "before it listened again"


@pytest.mark.full
@pytest.mark.parametrize("isolation", ["sandbox", "microvm"])
def test_prepared_ones_that_hold_too_much_are_ended(isolation: str, tmp_path: Path) -> None:
    more = f"isolation: {isolation}\n    {HEALTH}"
    with warm_app(tmp_path, more, "1s", idle="created", environment={"WHIT_WARM_MIB": "2"}) as warm:
        for times in (1, 2):
            until = time.monotonic() + patient(90)
            while said(warm).count("instances that sleep hold more than 2 MiB") < times or warm.group.exists():
                assert time.monotonic() < until, (warm.status(), said(warm)[-2000:])
                time.sleep(0.1)
            assert warm.status().state == "stopped"
            assert warm.ask_datagram(timeout=60) < 30


def said(warm: Warm) -> str:
    return (warm.whit.settings.logs_dir / "whitd.log").read_text()


def answers(port: int) -> bool:
    try:
        return ask_port(port, timeout=20) > 0
    except (OSError, AssertionError):
        return False
