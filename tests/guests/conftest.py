"""Guests run under QEMU, which has to be there."""

from __future__ import annotations

import pytest
from support.guests import HAS_QEMU


@pytest.fixture(autouse=True)
def needs_qemu() -> None:
    if not HAS_QEMU:
        pytest.skip("qemu-system-x86 is not installed")
