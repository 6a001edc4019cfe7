"""UKI: one EFI program of a kernel, its first root and its command line. Pure.

systemd's stub with sections added to it, as ukify(1) adds them. Formats: uapi-group.org, Unified Kernel Image;
Microsoft's PE format, "Section Table".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from whit.base.errors import InputError

_HEADER = struct.Struct("<8sIIIIIIHHI")
_READ_ONLY_DATA = 0x40000040
_NEW_HEADER = 0x3C
_COFF = 4 + 20
_SECTION_ALIGNMENT, _FILE_ALIGNMENT, _IMAGE_SIZE, _HEADERS_SIZE, _CHECKSUM = 32, 36, 56, 60, 64
"""Places in the optional header."""


def link(stub: bytes, sections: Sequence[tuple[str, bytes]]) -> bytes:
    """The stub with these sections behind its own. The kernel (.linux) has to come last: it unpacks itself there.

    Raises:
        InputError: the stub is no EFI program, or has no room for so many sections.
    """
    image = bytearray(stub)
    if image[:2] != b"MZ":
        raise InputError("the stub is no EFI program", hint="is systemd-boot-efi whole?")
    pe = _number(image, _NEW_HEADER, "<I")
    count, optional_size = _number(image, pe + 6, "<H"), _number(image, pe + 20, "<H")
    optional = pe + _COFF
    table = optional + optional_size
    if table + (count + len(sections)) * _HEADER.size > _number(image, optional + _HEADERS_SIZE, "<I"):
        raise InputError("the stub has no room for more sections")
    virtual, physical = (_number(image, optional + place, "<I") for place in (_SECTION_ALIGNMENT, _FILE_ALIGNMENT))
    end = _end(image, table, count)
    for number, (name, data) in enumerate(sections, start=count):
        address, offset = _aligned(end, virtual), _aligned(len(image), physical)
        image += bytes(offset - len(image)) + data + bytes(-len(data) % physical)
        size = _aligned(len(data), physical)
        header = (name.encode(), len(data), address, size, offset, 0, 0, 0, 0, _READ_ONLY_DATA)
        _HEADER.pack_into(image, table + number * _HEADER.size, *header)
        end = address + len(data)
    struct.pack_into("<H", image, pe + 6, count + len(sections))
    struct.pack_into("<I", image, optional + _IMAGE_SIZE, _aligned(end, virtual))
    struct.pack_into("<I", image, optional + _CHECKSUM, 0)
    return bytes(image)


def section(image: bytes, name: str) -> bytes:
    """What is in a section. Raises InputError if there is none of this name."""
    if image[:2] == b"MZ":
        pe = _number(image, _NEW_HEADER, "<I")
        count, optional_size = _number(image, pe + 6, "<H"), _number(image, pe + 20, "<H")
        for number in range(count):
            found = _HEADER.unpack_from(image, pe + _COFF + optional_size + number * _HEADER.size)
            if found[0].rstrip(b"\0") == name.encode():
                return image[found[4] : found[4] + found[1]]
    raise InputError(f"the program has no section {name}", hint="was it made by whit build?")


def _end(image: bytearray, table: int, count: int) -> int:
    """Where in memory the last section ends."""
    headers = [_HEADER.unpack_from(image, table + number * _HEADER.size) for number in range(count)]
    return max(int(header[2]) + int(header[1]) for header in headers)


def _number(image: bytes | bytearray, place: int, form: str) -> int:
    found: int = struct.unpack_from(form, image, place)[0]
    return found


def _aligned(number: int, alignment: int) -> int:
    return -(-number // alignment) * alignment
