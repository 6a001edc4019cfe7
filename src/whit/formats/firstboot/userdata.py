"""User-data of a first boot: cloud-config in the CoreOS subset, as cloud-init's NoCloud has it, or Ignition v3.

Which it is, its beginning says. What a machine has no place for, as users and systemd units, is refused by name.
"""

from __future__ import annotations

from pathlib import Path

from whit.base.errors import Place
from whit.formats.firstboot import cloud_config, ignition
from whit.formats.firstboot.values import mistake
from whit.model.first_boot import FirstBootSpec

CLOUD_CONFIG = "#cloud-config"


def load_first_boot(path: Path) -> FirstBootSpec:
    """What a file says.

    Raises:
        InputError: there is no such file, or nobody knows what it is.
        InvalidApp: its content is wrong; all that is.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise mistake("unreadable", f"cannot be read: {error}", Place(str(path)), "name a file") from error
    if text.startswith(CLOUD_CONFIG):
        return cloud_config.read(text, str(path))
    if text.lstrip().startswith("{"):
        return ignition.read(text, str(path))
    if text.startswith("#!"):
        hint = "write the files that it would write as write_files"
        raise mistake("script", "is a script: a machine has no shell to run it", Place(str(path), 1, 1), hint)
    hint = f"begin with {CLOUD_CONFIG}, or write an Ignition config (JSON)"
    raise mistake("kind", "is neither a cloud-config nor an Ignition config", Place(str(path), 1, 1), hint)
