"""What is kept of packets that came for instances without a process."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from support.instances import make_spec

from whit.base.settings import Settings
from whit.control.held import Held
from whit.control.instances import Instances, Record
from whit.model.instance import InstanceStatus

pytestmark = [pytest.mark.root, pytest.mark.machine]


def a_record() -> Record:
    spec = make_spec(Path("/"))
    return Record(spec, {}, InstanceStatus(name=spec.name, app="test", service="web", state="stopped"))


@pytest.fixture
def held(settings: Settings) -> Any:
    """Of instances without links: what is handed over is gone."""
    found = Held(cast("Instances", SimpleNamespace(drivers=SimpleNamespace(settings=settings))))
    yield found
    found.close()


def frame(payload: object) -> bytes:
    return bytes(Ether() / IP(src="10.0.0.1", dst="10.1.2.3") / payload)


def test_a_datagram_does_not_take_the_place_of_one_before(held: Held) -> None:
    record = a_record()
    held.keep(record, frame(TCP(sport=9, dport=80, flags="S")))
    for text in (b"one", b"two"):
        held.keep(record, frame(UDP(sport=9, dport=53) / text))
    held.hand_over(record, {(6, 80)})
    held.keep(record, frame(UDP(sport=9, dport=53) / b"three"))
    assert [one[-3:] for one in held._kept[record].values()] == [b"one", b"two", b"ree"]


def test_another_instance_of_the_name_gets_nothing_of_it(held: Held) -> None:
    record = a_record()
    held.keep(record, frame(UDP(sport=9, dport=53) / b"one"))
    assert a_record() not in held._kept
    del record
    gc.collect()
    assert not held._kept
