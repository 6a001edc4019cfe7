"""The embedded store: SQLite in WAL mode. One machine needs no server.

All statements run in one thread of their own, so that the event loop never waits for the disk and there is one writer.
A log of changes feeds the watches; it is cut once it is long, and a watch from before the cut is told so. The file
itself is the business of database.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from whit.base.errors import Conflict, InputError, NotFound, Permanent
from whit.cluster.database import connect, explained, transaction
from whit.model.store import MAX_OPERATIONS, MAX_VALUE, Change, Check, Delete, Document, Put

T = TypeVar("T")

KEPT_CHANGES = 10_000
"""Revisions that a watch can go back."""
PAGE = 100
"""Changes that a watch reads at once: with values of 1 MB, no more than 100 MB."""
POLL_SECONDS = 0.5
"""How soon a watch sees a commit of another process, and the end of a lease; those of this process it sees at once."""

_LAST = chr(0x10FFFF)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Position = tuple[int, str]
"""The revision and key of the last change that a watch has seen."""


class SqliteStore:
    """A Store in one file. Make it with `open`."""

    def __init__(self, path: Path, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._path = path
        self._connection = connection
        self._thread = thread
        self._boot = _BOOT_ID.read_text().strip()
        self._committed = asyncio.Event()
        self._closed = False

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open the file, or make it.

        Raises:
            Permanent: it cannot be opened, is no database, is damaged, or a newer release wrote it.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        try:
            return cls(path, await asyncio.get_running_loop().run_in_executor(thread, connect, path), thread)
        except BaseException:
            thread.shutdown(wait=False)
            raise

    async def close(self) -> None:
        """Ends the watches too."""
        if self._closed:
            return
        self._closed = True
        self._tell()
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        finally:
            self._thread.shutdown(wait=False)

    async def get(self, key: str) -> Document | None:
        return await self._run(partial(self._get, key))

    async def list(self, prefix: str) -> tuple[Sequence[Document], int]:
        return await self._run(partial(self._list, prefix))

    async def commit(self, checks: Sequence[Check], changes: Sequence[Put | Delete]) -> int:
        _refuse(checks, changes)
        revision = await self._run(partial(self._commit, checks, changes))
        self._tell()
        return revision

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Change]:
        """Raises NotFound if changes after that revision have been cut off: list again."""
        position: Position = (after, _LAST)
        while not self._closed:
            committed = self._committed
            changes, position = await self._run(partial(self._changes, prefix, position))
            for change in changes:
                yield change
            if len(changes) < PAGE:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(committed.wait(), POLL_SECONDS)

    async def grant(self, seconds: float) -> int:
        if not seconds > 0:
            raise InputError(f"a lease of {seconds} s", hint="it has to last")
        return await self._run(partial(self._grant, seconds))

    async def renew(self, lease: int) -> None:
        await self._run(partial(self._renew, lease))

    async def revoke(self, lease: int) -> None:
        await self._run(partial(self._revoke, lease))
        self._tell()

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise Permanent("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(self._explained, work))

    def _tell(self) -> None:
        self._committed.set()
        self._committed = asyncio.Event()

    # ---- what follows runs in the store's thread ----

    def _explained(self, work: Callable[[], T]) -> T:
        with explained(self._path):
            return work()

    def _get(self, key: str) -> Document | None:
        self._expire()
        row = self._connection.execute("SELECT key, value, revision FROM documents WHERE key = ?", (key,)).fetchone()
        return Document(*row) if row else None

    def _list(self, prefix: str) -> tuple[Sequence[Document], int]:
        self._expire()
        with transaction(self._connection, "DEFERRED"):
            rows = self._connection.execute(
                "SELECT key, value, revision FROM documents WHERE key >= ? AND key < ? ORDER BY key",
                (prefix, prefix + _LAST),
            ).fetchall()
            return [Document(*row) for row in rows], self._revision()

    def _commit(self, checks: Sequence[Check], changes: Sequence[Put | Delete]) -> int:
        self._expire()
        with transaction(self._connection, "IMMEDIATE"):
            for check in checks:
                self._verify(check)
            revision = self._revision()
            if changes:
                revision += 1
                for change in changes:
                    self._apply(change, revision)
                self._advance(revision)
        return revision

    def _verify(self, check: Check) -> None:
        row = self._connection.execute("SELECT revision FROM documents WHERE key = ?", (check.key,)).fetchone()
        found = row[0] if row else 0
        if found != check.revision:
            raise Conflict(f"{check.key} is at revision {found}, not {check.revision}", hint="read it again and retry")

    def _apply(self, change: Put | Delete, revision: int) -> None:
        value: bytes | None = None
        if isinstance(change, Put):
            value = change.value
            if change.lease and not self._lives(change.lease):
                raise _run_out(change.lease)
            self._connection.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)", (change.key, value, revision, change.lease)
            )
        elif not self._connection.execute("DELETE FROM documents WHERE key = ?", (change.key,)).rowcount:
            return
        self._connection.execute("INSERT INTO changes VALUES (?, ?, ?)", (revision, change.key, value))

    def _advance(self, revision: int) -> None:
        cut = max(0, revision - KEPT_CHANGES)
        self._connection.execute("UPDATE state SET revision = ?, cut = ?", (revision, cut))
        self._connection.execute("DELETE FROM changes WHERE revision <= ?", (cut,))

    def _changes(self, prefix: str, seen: Position) -> tuple[Sequence[Change], Position]:
        """The next changes, at most PAGE, and how far has been seen.

        That is up to the present, also where nothing changed below `prefix`: else a quiet watch would fall behind the
        cut.
        """
        self._expire()
        with transaction(self._connection, "DEFERRED"):
            revision, (cut,) = self._revision(), self._connection.execute("SELECT cut FROM state").fetchone()
            if (seen[0] if seen[1] == _LAST else seen[0] - 1) < cut:
                raise NotFound(f"the changes after revision {seen[0]} are no longer kept", hint="list, then watch anew")
            rows = self._connection.execute(
                "SELECT revision, key, value FROM changes "
                "WHERE (revision, key) > (?, ?) AND key >= ? AND key < ? ORDER BY revision, key LIMIT ?",
                (*seen, prefix, prefix + _LAST, PAGE),
            ).fetchall()
        found = [Change(key, None if value is None else Document(key, value, at), at) for at, key, value in rows]
        if len(found) == PAGE:
            return found, (found[-1].revision, found[-1].key)
        return found, max(seen, (revision, _LAST))

    def _revision(self) -> int:
        (revision,) = self._connection.execute("SELECT revision FROM state").fetchone()
        return int(revision)

    # ---- leases ----
    #
    # They end by the clock that runs from boot, suspended or not: setting the time ends none, and they run out while
    # no agent lives. Their holders are processes of this machine, so a lease from before the last boot has run out.

    def _grant(self, seconds: float) -> int:
        with transaction(self._connection, "IMMEDIATE"):
            row = (seconds, _now() + seconds, self._boot)
            cursor = self._connection.execute("INSERT INTO leases (seconds, ends, boot) VALUES (?, ?, ?)", row)
        return int(cursor.lastrowid or 0)

    def _renew(self, lease: int) -> None:
        self._expire()
        with transaction(self._connection, "IMMEDIATE"):
            if not self._lives(lease):
                raise _run_out(lease)
            self._connection.execute("UPDATE leases SET ends = ? + seconds WHERE id = ?", (_now(), lease))

    def _lives(self, lease: int) -> bool:
        sql = "SELECT 1 FROM leases WHERE id = ? AND boot = ? AND ends > ?"
        return self._connection.execute(sql, (lease, self._boot, _now())).fetchone() is not None

    def _ended(self) -> Sequence[int]:
        rows = self._connection.execute("SELECT id FROM leases WHERE boot != ? OR ends <= ?", (self._boot, _now()))
        return [lease for (lease,) in rows]

    def _expire(self) -> None:
        if self._ended():
            with transaction(self._connection, "IMMEDIATE"):
                # Asked again: another process may have renewed one before the lock was taken.
                self._drop(self._ended())

    def _revoke(self, lease: int) -> None:
        with transaction(self._connection, "IMMEDIATE"):
            self._drop([lease])

    def _drop(self, leases: Sequence[int]) -> None:
        """Within a transaction: the leases, and in one revision what was put under them."""
        keys: list[str] = []
        for lease in leases:
            rows = self._connection.execute("SELECT key FROM documents WHERE lease = ?", (lease,))
            keys += [key for (key,) in rows]
            self._connection.execute("DELETE FROM leases WHERE id = ?", (lease,))
        if keys:
            revision = self._revision() + 1
            for key in keys:
                self._apply(Delete(key), revision)
            self._advance(revision)


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _run_out(lease: int) -> NotFound:
    return NotFound(f"lease {lease} has run out", hint="ask for another, and put its documents again")


def _refuse(checks: Sequence[Check], changes: Sequence[Put | Delete]) -> None:
    """Raises InputError for what no store takes."""
    if len(checks) + len(changes) > MAX_OPERATIONS:
        raise InputError(f"a transaction of {len(checks) + len(changes)} operations; {MAX_OPERATIONS} are allowed")
    keys: set[str] = set()
    for change in changes:
        if not change.key.startswith("/"):
            raise InputError(f"{change.key!r} is no key", hint="keys begin with /v1/")
        if change.key in keys:
            raise InputError(f"{change.key} is changed twice in one transaction", hint="keep the last")
        keys.add(change.key)
        if isinstance(change, Put) and len(change.value) >= MAX_VALUE:
            raise InputError(f"{change.key} has {len(change.value)} bytes; less than {MAX_VALUE} are allowed")
