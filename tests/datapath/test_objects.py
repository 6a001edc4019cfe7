"""Constants, sizes, adopted maps and errors of one object on the real kernel."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from whit.base.errors import Conflict, InputError
from whit.datapath import libbpf
from whit.datapath.address import Address
from whit.datapath.libbpf import LoadError, prog_test_run
from whit.datapath.objects import BpfObject, Constant, open_object
from whit.datapath.pins import Pins

pytestmark = pytest.mark.root

PACKET = b"\xff" * 6 + bytes(6) + b"\x88\xb5" + bytes(50)
CONTEXT = bytes(192)
"""struct __sk_buff."""


def lookup(descriptor: int, size: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    libbpf.call("bpf_map_lookup_elem", descriptor, bytes(4), buffer)
    return buffer.raw


def test_constants_of_every_size_arrive(sample_path: Path) -> None:
    constants: dict[str, Constant] = {
        "byte": 7,
        "half": 0x1234,
        "port": 8080,
        "word": 0xDEADBEEF,
        "large": 1 << 63,
        "negative": -5,
        "address": Address.from_ip("192.0.2.1"),
    }
    with open_object(sample_path) as opened:
        opened.set_constants(constants)
        opened.load()
        run = prog_test_run(opened.program_fd("tell"), PACKET, ctx=CONTEXT)
        told = lookup(opened.map_fd("seen"), 44)
    assert run.retval == 7
    assert run.data_out == PACKET
    assert struct.unpack_from("<I", run.ctx_out, 8) == (0xDEADBEEF,)  # skb->mark
    assert struct.unpack("<QIiH2sB3x16s", told[:40]) == (
        1 << 63,
        0xDEADBEEF,
        -5,
        0x1234,
        (8080).to_bytes(2, "big"),
        7,
        Address.from_ip("192.0.2.1").packed,
    )


def test_constants_keep_their_defaults(sample_object: BpfObject) -> None:
    assert prog_test_run(sample_object.program_fd("tell"), PACKET).retval == 1
    assert sorted(sample_object.constant_names) == ["address", "byte", "half", "large", "negative", "port", "word"]


@pytest.mark.parametrize(
    ("name", "value"), [("byte", 256), ("half", -40000), ("address", b"short"), ("nothing", 1), ("seen", 1)]
)
def test_a_constant_that_does_not_fit_or_exist_is_named(sample_path: Path, name: str, value: Constant) -> None:
    with open_object(sample_path) as opened, pytest.raises(InputError, match=name):
        opened.set_constants({name: value})


def test_sizes_are_set_before_load(sample_path: Path) -> None:
    with open_object(sample_path) as opened:
        opened.set_max_entries("entries", 77)
        with pytest.raises(InputError, match="it has counters, entries"):
            opened.set_max_entries("nothing", 1)
        opened.load()
        assert libbpf.map_info(opened.map_fd("entries")).max_entries == 77


def test_programs_without_a_name_are_named_in_the_error(sample_object: BpfObject) -> None:
    with pytest.raises(InputError, match="has no program absent"):
        sample_object.program_fd("absent")


def test_a_pinned_map_is_adopted(sample_path: Path, pins: Pins) -> None:
    with open_object(sample_path) as first:
        first.load()
        first.pin_map("entries", pins.maps / "entries")
        number = libbpf.map_info(first.map_fd("entries")).id
    with open_object(sample_path) as second:
        with libbpf.opened_pin(pins.maps / "entries") as descriptor:
            second.reuse_map("entries", descriptor)
        second.load()
        assert libbpf.map_info(second.map_fd("entries")).id == number


def test_a_map_of_another_layout_is_not_adopted(sample_object: BpfObject, sample_path: Path) -> None:
    with open_object(sample_path) as second, pytest.raises(Conflict, match="pinned map entries"):
        second.reuse_map("entries", sample_object.map_fd("states"))


def test_what_the_verifier_refuses_is_told(compile_sample: Callable[[str], Path]) -> None:
    source = """
    #include <linux/bpf.h>
    #include <bpf/bpf_helpers.h>
    char _license[] SEC("license") = "GPL";
    SEC("tc") int wild(struct __sk_buff *skb) { return *(int *)(long)skb->data; }
    """
    with open_object(compile_sample(source)) as opened, pytest.raises(LoadError) as raised:
        opened.load()
    assert "invalid access to packet" in str(raised.value)
    assert "sample.bpf.o" in str(raised.value)
    assert len(str(raised.value).splitlines()) < 20
    assert "wild" in raised.value.log


def test_closing_twice_is_safe(sample_path: Path) -> None:
    opened = open_object(sample_path)
    opened.close()
    opened.close()


def test_time_is_measured_over_repeats(sample_object: BpfObject) -> None:
    run = prog_test_run(sample_object.program_fd("count_first"), PACKET, repeat=100)
    assert 0 <= run.duration_ns < 1_000_000_000
