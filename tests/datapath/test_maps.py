"""Typed maps on the real kernel: single and many, prefixes, sums over CPUs, and what happens when they are full."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from whit.base.errors import Conflict, NotFound, SystemCallError
from whit.datapath.abi import (
    BackendValue,
    DatapathState,
    DropKey,
    DropValue,
    IdentityKey,
    IdentityValue,
    SlotKey,
)
from whit.datapath.address import Address
from whit.datapath.codec import U32, U64, struct_codec
from whit.datapath.libbpf import prog_test_run
from whit.datapath.maps import ArrayMap, HashMap, LpmMap, PerCpuMap
from whit.datapath.objects import BpfObject

pytestmark = pytest.mark.root

Entries = HashMap[SlotKey, BackendValue]
EXPERIMENT = b"\xff" * 6 + bytes(6) + b"\x88\xb5" + bytes(50)


@pytest.fixture
def entries(sample_object: BpfObject) -> Iterator[Entries]:
    with HashMap(
        os.dup(sample_object.map_fd("entries")), struct_codec(SlotKey), struct_codec(BackendValue), "entries"
    ) as opened:
        yield opened


def backend(number: int) -> BackendValue:
    return BackendValue(Address.from_ip(f"10.0.{number >> 8 & 255}.{number & 255}"), number & 0xFFFF, 0)


def test_one_entry_is_put_found_and_deleted(entries: Entries) -> None:
    key = SlotKey(1, 2)
    assert entries.get(key) is None
    entries.put(key, backend(1))
    entries.put(key, backend(2))
    assert entries.get(key) == backend(2)
    assert not entries.add(key, backend(3))
    assert entries.get(key) == backend(2)
    assert entries.delete(key)
    assert not entries.delete(key)
    assert entries.add(key, backend(3))


@pytest.mark.parametrize("count", [0, 1, 4096, 4097, 10000])
def test_many_are_put_listed_counted_and_deleted(entries: Entries, count: int) -> None:
    wanted = {SlotKey(number, number % 7): backend(number) for number in range(count)}
    entries.put_many(wanted)
    listed = list(entries.items())
    assert len(listed) == count
    assert dict(listed) == wanted
    assert entries.count() == count
    assert entries.fill() == count / 10000
    odd = [key for key in wanted if key.service % 2]
    absent = [SlotKey(1 << 31, number) for number in range(3)]
    entries.delete_many([*absent[:1], *odd, *absent[1:], *odd[:1]])
    assert set(dict(entries.items())) == set(wanted) - set(odd)
    entries.clear()
    assert entries.count() == 0


def test_a_full_map_says_how_large_it_is(entries: Entries) -> None:
    with pytest.raises(SystemCallError, match="10000 entries"):
        entries.put_many((SlotKey(number, 0), backend(0)) for number in range(10001))
    with pytest.raises(SystemCallError, match=r"map entries: E2BIG"):
        entries.put(SlotKey(0, 1), backend(0))
    assert entries.count() == 10000


def test_the_longest_prefix_is_found(sample_object: BpfObject) -> None:
    descriptor = os.dup(sample_object.map_fd("prefixes"))
    with LpmMap(descriptor, struct_codec(IdentityKey), struct_codec(IdentityValue)) as prefixes:
        wanted = {
            IdentityKey(0, Address.from_ip("::")): IdentityValue(2),
            IdentityKey(104, Address.from_ip("10.0.0.0")): IdentityValue(3),
            IdentityKey(128, Address.from_ip("10.1.2.3")): IdentityValue(4),
        }
        prefixes.put_many(wanted)
        for ip, identity in {"10.1.2.3": 4, "10.1.2.4": 3, "192.0.2.1": 2, "fd00::1": 2}.items():
            assert prefixes.get(IdentityKey(128, Address.from_ip(ip))) == IdentityValue(identity)
        assert dict(prefixes.items()) == wanted
        more = {
            IdentityKey(128, Address.from_ip(f"172.16.{number >> 8}.{number & 255}")): IdentityValue(number)
            for number in range(5000)
        }
        prefixes.put_many(more)
        assert dict(prefixes.items()) == wanted | more
        prefixes.delete_many(more)
        assert dict(prefixes.items()) == wanted


def test_an_array_has_a_value_at_each_index(sample_object: BpfObject) -> None:
    with ArrayMap(os.dup(sample_object.map_fd("states")), U32, struct_codec(DatapathState), "states") as states:
        states.put(3, DatapathState(9, 0))
        assert [state.generation for _, state in states.items()] == [0, 0, 0, 9]
        for index in (4, -1):
            with pytest.raises(IndexError):
                states.put(index, DatapathState(1, 0))
        with pytest.raises(IndexError):
            states.get(4)


def test_counters_are_summed_over_cpus(sample_object: BpfObject) -> None:
    descriptor = os.dup(sample_object.map_fd("counters"))
    with PerCpuMap(descriptor, struct_codec(DropKey), struct_codec(DropValue)) as counters:
        assert counters.get(DropKey(1, 0)) is None
        allowed = os.sched_getaffinity(0)
        try:
            for round_, cpu in enumerate(sorted(allowed)[:2], start=1):
                os.sched_setaffinity(0, {cpu})
                prog_test_run(sample_object.program_fd("count_first"), EXPERIMENT, repeat=10 * round_)
        finally:
            os.sched_setaffinity(0, allowed)
        packets = 30 if len(allowed) > 1 else 10
        total = counters.get(DropKey(1, 0))
        assert total is not None
        assert total.packets == packets
        assert total.bytes == packets * len(EXPERIMENT)
        assert (
            sorted(value.packets for value in counters.per_cpu(DropKey(1, 0)) if value.packets)
            == [10, 20][: len(allowed)]
        )
        assert list(counters.items()) == [(DropKey(1, 0), total)]
        assert counters.count() == 1
        assert counters.delete(DropKey(1, 0))


def test_a_map_of_another_kind_or_layout_is_refused(sample_object: BpfObject) -> None:
    with pytest.raises(Conflict, match="not array"):
        ArrayMap(os.dup(sample_object.map_fd("entries")), U32, U32)
    with pytest.raises(Conflict, match=r"u64 \(8\) and u64"):
        HashMap(os.dup(sample_object.map_fd("entries")), U64, U64)


def test_a_missing_pin_is_named() -> None:
    with pytest.raises(NotFound, match="nowhere"):
        HashMap.open(Path("/sys/fs/bpf/nowhere"), U32, U32)
