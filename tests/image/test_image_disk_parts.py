"""Partition tables and boot programs: what other programs read of them, and what is refused."""

from __future__ import annotations

import random
import struct
import zlib
from pathlib import Path
from uuid import UUID

import pytest

from whit.base.errors import InputError
from whit.image.disks import gpt, uki
from whit.image.disks.gpt import Partition, Table
from whit.image.forms import probes
from whit.image.forms.efi import identity_of
from whit.kernel import disk_file

MIB = 1 << 20
STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")


def table() -> Table:
    parts = (
        Partition("esp", gpt.ESP, UUID(int=1), 2 * MIB),
        Partition("root-a", gpt.ROOT["amd64"], UUID(int=2), 3 * MIB, read_only=True),
    )
    return Table(UUID(int=3), parts)


def header(data: bytes, sector: int) -> tuple[int, ...]:
    """Checked: signature, its own checksum and that of the entries (UEFI 2.10, 5.3.2)."""
    raw = bytearray(data[sector * 512 : sector * 512 + 92])
    assert raw[:8] == b"EFI PART"
    fields = struct.unpack("<8sIIIIQQQQ16sQIII", raw)
    raw[16:20] = bytes(4)
    assert zlib.crc32(raw) == fields[3]
    entries = data[fields[10] * 512 :][: fields[11] * fields[12]]
    assert zlib.crc32(entries) == fields[13]
    assert UUID(bytes_le=bytes(fields[9])) == UUID(int=3)
    return fields


def test_both_tables_are_whole_and_name_each_other(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.touch()
    table().write(disk)
    data = disk.read_bytes()
    last = len(data) // 512 - 1
    assert len(data) == table().size
    first, second = header(data, 1), header(data, last)
    assert (first[5], first[6]) == (1, last)
    assert (second[5], second[6]) == (last, 1)
    assert data[510:512] == b"\x55\xaa"
    assert data[450] == 0xEE
    with disk_file.opened(disk) as blocks:
        found = gpt.read(blocks)
    assert found == {
        "esp": gpt.Found(gpt.ESP, MIB, 2 * MIB),
        "root-a": gpt.Found(gpt.ROOT["amd64"], 3 * MIB, 3 * MIB),
    }


def test_what_is_in_the_partitions_stays(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    content = random.Random(1).randbytes(5 * MIB)
    disk.write_bytes(bytes(MIB) + content)
    table().write(disk)
    assert disk.read_bytes()[MIB : 6 * MIB] == content


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    with disk_file.opened(disk) as blocks, pytest.raises(InputError, match="has no partition table"):
        gpt.read(blocks)
    with pytest.raises(InputError, match="more than 36 letters"):
        Table(UUID(int=1), (Partition("n" * 37, gpt.ESP, UUID(int=1), MIB),)).write(disk)


@pytest.mark.skipif(not STUB.exists(), reason="systemd-boot-efi is not installed")
def test_sections_are_found_where_the_headers_say() -> None:
    stub = STUB.read_bytes()
    given = ((".cmdline", b"quiet"), (".initrd", b"i" * 5000), (".linux", b"k" * 70_001))
    linked = uki.link(stub, given)
    pe = struct.unpack_from("<I", linked, 0x3C)[0]
    count, size = struct.unpack_from("<H", linked, pe + 6)[0], struct.unpack_from("<H", linked, pe + 20)[0]
    found, end = {}, 0
    for number in range(count):
        name, length, address, _, offset = struct.unpack_from("<8sIIII", linked, pe + 24 + size + number * 40)
        assert address >= end, "sections overlap in memory"
        end = address + length
        found[name.rstrip(b"\0").decode()] = linked[offset : offset + length]
    assert {name: found[name] for name, _ in given} == dict(given)
    assert list(found)[-1] == ".linux"
    assert struct.unpack_from("<I", linked, pe + 24 + 56)[0] >= end
    assert linked == uki.link(stub, given)
    assert uki.section(linked, ".initrd") == b"i" * 5000
    with pytest.raises(InputError, match="has no section"):
        uki.section(linked, ".pcrsig")
    with pytest.raises(InputError, match="no room for more sections"):
        uki.link(stub, given * 20)


def test_what_is_no_program_is_refused() -> None:
    with pytest.raises(InputError, match="no EFI program"):
        uki.link(b"#!/bin/sh", ())


def test_identities_follow_from_what_they_are_for() -> None:
    assert identity_of("a", "disk") == identity_of("a", "disk") != identity_of("a", "esp") != identity_of("b", "esp")
    assert identity_of("a", "disk").version == 8


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_DISK", {"no-such-program": "its-package"})
    disks = probes.features()[0]
    assert (disks.state, disks.hint) == ("missing", "apt install its-package")
