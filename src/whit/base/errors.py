"""Every error that Whit raises on purpose.

WhitError
├── InputError            what the person gave is wrong; names file, line and key
│   ├── UnknownKey        a key that nobody knows, or that is not honoured
│   ├── Unsatisfied       a need that no part meets; names the chain that led to it
│   ├── DigestMismatch    a content is not what its digest says
│   ├── HostileArchive    an archive that would write outside of its place, or cannot be read
│   ├── CheckFailed       an image did not pass its own checks
│   ├── NotLocked         the lock file does not have it, or it would have to be fetched
│   ├── BadKey            a key that cannot be used to sign or to verify
│   └── WrongPassword     the password does not open the private key
├── Untrusted             it may not be run: no signature vouches for it
│   ├── NotSigned         there is no signature at all
│   ├── WrongKey          signed, but by none of the keys that are asked for
│   └── ForeignSignature  signed by the right key, but something else
├── NotFound              the thing named does not exist
├── Conflict              it clashes with something that exists
├── Unavailable           this machine lacks a feature; the hint says what to do
├── Unreachable           the agent does not answer
├── TimedOut              it did not happen in time
├── Temporary             try again after `after` seconds
└── Permanent             trying again will not help
    ├── CommandError      an external program failed
    └── SystemCallError   the kernel refused
        ├── DiskFull      there is no space left
        └── MapFull       a map of the datapath has no room for more entries
"""

from __future__ import annotations

import errno as errno_names
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass


class WhitError(Exception):
    """Says what failed, on what, and what to do next. `code` is part of the API, `exit_code` of the CLI.

    A class has a code; a mistake of its own kind has a code of its own.
    """

    code = "error"
    exit_code = 1
    remedy = ""
    """The hint of those that are raised without one."""

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message)
        self.code = code or self.code
        self.message = message
        self.hint = hint or self.remedy

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


@dataclass(frozen=True)
class Place:
    """Where in the person's input: a file, a line and column counted from 1, and the path of the key."""

    file: str = ""
    line: int = 0
    column: int = 0
    key: str = ""

    def __str__(self) -> str:
        position = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        return ": ".join(part for part in (position, self.key) if part)


class InputError(WhitError):
    code = "input"
    exit_code = 2

    def __init__(self, message: str, *, place: Place | None = None, hint: str = "", code: str = "") -> None:
        self.place = place or Place()
        super().__init__(f"{self.place}: {message}" if str(self.place) else message, hint=hint, code=code)


class UnknownKey(InputError):
    code = "unknown-key"


class Unsatisfied(InputError):
    code = "unsatisfied-need"


class DigestMismatch(InputError):
    code = "digest-mismatch"


class HostileArchive(InputError):
    code = "hostile-archive"
    remedy = "get it anew from whoever made it, or do without it"


class CheckFailed(InputError):
    code = "check-failed"


class NotLocked(InputError):
    code = "not-locked"


class BadKey(InputError):
    code = "bad-key"


class WrongPassword(InputError):
    code = "wrong-password"


class Untrusted(WhitError):
    code = "untrusted"
    exit_code = 8


class NotSigned(Untrusted):
    code = "not-signed"


class WrongKey(Untrusted):
    code = "wrong-key"


class ForeignSignature(Untrusted):
    code = "foreign-signature"


class NotFound(WhitError):
    code = "not-found"
    exit_code = 3


class Conflict(WhitError):
    code = "conflict"
    exit_code = 4


class Unavailable(WhitError):
    code = "unavailable"
    exit_code = 5


class Unreachable(WhitError):
    code = "unreachable"
    exit_code = 6


class TimedOut(WhitError):
    code = "timed-out"
    exit_code = 7


class Temporary(WhitError):
    code = "temporary"

    def __init__(self, message: str, *, after: float = 1.0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.after = after


class Permanent(WhitError):
    code = "permanent"


class CommandError(Permanent):
    """`argv` can be pasted into a shell to see the same failure."""

    code = "command"

    def __init__(self, argv: Sequence[str], returncode: int, stderr: str, *, hint: str = "") -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stderr = stderr.strip()
        tail = "\n".join(self.stderr.splitlines()[-8:]) or "(it printed nothing)"
        super().__init__(f"{argv[0]} ended with {returncode}: {tail}\n  command: {shlex.join(argv)}", hint=hint)


class SystemCallError(Permanent):
    code = "system-call"

    def __init__(self, call: str, number: int, path: str = "", *, hint: str = "") -> None:
        self.call = call
        self.errno = number
        self.path = path
        name = errno_names.errorcode.get(number, str(number))
        where = f" {path}" if path else ""
        super().__init__(f"{call}{where}: {name} ({os.strerror(number)})", hint=hint)


class DiskFull(SystemCallError):
    code = "disk-full"

    def __init__(self, call: str, path: str = "", *, hint: str = "free some space: whit image gc") -> None:
        super().__init__(call, errno_names.ENOSPC, path, hint=hint)


class MapFull(SystemCallError):
    code = "map-full"

    def __init__(self, call: str, number: int, name: str, entries: int) -> None:
        remedy = "more need WHIT_MAP_ENTRIES, and `whit doctor --clean` when nothing runs"
        super().__init__(call, number, f"map {name}", hint=f"the map has room for {entries} entries; {remedy}")


def system_failure(call: str, error: OSError) -> SystemCallError:
    """The error that stands for an OSError; a full disk has its own."""
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno in (errno_names.ENOSPC, errno_names.EDQUOT):
        return DiskFull(call, path)
    return SystemCallError(call, error.errno or 0, path)


def report_of(error: WhitError) -> dict[str, str]:
    """For another process to raise it again: the code of its class, and its own."""
    path = getattr(error, "path", "")
    report = {"kind": type(error).code, "code": error.code, "message": error.message, "hint": error.hint}
    return report | ({"path": str(path)} if path else {})
