"""The log keeps the last flows in memory and the others on disk, filters, and lets followers read on."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from whit.datapath import abi
from whit.datapath.address import Address
from whit.mesh.flows.log import FlowLog
from whit.mesh.flows.naming import Dictionary
from whit.mesh.flows.store import FlowStore
from whit.mesh.policy.identities import IdentityBook

WEB, API = 0x1000001, 0x1000002
WORDS = Dictionary(
    IdentityBook(names={WEB: "shop/web", API: "shop/api"}),
    {7: "shop/web uses api:80/tcp", 8: "shop/api is declared: only those that use it reach it", 9: "x: undeclared"},
    {16: "shop-web-1"},
)
EVENT = abi.FlowEvent(
    time_ns=1_500_000_000,
    kind=abi.EventKind.FLOW,
    source=Address.from_ip("10.77.0.16"),
    destination=Address.from_ip("10.77.0.17"),
    service=Address.from_ip("10.77.128.1"),
    source_port=40000,
    destination_port=80,
    service_port=8080,
    protocol=6,
    verdict=abi.Verdict.ALLOW,
    source_identity=WEB,
    destination_identity=API,
    egress_rule=7,
    ingress_rule=8,
    ifindex=1,
    length=60,
    reason=0,
    hook=abi.Hook.FROM_INSTANCE,
    flags=0,
    icmp_type=0,
    icmp_code=0,
)


def test_the_log_keeps_the_last_and_finds_the_wanted() -> None:
    log = filled(10, capacity=4)
    assert len(log) == 4
    assert [one.destination.port for one in log.past(lambda _: True)] == [6, 7, 8, 9]
    assert [one.destination.port for one in log.past(lambda one: one.destination.port % 2 == 0)] == [6, 8]
    assert [one.destination.port for one in log.past(lambda _: True, limit=2)] == [8, 9]


def filled(count: int, capacity: int) -> FlowLog:
    log = FlowLog(capacity)
    log.words = WORDS
    log.add([record(port) for port in range(count)])
    return log


def record(port: int) -> bytes:
    return replace(EVENT, destination_port=port).pack()


async def test_followers_see_what_comes_and_let_go_when_closed() -> None:
    log = filled(3, capacity=100)
    async with contextlib.aclosing(log.follow(lambda one: one.destination.port > 10)) as flows:
        waiting = asyncio.create_task(anext(flows))
        await asyncio.sleep(0)
        log.add([record(5), record(11), record(12)])
        async with asyncio.timeout(20):
            assert (await waiting).destination.port == 11
            assert (await anext(flows)).destination.port == 12
    assert not log._followers


async def test_a_slow_follower_misses_some_and_never_holds_up_the_log() -> None:
    log = filled(0, capacity=100_000)
    flows = log.follow(lambda _: True)
    first = asyncio.create_task(anext(flows))
    await asyncio.sleep(0)
    log.add([record(port % 65536) for port in range(50_000)])
    assert (await first).destination.port == 0
    assert len(log) == 50_000
    await flows.aclose()


def kept(directory: Path, limit: int = 1 << 20) -> FlowLog:
    log = FlowLog(4, FlowStore(directory, limit))
    log.words = WORDS
    return log


def ports(log: FlowLog, **how: int) -> list[int]:
    return [one.destination.port for one in log.past(lambda _: True, **how)]


def test_what_no_longer_is_in_memory_is_read_from_disk(tmp_path: Path) -> None:
    log = kept(tmp_path)
    for start in range(0, 20, 5):
        log.add([record(port) for port in range(start, start + 5)])
        log.keep()
    log.add([record(99)])
    assert ports(log) == [*range(20), 99]
    assert ports(log, limit=7) == [14, 15, 16, 17, 18, 19, 99]


def test_flows_outlive_the_agent_and_keep_their_names(tmp_path: Path) -> None:
    first = kept(tmp_path)
    first.context.boot = datetime(2026, 1, 1, tzinfo=UTC)
    first.learn_name(EVENT.source.packed, EVENT.destination.packed, "api.example.com")
    first.add([replace(EVENT, ifindex=1).pack()])
    first.keep()
    second = kept(tmp_path)
    second.add([record(5)])
    second.keep()
    old, new = kept(tmp_path).past(lambda _: True)
    assert (old.link, old.destination.dns, old.destination.name) == ("lo", "api.example.com", "shop/api")
    assert old.time == datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=1.5)
    assert (new.destination.port, new.destination.dns) == (5, "")


def test_the_oldest_make_room_on_disk(tmp_path: Path) -> None:
    limit = 1 << 20
    log = kept(tmp_path, limit)
    for start in range(0, 20_000, 1000):
        log.add([record(port) for port in range(start, start + 1000)])
        log.keep()
    taken = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert limit * 0.7 < taken <= limit
    found = ports(log)
    assert found == list(range(20_000 - len(found), 20_000))
    assert len(found) > 7_000
    assert ports(kept(tmp_path, limit)) == found


def test_a_torn_end_and_a_stranger_do_no_harm(tmp_path: Path) -> None:
    log = kept(tmp_path)
    log.add([record(1), record(2)])
    log.keep()
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(segment.read_bytes()[:-7])
    again = kept(tmp_path)
    again.add([record(3)])
    again.keep()
    assert ports(again) == [1, 3]
    (tmp_path / "00000000000000ff.flows").write_bytes(b"whit flows 999\n" + bytes(400))
    assert ports(kept(tmp_path)) == [1, 3]


def test_a_full_disk_loses_flows_and_nothing_else(tmp_path: Path) -> None:
    log = kept(tmp_path)
    log.add([record(port) for port in range(6)])
    log.keep()
    log.add([record(port) for port in range(10, 16)])
    with files_of_at_most(400):
        log.keep()
    log.add([record(port) for port in range(20, 26)])
    log.keep()
    assert ports(log)[-6:] == [*range(20, 26)]
    assert set(ports(log)) >= {*range(6), *range(20, 26)}


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing beyond it fails with EFBIG, in the midst of what is written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_time_ends_the_search(tmp_path: Path) -> None:
    log = kept(tmp_path)
    log.context.boot = datetime(2026, 1, 1, tzinfo=UTC)
    log.add([replace(EVENT, time_ns=second * 10**9).pack() for second in range(60)])
    log.keep()
    looked: list[datetime] = []
    since = log.context.boot + timedelta(seconds=50)
    found = log.past(lambda one: looked.append(one.time) is None and one.time >= since, since=since)
    assert len(found) == 10
    assert len(looked) == 15
