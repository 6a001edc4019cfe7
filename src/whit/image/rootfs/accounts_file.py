"""Accounts file: who a user's name stands for in an image, by its own passwd(5) and group(5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import InputError


@dataclass(frozen=True)
class Identity:
    uid: int
    gid: int
    home: str = "/"

    @property
    def environment(self) -> dict[str, str]:
        return {"HOME": self.home}


def identity(passwd: Path, group: Path, text: str) -> Identity:
    """`NAME[:GROUP]` or numbers; empty is root. Raises InputError if the image has no such user."""
    return identity_of(_text(passwd), _text(group), text)


def identity_of(passwd: str, group: str, text: str) -> Identity:
    """The same, of what is in the two files."""
    name, _, wanted = text.partition(":")
    users = {row[0]: row for row in _rows(passwd) if len(row) >= 6}
    numbers = {row[2]: row for row in reversed(users.values())}
    row = users.get(name or "root") or numbers.get(name)
    if row is None and not (name or "0").isdigit():
        raise InputError(
            f"the image has no user {name}", hint="it is made by the package of the server, or use a number"
        )
    uid, gid, home = (int(row[2]), int(row[3]), row[5]) if row else (int(name or 0), 0, "/")
    if wanted:
        groups = {row[0]: int(row[2]) for row in _rows(group) if len(row) >= 3}
        if wanted not in groups and not wanted.isdigit():
            hint = "it is made by the package of the server, or use a number"
            raise InputError(f"the image has no group {wanted}", hint=hint, code="no-such-group")
        gid = groups.get(wanted, int(wanted) if wanted.isdigit() else 0)
    return Identity(uid, gid, home)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _rows(text: str) -> Iterator[list[str]]:
    yield from (line.split(":") for line in text.splitlines())
