"""Who an instance runs as: `user[:group]` looked up in the passwd and group files of its own root file system.

The file system belongs to the app, which may have put links there that point out of it: files are opened one path
component at a time and links are followed inside only.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import InputError, Place

FILE_LIMIT = 1 << 20
"""Bytes read of a passwd or group file."""
LINK_LIMIT = 40
"""Symbolic links followed in one path, as in the kernel."""
LARGEST_ID = (1 << 32) - 2


@dataclass(frozen=True)
class Owner:
    """Numbers for the kernel. `home` is where the passwd file says, or `/`."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/root"


@dataclass(frozen=True)
class Account:
    """A line of passwd(5)."""

    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True)
class Group:
    """A line of group(5)."""

    name: str
    gid: int
    members: tuple[str, ...]


def find(user: str, rootfs: Path, service: str) -> Owner:
    """The owner that `user` (`name`, `1000`, `name:group`, `1000:1000` or empty for root) means in this root.

    Raises:
        InputError: the root file system knows no such user or group; names the service.
    """
    return resolve(user, read_below(rootfs, "etc/passwd"), read_below(rootfs, "etc/group"), service)


def resolve(user: str, passwd: str, group: str, service: str) -> Owner:
    """As `find`, from the text of the two files. An unknown number is fine, an unknown name is not."""
    wanted_user, _, wanted_group = user.partition(":")
    accounts, groups = accounts_of(passwd), groups_of(group)
    account = _account(wanted_user or "0", accounts, service)
    # The main group is among the others too, as after a login: otherwise a process could drop it, and pass a file mode
    # that denies the group what it allows everybody.
    if wanted_group:
        gid = _gid(wanted_group, groups, service)
        return Owner(account.uid, gid, (gid,), account.home)
    more = sorted({entry.gid for entry in groups if account.name in entry.members} - {account.gid})
    return Owner(account.uid, account.gid, (account.gid, *more), account.home)


def accounts_of(passwd: str) -> list[Account]:
    """The well-formed lines."""
    rows = (line.split(":") for line in passwd.splitlines())
    return [
        Account(row[0], int(row[2]), int(row[3]), row[5] or "/")
        for row in rows
        if len(row) >= 6 and _is_id(row[2]) and _is_id(row[3])
    ]


def groups_of(group: str) -> list[Group]:
    """The well-formed lines."""
    rows = (line.split(":") for line in group.splitlines())
    return [
        Group(row[0], int(row[2]), tuple(name for name in row[3].strip().split(",") if name))
        for row in rows
        if len(row) >= 4 and _is_id(row[2])
    ]


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= LARGEST_ID


def _account(wanted: str, accounts: list[Account], service: str) -> Account:
    """By name first, then by number, as Docker does."""
    named = [account for account in accounts if account.name == wanted]
    if not named and _is_id(wanted):
        named = [account for account in accounts if account.uid == int(wanted)]
        # No name: nobody's list of members has it.
        return named[0] if named else Account("", int(wanted), 0, "/root" if wanted == "0" else "/")
    if not named:
        raise _unknown("user", wanted, [account.name for account in accounts], service)
    return named[0]


def _gid(wanted: str, groups: list[Group], service: str) -> int:
    named = [entry.gid for entry in groups if entry.name == wanted]
    if named:
        return named[0]
    if _is_id(wanted):
        return int(wanted)
    raise _unknown("group", wanted, [entry.name for entry in groups], service)


def _unknown(kind: str, wanted: str, known: list[str], service: str) -> InputError:
    some = ", ".join(known[:12]) or "none"
    return InputError(
        f"the image knows no {kind} {wanted!r}",
        place=Place(key=f"services.{service}.user"),
        hint=f"give a number, or one of: {some}",
    )


def read_below(rootfs: Path, path: str, limit: int = FILE_LIMIT) -> str:
    """The text of a regular file below `rootfs`, at most `limit` bytes; empty if there is none."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(opened_below(rootfs, path))
        except (FileNotFoundError, NotADirectoryError):
            return ""
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return ""
        # Only now is it opened for reading: opening a device or a FIFO of the app would already be an act.
        with Path(f"/proc/self/fd/{found}").open("rb") as file:
            return file.read(limit).decode(errors="replace")


@contextlib.contextmanager
def opened_below(rootfs: Path, path: str) -> Iterator[int]:
    """An O_PATH descriptor of `path` as a process with the root `rootfs` would find it: no link leads out of it.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such path.
        InputError: too many links.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    # The directories from the root down to where we are: `..` goes back along them, never by the kernel's `..`.
    trail = [os.open(rootfs, flags | os.O_DIRECTORY)]
    waiting = list(reversed(Path(path).parts))
    links = 0
    try:
        while waiting:
            part = waiting.pop()
            if part == "/":
                _close(trail[1:])
                del trail[1:]
            elif part == "..":
                _close(trail[max(1, len(trail) - 1) :])
                del trail[max(1, len(trail) - 1) :]
            else:
                entry = os.open(part, flags, dir_fd=trail[-1])
                trail.append(entry)
                if stat.S_ISLNK(os.fstat(entry).st_mode):
                    links += 1
                    if links > LINK_LIMIT:
                        raise InputError(f"{path} in the image goes through more than {LINK_LIMIT} links")
                    waiting.extend(reversed(Path(os.readlink("", dir_fd=entry)).parts))
                    os.close(trail.pop())
        yield trail[-1]
    finally:
        _close(trail)


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
