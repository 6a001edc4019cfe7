"""What this machine can do to run virtual machines."""

from __future__ import annotations

from whit.base.errors import WhitError
from whit.model.feature import Feature
from whit.runtime import programs
from whit.tools import qemu, virtiofsd

_INSTALL = "apt install qemu-system-x86"
_SLOW = "use a machine with /dev/kvm, or be patient: instructions are translated (TCG), some ten times slower"


async def features() -> list[Feature]:
    """Not required: only `isolation: microvm` needs them."""
    return [await _machine(), await _accelerator()]


async def _machine() -> Feature:
    try:
        version = ".".join(map(str, await qemu.version()))
    except WhitError as error:
        return Feature(name="microVM", state="missing", detail=error.message, hint=_INSTALL)
    try:
        server = virtiofsd.binary()
        programs.path("machine")
    except WhitError as error:
        return Feature(name="microVM", state="missing", detail=error.message, hint=error.hint or _INSTALL)
    return Feature(name="microVM", state="works", detail=f"qemu {version}, {server}")


async def _accelerator() -> Feature:
    """Runs a guest of twelve bytes."""
    try:
        found = await qemu.accelerator()
    except WhitError as error:
        return Feature(name="KVM", state="missing", detail=error.message, hint=_INSTALL)
    if found == "kvm":
        return Feature(name="KVM", state="works")
    return Feature(name="KVM", state="missing", detail="a guest does not run with it", hint=_SLOW)
