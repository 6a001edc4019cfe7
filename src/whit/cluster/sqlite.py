"""The embedded store: SQLite in WAL mode. One machine needs no server.

All statements run in one thread of their own, so that the event loop never waits for the disk and there is one writer.
A log of changes feeds the watches; it is cut once it is long, and a watch from before the cut is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from whit.base.errors import Conflict, InputError, NotFound, Permanent
from whit.model.store import MAX_OPERATIONS, MAX_VALUE, Change, Check, Delete, Document, Put

T = TypeVar("T")

SCHEMA_VERSION = 1
KEPT_CHANGES = 10_000
POLL_SECONDS = 0.5
"""How soon a commit of another process is seen; those of this process are seen at once."""

_SCHEMA = """
CREATE TABLE documents (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX documents_by_lease ON documents (lease) WHERE lease != 0;
CREATE TABLE changes (
    revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB, PRIMARY KEY (revision, key)
) WITHOUT ROWID;
CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, seconds REAL NOT NULL, ends REAL NOT NULL);
CREATE TABLE state (only INTEGER PRIMARY KEY CHECK (only = 0), revision INTEGER NOT NULL, cut INTEGER NOT NULL);
INSERT INTO state VALUES (0, 0, 0);
"""


class SqliteStore:
    """A Store in one file. Make it with `open`."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread
        self._committed = asyncio.Event()

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open the file, or make it.

        Raises:
            Permanent: it is no database, is damaged, or a newer release wrote it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, path)
        except BaseException:
            thread.shutdown()
            raise
        return cls(connection, thread)

    async def close(self) -> None:
        await self._run(self._connection.close)
        self._thread.shutdown()

    async def get(self, key: str) -> Document | None:
        return await self._run(lambda: self._get(key))

    async def list(self, prefix: str) -> tuple[Sequence[Document], int]:
        return await self._run(lambda: self._list(prefix))

    async def commit(self, checks: Sequence[Check], changes: Sequence[Put | Delete]) -> int:
        _refuse_too_large(checks, changes)
        revision = await self._run(lambda: self._commit(checks, changes))
        self._tell()
        return revision

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Change]:
        """Raises NotFound if changes after that revision have been cut off: list again."""
        while True:
            committed = self._committed
            for change in await self._run(lambda revision=after: self._changes(prefix, revision)):  # type: ignore[misc]
                after = change.revision
                yield change
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(committed.wait(), POLL_SECONDS)

    async def grant(self, seconds: float) -> int:
        return await self._run(lambda: self._grant(seconds))

    async def renew(self, lease: int) -> None:
        await self._run(lambda: self._renew(lease))

    async def revoke(self, lease: int) -> None:
        await self._run(lambda: self._revoke([lease]))
        self._tell()

    # ---- in the store's thread ----

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _tell(self) -> None:
        self._committed.set()
        self._committed = asyncio.Event()

    def _get(self, key: str) -> Document | None:
        self._expire()
        row = self._connection.execute("SELECT key, value, revision FROM documents WHERE key = ?", (key,)).fetchone()
        return Document(*row) if row else None

    def _list(self, prefix: str) -> tuple[Sequence[Document], int]:
        self._expire()
        with self._transaction("DEFERRED"):
            rows = self._connection.execute(
                "SELECT key, value, revision FROM documents WHERE key >= ? AND substr(key, 1, ?) = ? ORDER BY key",
                (prefix, len(prefix), prefix),
            ).fetchall()
            return [Document(*row) for row in rows], self._revision()

    def _commit(self, checks: Sequence[Check], changes: Sequence[Put | Delete]) -> int:
        self._expire()
        with self._transaction("IMMEDIATE"):
            for check in checks:
                self._verify(check)
            revision = self._revision() + 1
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
            if change.lease and not self._lease_lives(change.lease):
                raise NotFound(f"lease {change.lease} has run out")
            self._connection.execute(
                "INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?)", (change.key, value, revision, change.lease)
            )
        else:
            self._connection.execute("DELETE FROM documents WHERE key = ?", (change.key,))
        self._connection.execute("INSERT OR REPLACE INTO changes VALUES (?, ?, ?)", (revision, change.key, value))

    def _advance(self, revision: int) -> None:
        cut = max(0, revision - KEPT_CHANGES)
        self._connection.execute("UPDATE state SET revision = ?, cut = ?", (revision, cut))
        self._connection.execute("DELETE FROM changes WHERE revision <= ?", (cut,))

    def _changes(self, prefix: str, after: int) -> Sequence[Change]:
        self._expire()
        with self._transaction("DEFERRED"):
            (cut,) = self._connection.execute("SELECT cut FROM state").fetchone()
            if after < cut:
                raise NotFound(f"the changes after revision {after} are no longer kept", hint="list, then watch anew")
            rows = self._connection.execute(
                "SELECT revision, key, value FROM changes WHERE revision > ? AND substr(key, 1, ?) = ? "
                "ORDER BY revision, key",
                (after, len(prefix), prefix),
            ).fetchall()
        return [
            Change(key, None if value is None else Document(key, value, revision), revision)
            for revision, key, value in rows
        ]

    def _grant(self, seconds: float) -> int:
        with self._transaction("IMMEDIATE"):
            cursor = self._connection.execute(
                "INSERT INTO leases (seconds, ends) VALUES (?, ?)", (seconds, time.time() + seconds)
            )
        return int(cursor.lastrowid or 0)

    def _renew(self, lease: int) -> None:
        self._expire()
        with self._transaction("IMMEDIATE"):
            cursor = self._connection.execute("UPDATE leases SET ends = ? + seconds WHERE id = ?", (time.time(), lease))
        if cursor.rowcount == 0:
            raise NotFound(f"lease {lease} has run out")

    def _lease_lives(self, lease: int) -> bool:
        return self._connection.execute("SELECT 1 FROM leases WHERE id = ?", (lease,)).fetchone() is not None

    def _expire(self) -> None:
        """Wall-clock time, because a lease must also run out while no agent lives."""
        rows = self._connection.execute("SELECT id FROM leases WHERE ends < ?", (time.time(),)).fetchall()
        if rows:
            self._revoke([lease for (lease,) in rows])

    def _revoke(self, leases: Sequence[int]) -> None:
        with self._transaction("IMMEDIATE"):
            revision = self._revision() + 1
            for lease in leases:
                self._connection.execute("DELETE FROM leases WHERE id = ?", (lease,))
                rows = self._connection.execute("SELECT key FROM documents WHERE lease = ?", (lease,)).fetchall()
                for (key,) in rows:
                    self._apply(Delete(key), revision)
            self._advance(revision)

    def _revision(self) -> int:
        (revision,) = self._connection.execute("SELECT revision FROM state").fetchone()
        return int(revision)

    @contextlib.contextmanager
    def _transaction(self, kind: str) -> Iterator[None]:
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")


def _refuse_too_large(checks: Sequence[Check], changes: Sequence[Put | Delete]) -> None:
    if len(checks) + len(changes) > MAX_OPERATIONS:
        raise InputError(f"a transaction of {len(checks) + len(changes)} operations; {MAX_OPERATIONS} are allowed")
    for change in changes:
        if isinstance(change, Put) and len(change.value) >= MAX_VALUE:
            raise InputError(f"{change.key} has {len(change.value)} bytes; less than {MAX_VALUE} are allowed")


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=10, check_same_thread=False)
    try:
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode = WAL")
        # A commit that was answered must survive a loss of power.
        connection.execute("PRAGMA synchronous = FULL")
        _prepare(connection, path)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise Permanent(
            f"{path} cannot be read: {error}",
            hint="restore it from a backup, or move it away to start without apps; images and volumes stay",
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise Permanent(
            f"{path} was written by a newer release (schema {version}, this one knows {SCHEMA_VERSION})",
            hint="run the newer release",
        )
    if version == 0:
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
