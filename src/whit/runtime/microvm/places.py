"""Where the mounts of a virtual machine land. They are made in the container that QEMU runs in, below one directory:
links are followed here beforehand, as the instance would, or they would lead into that container.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from whit.base.errors import InputError

_MOST_STEPS = 400
_EMPTY = Path("/dev/null")
"""Nothing lies below it."""


def placed(root: Path, mounts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The mounts where they are in the instance, also where links of its image or of its volumes lead there.

    Raises:
        InputError: the links lead in a circle.
    """
    found: list[dict[str, Any]] = []
    for mount in mounts:
        found.append({**mount, "destination": _without_links(root, mount["destination"], found)})
    return found


def _without_links(root: Path, place: str, mounts: Sequence[Mapping[str, Any]]) -> str:
    """Where `place` is once all links on the way are followed, inside of `root` and of what is mounted there already;
    what is not there stays as it is."""
    left, done = place.strip("/").split("/")[::-1], list[str]()
    for _ in range(_MOST_STEPS):
        if not left:
            return "/" + "/".join(done)
        name = left.pop()
        if name == "..":
            done = done[:-1]
        elif name not in ("", "."):
            here = _seen_from_outside(root, PurePosixPath("/", *done, name), mounts)
            if here.is_symlink():
                target = str(here.readlink())
                done = [] if target.startswith("/") else done
                left += target.split("/")[::-1]
            else:
                done.append(name)
    raise InputError(f"{place} leads through too many links", hint="choose another place for the mount")


def _seen_from_outside(root: Path, place: PurePosixPath, mounts: Sequence[Mapping[str, Any]]) -> Path:
    """The file that the instance sees there. The last mount hides those before it."""
    for mount in reversed(mounts):
        if place.is_relative_to(mount["destination"]):
            base = Path(mount["source"]).resolve() if mount["type"] == "bind" else _EMPTY
            return base / place.relative_to(mount["destination"])
    return root / place.relative_to("/")
