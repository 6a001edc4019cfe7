"""systemctl: what the agent asks of systemd where that is the first process. systemctl(1)."""

from __future__ import annotations

from pathlib import Path

from whit.base.errors import WhitError
from whit.tools import process

_RUNS = Path("/run/systemd/system")
"""There if systemd is the first process: sd_booted(3)."""


async def goes_down() -> bool:
    """Whether the machine is being shut down or rebooted; False where systemd does not run or does not answer."""
    if not _RUNS.is_dir():
        return False
    try:
        state = await process.run(["systemctl", "is-system-running"], check=False, timeout=10)
    except WhitError:
        return False
    return state.text.strip() == "stopping"


async def restarts(unit: str) -> int:
    """How often systemd has started the unit again because it ended."""
    shown = await process.run(["systemctl", "show", "--property=NRestarts", "--value", unit], check=False, timeout=10)
    return int(shown.text.strip() or 0)
