"""The sweeper deletes what is over by the datapath's own figures, and nothing else."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from whit.base.settings import Settings
from whit.datapath.abi import FlowFlags, FlowKey, FlowValue
from whit.datapath.address import Address
from whit.datapath.datapath import Datapath, uninstall
from whit.datapath.install import DatapathConfig
from whit.mesh.sweeper import Timeouts, sweep

pytestmark = [pytest.mark.root, pytest.mark.machine]

CONFIG = Path(__file__).resolve().parents[2] / "bpf" / "include" / "config.h"
ONE = Address.from_ip("10.0.0.1")
SECOND = 10**9


@pytest.fixture
def datapath(settings: Settings) -> Iterator[Datapath]:
    with Datapath.install(settings, DatapathConfig(IPv4Network("10.99.0.0/16"), sizes={"flows": 65536})) as found:
        yield found
    uninstall(settings)


def value(silent: float, flags: int, initiator: int = 7) -> FlowValue:
    """Of a flow that has been silent for so many seconds."""
    seen = max(time.monotonic_ns() - int(silent * SECOND), 0)
    zeros = dict.fromkeys((one.name for one in fields(FlowValue)), 0) | {"translation": ONE}
    return FlowValue(**zeros | {"last_seen_ns": seen, "flags": flags, "initiator": initiator})  # type: ignore[arg-type]


def test_the_figures_are_those_of_the_datapath() -> None:
    found = dict(re.findall(r"__u64 (\w+)_timeout_ns = (.*);", CONFIG.read_text()))
    figures = {name: eval(text, {"SECOND": SECOND}) for name, text in found.items()}
    assert figures == {name: getattr(Timeouts(), name) for name in Timeouts.__dataclass_fields__}


def test_what_is_over_goes_and_the_rest_stays(datapath: Datapath) -> None:
    established, closing = FlowFlags.ESTABLISHED, FlowFlags.ESTABLISHED | FlowFlags.CLOSING
    cases = [  # protocol, flags, seconds of silence, stays
        (6, 0, 50, True), (6, 0, 70, False), (6, established, 3600, True), (6, closing, 5, True),
        (6, closing, 15, False), (17, 0, 50, True), (17, 0, 70, False), (17, established, 170, True),
        (17, established, 190, False), (1, 0, 20, True), (1, 0, 40, False), (58, 0, 40, False), (132, 0, 190, False),
    ]  # fmt: skip
    timeouts = Timeouts(tcp_established=2 * 3600 * SECOND)
    for port, (protocol, flags, silent, _) in enumerate(cases):
        if silent < time.monotonic():
            datapath.flows.put(FlowKey(ONE, ONE, port, 80, protocol), value(silent, flags))
    found = sweep(datapath.flows, timeouts)
    left = {key.source_port for key, _ in datapath.flows.items()}
    wanted = {port for port, case in enumerate(cases) if case[3] and case[2] < time.monotonic()}
    assert left == wanted
    assert (found.entries, found.deleted) == (len(left), sum(not case[3] for case in cases))
    assert found.initiators[7] >= len(left)


def test_a_full_table_is_swept_within_bounds(
    datapath: Datapath, record_number: Callable[[str, object], None], sample: Callable[[int, int], int]
) -> None:
    count = sample(20_000, 50_000)
    entries = [
        (FlowKey(ONE, ONE, number & 0xFFFF, number >> 16, 17), value(70 if number % 2 else 1, 0, number % 3))
        for number in range(count)
    ]
    datapath.flows.put_many(entries)
    there = datapath.flows.count()
    used = time.process_time()
    found = sweep(datapath.flows, Timeouts())
    record_number("sweep, us of a processor an entry", round(1e6 * (time.process_time() - used) / there, 2))
    assert found.entries + found.deleted == there
    assert abs(found.deleted - there / 2) < there * 0.05
    assert {number for number, _ in found.initiators.most_common()} == {0, 1, 2}
    assert all(flow.last_seen_ns > time.monotonic_ns() - 60 * SECOND for _, flow in datapath.flows.items())
