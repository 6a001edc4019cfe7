"""modprobe and depmod: which modules of an unpacked kernel are needed for what one asks for, in the order of loading.

Both work on a directory and never on the running kernel. Options: modprobe(8), depmod(8).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from whit.base.errors import CommandError, NotFound
from whit.tools import process

_INSMOD = re.compile(r"^insmod (\S+)", re.MULTILINE)


async def index(directory: Path, release: str) -> None:
    """Write modules.dep and its like below `directory`/lib/modules/`release`, as a package's script would."""
    await process.run(["depmod", "-b", str(directory), release])


async def closure(directory: Path, release: str, names: Sequence[str]) -> list[Path]:
    """The module files that `names` need, each after those it depends on. What is built in needs none.

    Raises:
        NotFound: the kernel has no such module, neither as a file nor built in.
    """
    found: dict[Path, None] = {}
    for name in names:
        try:
            shown = await process.run(["modprobe", "-d", str(directory), "-S", release, "--show-depends", name])
        except CommandError as error:
            raise NotFound(f"Linux {release} has no module {name}") from error
        found.update(dict.fromkeys(map(Path, _INSMOD.findall(shown.text))))
    return list(found)
