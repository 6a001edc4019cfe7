"""Compare: in what two images differ, by their bills: packages with their versions, files with their sizes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from whit.image.provenance.bill import Bill


@dataclass(frozen=True)
class Difference:
    """Each row is a name with what the old and the new image say of it; empty or None where it is not there."""

    packages: tuple[tuple[str, str, str], ...]
    files: tuple[tuple[str, int | None, int | None], ...]
    bytes: int

    def document(self) -> dict[str, Any]:
        packages = [{"name": name, "old": old or None, "new": new or None} for name, old, new in self.packages]
        files = [{"path": path, "old": old, "new": new} for path, old, new in self.files]
        return {"packages": packages, "files": files, "bytes": self.bytes}


def compare(old: Bill, new: Bill) -> Difference:
    before, after = ({one.package.id: one.package.version for one in bill.packages} for bill in (old, new))
    names = sorted(before.keys() | after.keys())
    packages = ((name, before.get(name, ""), after.get(name, "")) for name in names)
    sizes, others = ({file.path: file.size for file in bill.files if file.kind != "directory"} for bill in (old, new))
    paths = sorted(sizes.keys() | others.keys())
    files = ((path, sizes.get(path), others.get(path)) for path in paths)
    return Difference(
        tuple(row for row in packages if row[1] != row[2]),
        tuple(row for row in files if row[1] != row[2]),
        new.size - old.size,
    )
