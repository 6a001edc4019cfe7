"""The generated structs carry every value there and back, are current, and are compared with an object's own types."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whit.base.errors import InputError
from whit.datapath import abi, build, generate
from whit.datapath.address import Address, prefix_of
from whit.datapath.btf import Btf
from whit.datapath.objects import check_abi

STRUCTS = [getattr(abi, "".join(word.capitalize() for word in name.split("_"))) for name in abi.LAYOUT]
GENERATED = [kind for kind in STRUCTS if kind is not Address]
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(Address.from_ip)


def values_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values within the range of every field, from the layout."""
    name = next(name for name, struct_ in zip(abi.LAYOUT, STRUCTS, strict=True) if struct_ is kind)
    sizes = {field: size for field, _, size in abi.LAYOUT[name][1]}
    chosen: dict[str, st.SearchStrategy[Any]] = {}
    for field in fields(kind):
        size = sizes[field.name]
        chosen[field.name] = {
            "Address": ADDRESSES,
            "Raw": st.binary(min_size=size, max_size=size),
            "int": st.integers(0, 256**size - 1),
        }[str(field.type)]
    return st.builds(kind, **chosen)


@given(st.one_of([values_of(kind) for kind in GENERATED]))
def test_every_struct_comes_back_as_it_was(value: Any) -> None:
    data = value.pack()
    assert len(data) == value.SIZE == struct.calcsize(value.FORMAT)
    assert type(value).unpack(data) == value


def test_the_bytes_are_those_that_the_kernel_compares() -> None:
    key = abi.FlowKey(Address.from_ip("10.0.0.1"), Address.from_ip("10.0.0.2"), 32768, 443, 6)
    assert (
        key.pack().hex() == "00" * 10 + "ffff0a000001" + "00" * 10 + "ffff0a000002" + "8000" + "01bb" + "06" + "000000"
    )
    policy = abi.PolicyKey(96, 0x01020304, 5, 1, 6, 80)
    assert policy.pack().hex() == "60000000" + "04030201" + "05000000" + "01" + "06" + "0050"


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_value_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(OverflowError):
        abi.FrontendKey(Address.from_ip("10.0.0.1"), port, 6).pack()


def test_the_generated_file_is_current() -> None:
    assert generate.current_text() == generate.TARGET.read_text(), "run `python -m whit.datapath.generate`"


def test_a_hole_in_a_struct_is_refused(compile_sample: Callable[[str], Path]) -> None:
    path = compile_sample("struct hole { unsigned char a; unsigned int b; }; struct hole value;\n")
    with pytest.raises(InputError, match="hole before b"):
        generate.generate(Btf.from_file(path), "struct hole {")


def test_a_type_that_the_object_lacks_is_named() -> None:
    with pytest.raises(InputError, match="struct forgotten"):
        generate.generate(Btf.from_file(build.object_path("abi")), "struct forgotten {")


def test_every_drop_reason_has_a_text() -> None:
    assert set(abi.DROP_TEXTS) == set(abi.DropReason) - {abi.DropReason.NONE}
    assert all(abi.DROP_TEXTS.values())


@pytest.mark.parametrize("name", ["abi", "datapath"])
def test_the_shipped_objects_have_this_abi(name: str) -> None:
    check_abi(Btf.from_file(build.object_path(name)), name)


def test_another_layout_is_refused_with_its_name(compile_sample: Callable[[str], Path]) -> None:
    path = compile_sample(
        "struct slot_key { unsigned long long service; unsigned slot, pad; }; struct slot_key value;\n"
    )
    with pytest.raises(InputError, match="struct slot_key"):
        check_abi(Btf.from_file(path), str(path))
    path = compile_sample("enum hook { HOOK_FROM_INSTANCE = 9 }; enum hook value;\n")
    with pytest.raises(InputError, match="enum hook"):
        check_abi(Btf.from_file(path), str(path))


@given(st.ip_addresses(v=4))
def test_ipv4_is_mapped(ip: IPv4Address) -> None:
    address = Address.from_ip(str(ip))
    assert address.packed == bytes(10) + b"\xff\xff" + ip.packed
    assert (address.ip, str(address)) == (ip, str(ip))


@given(st.ip_addresses(v=6))
def test_ipv6_is_itself(ip: IPv6Address) -> None:
    address = Address.from_ip(ip)
    assert address.packed == ip.packed
    assert address.ip == (ip.ipv4_mapped or ip)


def test_prefixes_count_from_the_mapped_start() -> None:
    assert prefix_of(ip_network("10.1.0.0/16")) == (112, Address.from_ip("10.1.0.0"))
    assert prefix_of(ip_network("fd00::/8")) == (8, Address.from_ip("fd00::"))


def test_no_address_of_another_length() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Address(bytes(4))
