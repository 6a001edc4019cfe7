"""A service that is frozen while nobody asks for it: the first packet of whatever kind wakes it, and none is lost."""

from __future__ import annotations

import secrets
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from support.leftovers import leftovers_after
from support.warm import Asked, Warm
from support.whit import Whit

from whit.base.settings import Settings

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    where = tmp_path_factory.mktemp("warm")
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=where / "state")
    whit = Whit(settings)
    try:
        yield Warm(
            whit,
            where / "app",
            "frozen",
            more='healthcheck: {test: [CMD, /late, "0"], interval: 1s, start_interval: 100ms, start_period: 5s}',
        )
    finally:
        whit("down", "warm", check=False)
        whit.clean()
    assert not (left := leftovers_after(settings)), left
    shutil.rmtree(settings.run_dir, ignore_errors=True)


def test_no_wake_up_is_lost(
    warm: Warm, sample: Callable[[int, int], int], record_number: Callable[[str, object], None]
) -> None:
    took: dict[str, list[float]] = {"connection": [], "datagram": []}
    sent_again = 0
    for number in range(sample(50, 1000)):
        warm.wait_until_frozen()
        if number % 2:
            took["datagram"].append(warm.ask_datagram())
        else:
            asked = warm.ask()
            took["connection"].append(asked.seconds)
            sent_again += asked.sent_again
    # A datagram is sent once: its answer tells that it was not lost.
    assert sent_again == 0, sorted(took["connection"])[-5:]
    for name, seconds in took.items():
        record_number(
            f"warm: first byte of a frozen container, {name}, p50 ms", round(statistics.median(seconds) * 1e3, 2)
        )


def test_a_connection_from_an_instance(warm: Warm) -> None:
    for name in ("web", "warm-web-1"):
        warm.wait_until_frozen()
        found = warm.whit.json("trace", "client", name, "8080")
        assert found["outcome"] == "answered", found
    assert warm.status().state in ("running", "frozen")


def test_many_first_connections(warm: Warm) -> None:
    warm.wait_until_frozen()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            warm.ask()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_its_health_is_kept_and_shown(warm: Warm) -> None:
    warm.wait_until("frozen")
    assert warm.status().health == "healthy"
    # No check has woken it, or failed.
    time.sleep(1.5)
    assert (warm.status().state, warm.status().health) == ("frozen", "healthy")


def test_a_command_in_it_wakes_it_and_keeps_it_awake(warm: Warm) -> None:
    warm.wait_until_frozen()
    assert warm.whit("exec", "warm/web", "/late", "0", check=False).returncode == 0
    warm.wait_until_frozen()


def test_an_open_connection_keeps_it_awake(warm: Warm) -> None:
    warm.ask()
    with socket.create_connection(("127.0.0.1", warm.port), timeout=30) as stream:
        stream.recv(100)
        # It has closed its end; while ours is open, so is the connection.
        time.sleep(1)
        assert not warm.is_frozen()
    warm.wait_until_frozen()


def test_who_asks_while_no_agent_lives_is_answered_by_the_next_one(warm: Warm) -> None:
    warm.wait_until_frozen()
    warm.whit.kill_agent()
    answers: list[Asked] = []
    asking = threading.Thread(target=lambda: answers.append(warm.ask(timeout=60)))
    asking.start()
    time.sleep(0.5)
    assert warm.is_frozen()
    warm.whit.start_agent()
    asking.join(60)
    assert len(answers) == 1
    warm.wait_until_frozen()
    pid = warm.status().pid
    # And one that nobody asked for goes on sleeping.
    warm.whit.kill_agent()
    warm.whit.start_agent()
    assert warm.is_frozen()
    assert warm.status().pid == pid
    warm.ask()


def test_start_and_stop(warm: Warm) -> None:
    warm.whit("stop", "warm/web")
    assert warm.status().state == warm.idle
    assert warm.whit("stop", "warm/client", check=False).returncode == 4
    warm.whit("start", "warm/web")
    assert warm.ask().at_once


def test_restart_and_down_of_one_that_sleeps(warm: Warm) -> None:
    warm.wait_until_frozen()
    before = warm.status().pid
    warm.whit("restart", "warm/web")
    assert warm.status().pid != before
    warm.ask()
    warm.wait_until_frozen()
    warm.whit("down", "warm")
    assert not warm.group.exists()
