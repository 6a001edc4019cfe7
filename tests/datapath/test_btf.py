"""The BTF reader against the C compiler's own answers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.datapath import abi, build
from whit.datapath.btf import Btf, Kind
from whit.datapath.elf import Elf


@pytest.fixture(scope="session")
def btf() -> Btf:
    build.build()
    return Btf.from_file(build.object_path("abi"))


def host_layout(tmp_path: Path) -> str:
    """What a C program of this machine says about sizes and offsets, one line each."""
    lines = []
    for name, (_, fields) in abi.LAYOUT.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        for field, _, _ in fields:
            member = f"((struct {name} *)0)->{field}"
            lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof(struct {name}, {field}), sizeof({member}));')
    source = f'#include <stddef.h>\n#include <stdio.h>\n#include "abi.h"\nint main(void) {{ {" ".join(lines)} }}\n'
    (tmp_path / "layout.c").write_text(source)
    include = str(build.SOURCES / "include")
    subprocess.run(["clang", f"-I{include}", str(tmp_path / "layout.c"), "-o", str(tmp_path / "layout")], check=True)
    return subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout


def test_structs_are_laid_out_as_the_host_compiler_says(btf: Btf, tmp_path: Path) -> None:
    found = []
    for name in abi.LAYOUT:
        struct = btf.struct(name)
        found.append(f"{name} {struct.size}")
        found += [f"{name}.{field.name} {field.offset} {field.size}" for field in struct.fields]
    assert found == host_layout(tmp_path).splitlines()


def test_types_keep_the_names_of_the_source(btf: Btf) -> None:
    fields = {field.name: field for field in btf.struct("flow_key").fields}
    assert (fields["source_port"].type, fields["source_port"].kind) == ("__be16", Kind.INT)
    assert (fields["source"].type, fields["source"].kind) == ("address", Kind.STRUCT)
    assert (fields["pad"].type, fields["pad"].count, fields["pad"].size) == ("__u8", 3, 3)


def test_enums_are_those_of_the_headers(btf: Btf) -> None:
    text = (build.SOURCES / "include/abi.h").read_text()
    written = dict(re.findall(r"^\t((?:IDENTITY|VERDICT|FLOW|HOOK|BACKEND)_\w+) = (\d+)", text, re.M))
    read = {
        name: str(value)
        for enum in ("reserved_identity", "verdict", "flow_flags", "hook", "backend_state")
        for name, value in btf.enum(enum).values
    }
    assert read == written


def test_a_missing_type_is_named(btf: Btf) -> None:
    with pytest.raises(InputError, match="struct nonsense"):
        btf.struct("nonsense")


def test_a_bit_field_is_refused(compile_sample: Callable[[str], Path]) -> None:
    path = compile_sample("struct odd { unsigned a : 3; unsigned b : 5; }; struct odd value;\n")
    with pytest.raises(InputError, match="bit-field"):
        Btf.from_file(path).struct("odd")


def test_damage_is_an_error_that_names_the_file() -> None:
    data = build.object_path("abi").read_bytes()
    section = Elf(data).section(".BTF").data
    for cut in (0, 10, 24, len(section) // 2, len(section) - 1):
        with pytest.raises(InputError, match=r"some\.o"):
            Btf(section[:cut], "some.o")
    with pytest.raises(InputError, match=r"some\.o"):
        Elf(data[: len(data) // 2], "some.o")
    with pytest.raises(InputError, match="not a 64-bit"):
        Elf(b"#!/bin/sh\n", "some.o")
