"""A virtual machine that sleeps in a file while nobody asks for it."""

from __future__ import annotations

import secrets
import shutil
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.leftovers import leftovers_after
from support.warm import Warm, ask_by_datagram, ask_port, build_server
from support.whit import Whit, free_port

from whit.base.settings import Settings
from whit.cli.connection.client import Client
from whit.runtime.layout import Layout

pytestmark = [pytest.mark.root, pytest.mark.machine, pytest.mark.network, pytest.mark.timeout(3600)]

TELL = """
#include <stdio.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include <time.h>
int main(void)
{
	struct timespec now;
	unsigned long long drawn;
	struct utsname names;

	clock_gettime(CLOCK_REALTIME, &now);
	uname(&names);
	if (getrandom(&drawn, sizeof(drawn), 0) != sizeof(drawn))
		return 1;
	printf("%ld.%09ld %llx %s\\n", now.tv_sec, now.tv_nsec, drawn, names.nodename);
	return 0;
}
"""


BESIDE = 4
SERVICE = """
  {name}:
    build: {{parts: [./server]}}
    command: [/responder, 8080/tcp, 8053/udp]
    environment: {{NAME: here}}
    ports: ["{port}:8080", "{port}:8053/udp"]
    isolation: microvm
    mem_limit: 96m
    scale: {{min: 0, idle: snapshot, after: 200ms}}
"""


@contextmanager
def brought_up(where: Path, idle: str, environment: dict[str, str] | None = None) -> Iterator[Warm]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=where / "state")
    whit = Whit(settings, environment or {})
    (where / "app/server").mkdir(parents=True)
    argv = ["gcc", "-O2", "-static", "-s", "-x", "c", "-o", where / "app/server/tell", "-"]
    subprocess.run(argv, input=TELL.encode(), check=True, timeout=120)
    try:
        yield Warm(whit, where / "app", idle, after="1s", more="isolation: microvm")
    finally:
        whit("down", "warm", check=False)
        whit.clean()
    assert not (left := leftovers_after(settings)), left
    shutil.rmtree(settings.run_dir, ignore_errors=True)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with brought_up(tmp_path_factory.mktemp("snapshot"), "snapshot") as warm:
        yield warm


def told(warm: Warm) -> tuple[float, str, str]:
    """The time, a number that was drawn, and the host name, as they are inside."""
    now, drawn, name = warm.whit("exec", "warm/web", "/tell").stdout.split()
    return float(now), drawn, name


def told_now(warm: Warm) -> tuple[str, str]:
    """The same, where the time is that of the command, however long that takes."""
    began = time.time()
    now, drawn, name = told(warm)
    assert began - 1.5 < now < time.time() + 1.5
    return drawn, name


def files_of(warm: Warm) -> tuple[Path, Path, Path]:
    layout = Layout(warm.whit.settings, "warm-web-1")
    return layout.snapshot, layout.snapshot_facts, layout.root_disk


def test_no_wake_up_is_lost(
    warm: Warm, sample: Callable[[int, int], int], record_number: Callable[[str, object], None]
) -> None:
    took: list[float] = []
    for number in range(sample(2, 50)):
        warm.wait_until("snapshot", 120)
        assert warm.status().pid is None
        took.append(warm.ask_datagram(timeout=60) if number % 2 else warm.ask(timeout=60).seconds)
        assert warm.status().message == "", "it was restored, not started"
    assert max(took) < 30, took
    record_number("warm: first byte of a microvm in a file, p50 ms", round(statistics.median(took) * 1e3, 2))


@pytest.mark.full
@pytest.mark.timeout(5400)
def test_no_wake_up_of_a_thousand_is_lost(
    tmp_path: Path, sample: Callable[[int, int], int], record_number: Callable[[str, object], None]
) -> None:
    """Four machines beside each other; each that is asked sleeps in its file, and comes out of it."""
    rounds = sample(4, 1000) // BESIDE
    with four_up(tmp_path) as (whit, ports), ThreadPoolExecutor(BESIDE) as pool:
        asked = [pool.submit(wake_often, whit, f"warm-{name}-1", port, rounds) for name, port in ports.items()]
        took = [seconds for one in asked for seconds in one.result()]
    assert len(took) == rounds * BESIDE
    assert max(took) < 30, sorted(took)[-5:]
    record_number("warm: first byte of one of four microvms in files, p50 ms", round(statistics.median(took) * 1e3, 2))
    record_number("warm: the same, the longest, ms", round(max(took) * 1e3, 2))


@contextmanager
def four_up(where: Path) -> Iterator[tuple[Whit, dict[str, int]]]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=where / "state")
    whit, ports = Whit(settings), {f"web{number}": free_port() for number in range(BESIDE)}
    build_server(where / "app" / "server")
    services = "".join(SERVICE.format(name=name, port=port) for name, port in ports.items())
    (where / "app" / "whit.yaml").write_text(f"name: warm\nservices:{services}")
    try:
        whit("up", str(where / "app"), timeout=600)
        yield whit, ports
    finally:
        whit("down", "warm", check=False)
        whit.clean()
    assert not (left := leftovers_after(settings)), left
    shutil.rmtree(settings.run_dir, ignore_errors=True)


def wake_often(whit: Whit, name: str, port: int, rounds: int) -> list[float]:
    """Seconds of each, by a connection and by a datagram in turn."""
    client, took = Client(whit.settings), list[float]()
    for number in range(rounds):
        until = time.monotonic() + 180
        while (found := next(one for one in client.instances() if one.name == name)).state != "snapshot":
            assert time.monotonic() < until, found
            time.sleep(0.1)
        assert found.message == "", "the last time it was restored, not started"
        try:
            took.append(ask_by_datagram(port, 60) if number % 2 else ask_port(port, 60))
        except OSError as error:
            log = (whit.settings.logs_dir / "whitd.log").read_text()
            raise AssertionError(f"{name}, {number}: {error}; {found}; the agent said:\n{log[-5000:]}") from error
    return took


def test_its_file_is_for_nobody_else_and_what_runs_has_none(warm: Warm) -> None:
    warm.wait_until("snapshot", 120)
    snapshot, facts, _ = files_of(warm)
    assert snapshot.stat().st_mode & 0o777 == 0o600
    assert not warm.group.exists(), "its memory was given back"
    with socket.create_connection(("127.0.0.1", warm.port), timeout=60) as stream:
        assert stream.recv(100) == b"here"
        # While our end is open, it does not fall asleep again.
        assert not snapshot.exists()
        assert not facts.exists()


def test_time_and_entropy_are_those_of_now(warm: Warm, tmp_path: Path) -> None:
    """The same file twice: what is drawn is not the same."""
    warm.wait_until("snapshot", 120)
    files = files_of(warm)
    for file in files:
        subprocess.run(["cp", "--sparse=always", "-p", file, tmp_path / file.name], check=True, timeout=60)
    time.sleep(2)
    drawn, name = told_now(warm)
    warm.wait_until("snapshot", 120)
    for file in files:
        subprocess.run(["cp", "--sparse=always", "-p", tmp_path / file.name, file], check=True, timeout=60)
    other, same = told_now(warm)
    assert drawn != other
    assert (name, same) == ("web-1", "web-1")


@pytest.mark.parametrize(
    "damage",
    ["another byte", *(pytest.param(damage, marks=pytest.mark.full) for damage in ("cut short", "another machine"))],
)
def test_a_file_that_cannot_be_used_is_not(warm: Warm, damage: str) -> None:
    warm.wait_until("snapshot", 120)
    snapshot, facts, _ = files_of(warm)
    if damage == "another machine":
        facts.write_text(facts.read_text().replace("qemu ", "qemu 1"))
    else:
        content = bytearray(snapshot.read_bytes())
        content[len(content) // 2] ^= 1
        snapshot.write_bytes(content if damage == "another byte" else content[: len(content) // 2])
    # By a datagram: who connects may lose patience before a guest has booted.
    assert warm.ask_datagram(timeout=60) > 0, "it was started from the beginning"
    assert "started anew" in warm.status().message


def test_who_asks_while_no_agent_lives_is_answered_by_the_next_one(warm: Warm) -> None:
    warm.wait_until("snapshot", 120)
    warm.whit.kill_agent()
    warm.whit.start_agent()
    assert warm.status().state == "snapshot"
    assert warm.ask_datagram(timeout=60) > 0
    assert warm.status().message == ""


def test_down_takes_the_file_too(warm: Warm) -> None:
    warm.wait_until("snapshot", 120)
    snapshot, _, disk = files_of(warm)
    warm.whit("down", "warm")
    assert not snapshot.exists()
    assert not disk.exists()


def test_frozen_ones_that_hold_too_much_are_written_to_a_file(tmp_path: Path) -> None:
    with brought_up(tmp_path, "frozen", environment={"WHIT_WARM_MIB": "20"}) as warm:
        warm.wait_until("snapshot", 120)
        assert warm.ask(timeout=60).seconds > 0
        warm.wait_until("snapshot", 120)
