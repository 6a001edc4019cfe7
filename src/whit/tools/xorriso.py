"""xorriso: an ISO image that UEFI boots, from an optical drive by El Torito and from a stick by its GPT.

Options: xorrisofs(1); what is reproducible: its section on SOURCE_DATE_EPOCH.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from whit.tools import process

_ESP = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
_LABEL_LIMIT = 32


async def write(image: Path, files: Path, esp: Path, *, label: str, identity: UUID, epoch: int) -> None:
    """Write an image with the files of a directory, and `esp`, a FAT file system, as what is booted.

    Raises:
        Unavailable: it is not installed.
    """
    argv = ["xorriso", "-as", "mkisofs", "-quiet", "-o", str(image), "-V", label.upper()[:_LABEL_LIMIT]]
    time = max(epoch, 1)  # zero would be taken for none
    argv += ["-R", "-uid", "0", "-gid", "0", "--set_all_file_dates", f"={time}", "--gpt_disk_guid", str(identity)]
    argv += ["-append_partition", "2", _ESP, str(esp), "-appended_part_as_gpt"]
    argv += ["-e", "--interval:appended_partition_2:all::", "-no-emul-boot", str(files)]
    await process.run(argv, env={"SOURCE_DATE_EPOCH": str(time), "TZ": "UTC"}, timeout=300)
