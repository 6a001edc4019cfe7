"""The kernel within a kernel that unpacks itself."""

from __future__ import annotations

import shutil

import pytest
from support.guests import HAS_QEMU, debian_kernel

from whit.image.sources import plain_kernel
from whit.image.sources.kernel import Series

pytestmark = pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86_64 is not installed")


@pytest.mark.parametrize(("series", "tool"), [("stable", "lz4"), ("backports", "zstd")])
async def test_debians_kernels_are_unpacked(series: Series, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    linux = await debian_kernel(series)
    content = await plain_kernel.unpacked(linux.image.read_bytes())
    assert content is not None
    assert content.startswith(b"\x7fELF")
    assert f"Linux version {linux.release} ".encode() in content


async def test_what_cannot_be_unpacked_is_none() -> None:
    image = bytearray((await debian_kernel("stable")).image.read_bytes())
    assert await plain_kernel.unpacked(b"") is None
    assert await plain_kernel.unpacked(b"\x7fELF" + bytes(1 << 16)) is None
    image[0x1000:] = bytes(len(image) - 0x1000)
    assert await plain_kernel.unpacked(bytes(image)) is None
