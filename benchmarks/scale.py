"""Measures what thousands of services cost the agent: loading them into the maps, and the change of one.

`PYTHONPATH=src:tests python benchmarks/scale.py [--services 10000] [--backends 5] [--changes 100] [--quick]` as root
prints a table and adds the run to results/scale.json. The services are those of a hundred apps with backends that are
no instances; a change gives one of them another backend, from the app's new spec to the last write of a map.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from measure import machine

from whit.base.settings import Settings
from whit.cluster.documents import Documents
from whit.cluster.sqlite import SqliteStore
from whit.control import cleanup
from whit.control.network import NodeNetwork
from whit.model.app import AppSpec
from whit.model.release import Release

RESULTS = Path(__file__).resolve().parent.parent / "results" / "scale.json"
APPS = 100
FIRST = IPv4Address("100.64.0.1")
"""Of the backends: shared address space (RFC 6598), to which nothing is ever sent here."""


def app(number: int, services: int, backends: int, shift: int = 0) -> AppSpec:
    """`shift` moves the last backend of the first service."""
    made = {}
    for service in range(services):
        first = FIRST + (number * services + service) * backends
        moved = shift if service == 0 else 0
        addresses = [*range(int(first), int(first) + backends - 1), int(first) + backends - 1 + (moved << 20)]
        made[f"s{service}"] = {"endpoints": [{"address": str(IPv4Address(one)), "port": 8080} for one in addresses]}
    return AppSpec.model_validate({"name": f"app{number}", "directory": "/", "services": made})


class Lag:
    """How long the event loop was kept from going on: the longest of many waits of a millisecond."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.perf_counter() - began - 0.001)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        self.longest = 0.0
        task = asyncio.create_task(self.watch())
        await asyncio.sleep(0.01)
        yield
        await asyncio.sleep(0.002)
        task.cancel()


def memory_mib() -> float:
    """Resident, of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def timed(into: list[float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    into.append((time.perf_counter() - began) * 1e3)


async def measure(settings: Settings, services: int, backends: int, changes: int) -> dict[str, float]:
    settings.database.parent.mkdir(parents=True)
    store = await SqliteStore.open(settings.database)
    network = await NodeNetwork.open(settings, Documents(store))
    found = {"RSS before, MiB": memory_mib()}
    releases = [Release(spec=app(number, services // APPS, backends), images={}) for number in range(APPS)]
    found["RSS with the model, MiB"] = memory_mib()
    lag, loading, busy = Lag(), list[float](), time.process_time()
    async with lag.watching():
        with timed(loading):
            await network.assign(releases, {})
        with timed(loading):
            await network.write(releases, ())
    busy = (time.process_time() - busy) * 1e3
    found |= {"assign, ms": loading[0], "load, ms": loading[1], "both, ms of CPU": busy}
    found |= {"loop lag while loading, ms": lag.longest * 1e3}
    found |= {"slots": network.datapath.slots.count(), "RSS loaded, MiB": memory_mib()}
    found |= await measure_changes(network, releases, services // APPS, backends, changes)
    again = list[float]()
    with timed(again):
        await network.write(releases, ())
    found |= {"write without a change, ms": again[0], "RSS at the end, MiB": memory_mib()}
    network.datapath.close()
    await store.close()
    return found


async def measure_changes(
    network: NodeNetwork, releases: list[Release], services: int, backends: int, changes: int
) -> dict[str, float]:
    taken, lags, lag = list[float](), list[float](), Lag()
    for change in range(changes):
        number = random.randrange(APPS)
        releases[number] = Release(spec=app(number, services, backends, shift=change % 100 + 1), images={})
        async with lag.watching():
            with timed(taken):
                await network.assign(releases, {})
                await network.write(releases, ())
        lags.append(lag.longest * 1e3)
    return {
        "change p50, ms": statistics.median(taken),
        "change p99, ms": percentile(taken, 0.99),
        "loop lag p99, ms": percentile(lags, 0.99),
    }


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--services", type=int, default=10_000)
    parser.add_argument("--backends", type=int, default=5)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    chosen = parser.parse_args()
    part = 10 if chosen.quick else 1
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=Path(directory) / "state")
        try:
            done = asyncio.run(
                measure(settings, chosen.services // part, chosen.backends, max(chosen.changes // part, 3))
            )
        finally:
            asyncio.run(cleanup.clean(settings))
    for name, value in done.items():
        print(f"{name:28} {value:10.1f}")
    write({"services": chosen.services // part, "backends": chosen.backends, "changes": chosen.changes // part}, done)


def write(what: dict[str, int], done: dict[str, float]) -> None:
    """Add a run to the results, which so keep what was before."""
    before = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    RESULTS.parent.mkdir(exist_ok=True)
    run = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), **what, "found": done}
    RESULTS.write_text(json.dumps([*before, run], indent=1) + "\n")


if __name__ == "__main__":
    main()
