"""First boot as init/first_boot/first_boot.c reads it from a disk: entries of records, each with its content. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from whit.image.machines.records import encoded
from whit.model.first_boot import FirstBootSpec, WrittenFile

SERIAL = "whit-first-boot"
"""What the guest finds the disk by."""
_BEGINNING = b"whit-first-boot 1\n"
_SECTOR = 512


def disk(spec: FirstBootSpec) -> bytes:
    """The whole disk, in sectors."""
    content = _BEGINNING + b"".join(_entries(spec))
    return content + bytes(-len(content) % _SECTOR)


def _entries(spec: FirstBootSpec) -> Iterator[bytes]:
    if spec.hostname:
        yield encoded([("hostname", spec.hostname)]) + b"\0"
    for file in spec.files:
        yield encoded(_records(file)) + b"\0" + file.contents
    yield encoded([("end", "1")]) + b"\0"


def _records(file: WrittenFile) -> Iterator[tuple[str, str]]:
    yield from (("kind", file.kind), ("path", file.path), ("mode", f"{file.mode:o}"))
    yield from (("uid", str(file.uid)), ("gid", str(file.gid)), ("size", str(len(file.contents))))
    if file.target:
        yield "target", file.target
    if file.overwrite:
        yield "overwrite", "1"
    if file.append:
        yield "append", "1"
