"""A service whose instance has no process while nobody asks for it: what comes for it is held until it listens."""

from __future__ import annotations

import secrets
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.leftovers import leftovers_after
from support.warm import Asked, Warm
from support.whit import Whit

from whit.base.settings import Settings
from whit.datapath.datapath import Datapath
from whit.kernel import cgroup
from whit.mesh.warm import Watch, watch
from whit.model.instance import InstanceSpec

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.timeout(1800)]


def brought_up(where: Path, idle: str, environment: dict[str, str] | None = None, **more: object) -> Iterator[Warm]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=where / "state")
    whit = Whit(settings, environment or {})
    try:
        yield Warm(whit, where / "app", idle, **more)  # type: ignore[arg-type]
    finally:
        whit("down", "warm", check=False)
        whit.clean()
    assert not (left := leftovers_after(settings)), left
    shutil.rmtree(settings.run_dir, ignore_errors=True)


@pytest.fixture(scope="module", params=["created", "stopped"])
def warm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    yield from brought_up(tmp_path_factory.mktemp(request.param), request.param)


def test_no_wake_up_is_lost_and_none_refused(
    warm: Warm, sample: Callable[[int, int], int], record_number: Callable[[str, object], None]
) -> None:
    took: dict[str, list[float]] = {"connection": [], "datagram": []}
    sent_again = 0
    for number in range(sample(8, 1000)):
        warm.wait_until_asleep()
        if number % 2:
            took["datagram"].append(warm.ask_datagram())
        else:
            asked = warm.ask()
            took["connection"].append(asked.seconds)
            sent_again += asked.sent_again
    # A datagram is sent once: its answer tells that it was not lost.
    assert sent_again == 0, sorted(took["connection"])[-5:]
    for name, seconds in took.items():
        middle = round(statistics.median(seconds) * 1e3, 2)
        record_number(f"warm: first byte of a container that is {warm.idle}, {name}, p50 ms", middle)


def test_many_first_connections(warm: Warm) -> None:
    warm.wait_until_asleep()
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            assert warm.ask().at_once
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_connection_from_an_instance(warm: Warm) -> None:
    warm.wait_until_asleep()
    found = warm.whit.json("trace", "client", "web", "8080")
    assert found["outcome"] == "answered", found
    assert any("HELD" in hop["decision"] for hop in found["hops"])


def test_a_command_in_it_wakes_it(warm: Warm) -> None:
    warm.wait_until_asleep()
    assert warm.whit("exec", "warm/web", "/late", "0", check=False).returncode == 0


def test_who_asks_while_no_agent_lives_is_answered_by_the_next_one(warm: Warm) -> None:
    warm.wait_until_asleep()
    warm.whit.kill_agent()
    answers: list[Asked] = []
    asking = threading.Thread(target=lambda: answers.append(warm.ask(timeout=60)))
    asking.start()
    time.sleep(0.3)
    warm.whit.start_agent()
    asking.join(60)
    assert len(answers) == 1


def test_what_an_agent_died_over_is_gone_on_with(warm: Warm) -> None:
    """It runs, and what comes for it is held: it was just falling asleep, or was got up and did not listen yet."""
    settings = warm.whit.settings
    warm.ask()
    warm.whit.kill_agent()
    spec = InstanceSpec.model_validate_json((settings.instances_dir / "warm-web-1" / "instance.json").read_bytes())
    with Datapath.open(settings) as datapath:
        assert watch(datapath, spec, Watch.HOLD) is not None
    if warm.idle == "stopped":
        (settings.instances_dir / "warm-web-1" / "asleep").write_text("stopped")
    warm.whit.start_agent()
    assert warm.ask().at_once


def test_start_and_stop(warm: Warm) -> None:
    warm.whit("stop", "warm/web")
    assert warm.status().state == warm.idle
    assert warm.whit("stop", "warm/client", check=False).returncode == 4
    warm.whit("start", "warm/web")
    assert warm.ask().at_once


def test_of_what_was_made_ready_a_part_is_gone(warm: Warm) -> None:
    """Of one that is `created`, its process holds the group, and the bundle has been read."""
    warm.wait_until_asleep()
    (warm.whit.settings.instances_dir / "warm-web-1" / "config.json").unlink()
    if warm.idle == "stopped":
        warm.group.rmdir()
        namespace = warm.whit.settings.netns_dir / "warm-web-1"
        subprocess.run(["nsenter", f"--net={namespace}", "ip", "route", "del", "default"], check=True, timeout=10)
    assert warm.ask().at_once
    groups = cgroup.find().directories(f"{warm.whit.settings.cgroup}/warm-web-1")
    limits = [path.read_text().strip() for one in groups if (path := one / "pids.max").exists()]
    assert limits
    assert "max" not in limits


def test_restart_and_down_of_one_that_sleeps(warm: Warm) -> None:
    warm.wait_until_asleep()
    before = warm.status().revision
    warm.whit("restart", "warm/web")
    assert warm.status().revision != before
    warm.ask()
    warm.wait_until_asleep()
    warm.whit("down", "warm")
    assert not warm.group.exists()


def test_frozen_ones_that_hold_too_much_are_ended(tmp_path: Path) -> None:
    for warm in brought_up(tmp_path, "frozen", environment={"WHIT_WARM_MIB": "2"}, late=1):
        warm.wait_until("stopped")
        assert warm.ask().at_once
        warm.wait_until("stopped")


@pytest.mark.full
def test_who_is_kept_waiting_on_the_node_does_not_give_up(tmp_path: Path) -> None:
    """A drop that the kernel of the sender hears of ends a connection after 6 s."""
    for warm in brought_up(tmp_path, "stopped", late=9000):
        warm.wait_until("stopped", 60)
        assert 9 <= warm.ask(timeout=40).seconds < 25
