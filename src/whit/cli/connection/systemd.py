"""The unit of the agent where systemd is PID 1, so that apps come back after a reboot.

The unit is a template: `whitd@shop.service` is the agent with the id `shop`.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from whit.base.errors import Permanent, WhitError
from whit.base.settings import Settings

UNIT_FILE = Path("/etc/systemd/system/whitd@.service")

# There is little of systemd's sandbox here, for two reasons. What needs a mount namespace of its own (ProtectSystem,
# PrivateTmp, …) would hide the agent's network namespaces and overlays from the host. What is inherited (seccomp
# filters, NoNewPrivileges, bounding set, umask) would reach into every instance, which has a profile of its own.
TEMPLATE = """\
# Written by `whit up`. Changes belong into a drop-in: systemctl edit whitd@{example}
[Unit]
Description=Whit agent %i
After=local-fs.target network.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
{environment}WorkingDirectory=/
UMask=0022
Restart=always
RestartSec=1
# When the machine goes down the agent stops the instances first.
TimeoutStopSec=90
# Instances and their monitors outlive the agent, also when one of them runs out of memory.
KillMode=process
OOMPolicy=continue
Delegate=yes
TasksMax=infinity
LimitNOFILE=1048576
LimitMEMLOCK=infinity

[Install]
WantedBy=multi-user.target
"""


def in_charge(settings: Settings) -> bool:
    """systemd is PID 1, and the agent's directories are the usual ones, which the unit assumes."""
    return Path("/run/systemd/system").is_dir() and settings == Settings(id=settings.id)


def unit_name(settings: Settings) -> str:
    return f"whitd@{settings.id}.service"


def unit_text(argv: Sequence[str], source_root: Path | None) -> str:
    """The unit's text. `argv` has %i where the agent's id belongs; `source_root` is set for a checkout."""
    environment = f'Environment="PYTHONPATH={_escaped(str(source_root))}"\n' if source_root else ""
    command = " ".join(argument if argument == "%i" else shlex.quote(_escaped(argument)) for argument in argv)
    return TEMPLATE.format(command=command, environment=environment, example=Settings().id)


def start(settings: Settings, argv: Sequence[str], source_root: Path | None) -> None:
    """Write the unit if it is new or changed, enable it and start it. Raises CommandError."""
    import asyncio

    asyncio.run(_start(unit_name(settings), unit_text(argv, source_root)))


def failure(settings: Settings) -> WhitError | None:
    """Why there is no use in waiting for the agent: it ended, and systemd has started it again."""
    import asyncio

    from whit.tools import systemctl

    unit = unit_name(settings)
    if not asyncio.run(systemctl.restarts(unit)):
        return None
    return Permanent(f"the agent ends as soon as {unit} starts it", hint=f"its log: journalctl -u {unit}")


def stop(settings: Settings) -> None:
    """Stop the agent and keep it from starting with the machine; nothing where no unit was written."""
    import asyncio

    from whit.tools.process import run

    if UNIT_FILE.exists():
        asyncio.run(run(["systemctl", "disable", "--now", unit_name(settings)], check=False))


async def _start(unit: str, text: str) -> None:
    from whit.tools.process import run

    if not UNIT_FILE.exists() or UNIT_FILE.read_text() != text:
        _replace(UNIT_FILE, text)
        await run(["systemctl", "daemon-reload"])
    await run(["systemctl", "reset-failed", unit], check=False)
    await run(["systemctl", "enable", "--now", unit])


def _replace(path: Path, text: str) -> None:
    """By rename, so that systemd never reads half a unit."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(text)
    new.rename(path)


def _escaped(text: str) -> str:
    """% starts a specifier in a unit."""
    return text.replace("%", "%%")
