"""What every test may use: an agent id of its own, a sample size, and the proof that nothing was left behind."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from support.leftovers import leftovers_after
from support.slowness import patient

from whit.base.settings import Settings

FULL = bool(os.environ.get("WHIT_TEST_FULL"))
RESULTS = Path(__file__).resolve().parent.parent / "results"
# How long an example takes says something about the machine. Without --full they are the same in each run.
hypothesis_settings.register_profile(
    "whit", deadline=None, derandomize=not FULL, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("whit")
_samples = pytest.StashKey[dict[str, tuple[int, int]]]()
_numbers = pytest.StashKey[dict[str, object]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_samples] = {}
    config.stash[_numbers] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        _allow_time(item)
        if not FULL and item.get_closest_marker("full"):
            item.add_marker(pytest.mark.skip(reason="only with --full"))
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root") or item.get_closest_marker("machine"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


def _allow_time(item: pytest.Item) -> None:
    """A limit of time is for a machine of the usual speed that does nothing else; it is there to end what hangs."""
    limit = item.get_closest_marker("timeout")
    if limit is not None:
        item.add_marker(pytest.mark.timeout(patient(3 * limit.args[0])), append=False)


@pytest.fixture
def sample(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """`sample(quick, full)`: how often to repeat. The summary names every test that did less than the full count."""

    def choose(quick: int, full: int) -> int:
        taken = full if FULL else quick
        request.config.stash[_samples][request.node.nodeid] = (taken, full)
        return taken

    return choose


@pytest.fixture
def record_number(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Keep a measured number: printed in the summary, and written to results/ by a full run."""

    def record(name: str, value: object) -> None:
        request.config.stash[_numbers][name] = value

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    samples, numbers = config.stash[_samples], config.stash[_numbers]
    if samples:
        terminalreporter.section("sample sizes (n of the full count)")
        for test, (taken, full) in sorted(samples.items()):
            terminalreporter.write_line(f"{taken:>7} of {full:<7} {test}")
    if numbers:
        terminalreporter.section("numbers")
        for name, value in sorted(numbers.items()):
            terminalreporter.write_line(f"{name}: {value}")
    if FULL:
        _write_results(samples, numbers)


def _write_results(samples: dict[str, tuple[int, int]], numbers: dict[str, object]) -> None:
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "kernel": os.uname().release,
        "machine": os.uname().machine,
        "cpus": os.cpu_count(),
        "memory_kib": int(Path("/proc/meminfo").read_text().split()[1]),
    }
    now = datetime.now(UTC)
    document = {"time": now.isoformat(), "machine": machine, "samples": samples, "numbers": numbers}
    (RESULTS / f"test-{now:%Y%m%dT%H%M%SZ}.json").write_text(json.dumps(document, indent=2) + "\n")


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """An agent id of this test alone, with its state below tmp_path. At the end nothing of it may be left."""
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path / "state")
    yield settings
    left = leftovers_after(settings)
    assert not left, f"left behind by {settings.id}: {left}"
    shutil.rmtree(settings.run_dir, ignore_errors=True)
