"""The ring buffer reader: order, size, wrap-around, discarded and unfinished records, and readers that start anew."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import pytest

from whit.base.errors import Conflict, NotFound, Permanent
from whit.datapath.events import FlowEvents, RingReader
from whit.datapath.libbpf import prog_test_run
from whit.datapath.objects import BpfObject
from whit.datapath.pins import Pins

pytestmark = pytest.mark.root

SHORT, LONG, DISCARDED = 0, 1, 2
HEAD = b"\xff" * 6 + bytes(6) + b"\x88\xb5"


class Producer:
    def __init__(self, obj: BpfObject) -> None:
        self.program = obj.program_fd("produce")

    def put(self, number: int, what: int = SHORT) -> bool:
        """False if the ring is full."""
        packet = HEAD + struct.pack("<IB", number, what) + bytes(40)
        return prog_test_run(self.program, packet).retval == 0


@pytest.fixture
def producer(sample_object: BpfObject, pins: Pins) -> Producer:
    sample_object.pin_map("ring", pins.maps / "ring")
    return Producer(sample_object)


@pytest.fixture
def reader(producer: Producer, pins: Pins) -> Iterator[RingReader]:
    with RingReader(pins.maps / "ring") as opened:
        yield opened


def numbers(records: list[bytes]) -> list[int]:
    return [int.from_bytes(record[:4], "little") for record in records]


def test_records_come_in_order_and_whole(producer: Producer, reader: RingReader) -> None:
    assert reader.read() == []
    for number in range(5):
        producer.put(number, LONG if number % 2 else SHORT)
    records = reader.read()
    assert numbers(records) == [0, 1, 2, 3, 4]
    assert [len(record) for record in records] == [20, 100, 20, 100, 20]
    assert reader.read() == []
    assert reader.pending() == 0


def test_nothing_is_lost_over_many_laps(producer: Producer, reader: RingReader) -> None:
    """The ring has 4096 bytes: 2000 records of both sizes lap it some thirty times, and split at each place."""
    found: list[int] = []
    for number in range(2000):
        assert producer.put(number, LONG if number % 3 == 0 else SHORT)
        if number % 13 == 0:
            found += numbers(reader.read())
    assert found + numbers(reader.read()) == list(range(2000))


def test_a_full_ring_refuses_and_goes_on_after_reading(producer: Producer, reader: RingReader) -> None:
    accepted = 0
    while producer.put(accepted):
        accepted += 1
    assert 4096 // 32 - 1 <= accepted <= 4096 // 32
    assert not producer.put(9999)
    assert numbers(reader.read(10)) == list(range(10))
    assert producer.put(accepted)
    assert numbers(reader.read()) == list(range(10, accepted + 1))


def test_discarded_records_are_passed_over(producer: Producer, reader: RingReader) -> None:
    for number, what in enumerate([SHORT, DISCARDED, SHORT, DISCARDED]):
        producer.put(number, what)
    assert numbers(reader.read()) == [0, 2]
    assert reader.pending() == 0


def test_a_reader_that_starts_anew_goes_on(producer: Producer, pins: Pins) -> None:
    for number in range(6):
        producer.put(number)
    with RingReader(pins.maps / "ring") as first:
        assert numbers(first.read(2)) == [0, 1]
    with RingReader(pins.maps / "ring") as second:
        assert numbers(second.read(2)) == [2, 3]
        second.close()
    with RingReader(pins.maps / "ring") as third:
        assert numbers(third.read()) == [4, 5]


class Torn(RingReader):
    """A ring whose memory the test writes, to show a record that the kernel has not finished."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = bytearray(size)
        self._consumer, self._producer = memoryview(bytearray(8)).cast("Q"), memoryview(bytearray(8)).cast("Q")
        self._data = memoryview(self.memory)
        self._words = self._data.cast("I")
        self._fence = threading.Lock()


def test_an_unfinished_record_holds_up_those_behind() -> None:
    ring = Torn(4096)
    busy = 1 << 31
    for start, header, number in ((0, 4, 1), (16, 4 | busy, 2), (32, 4, 3)):
        struct.pack_into("<III", ring.memory, start, header, 0, number)
    ring._producer[0] = 48
    assert numbers(ring.read()) == [1]
    assert ring.pending() == 32
    struct.pack_into("<I", ring.memory, 16, 4)
    assert numbers(ring.read()) == [2, 3]


def test_a_record_of_another_size_is_no_event(producer: Producer, pins: Pins) -> None:
    producer.put(1)
    with FlowEvents(pins.maps / "ring") as events, pytest.raises(Permanent, match="20 bytes"):
        list(events.poll())


def test_only_ring_buffers_are_read(sample_object: BpfObject, pins: Pins) -> None:
    sample_object.pin_map("entries", pins.maps / "entries")
    with pytest.raises(Conflict, match="not a ring buffer"):
        RingReader(pins.maps / "entries")
    with pytest.raises(NotFound, match="absent"):
        RingReader(pins.maps / "absent")
