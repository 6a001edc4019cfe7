"""Database: the file of the embedded store. Opens it, checks it, brings it to this release's schema.

Owns what SQLite's errors mean to a person. What is kept in the tables is the business of sqlite.py.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from whit.base.errors import Permanent, Temporary, WhitError

BUSY_SECONDS = 10
"""How long a writer waits for one of another process."""

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE documents (
            key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, lease INTEGER NOT NULL DEFAULT 0
        ) WITHOUT ROWID""",
        "CREATE INDEX documents_by_lease ON documents (lease) WHERE lease != 0",
        """CREATE TABLE changes (
            revision INTEGER NOT NULL, key TEXT NOT NULL, value BLOB, PRIMARY KEY (revision, key)
        ) WITHOUT ROWID""",
        "CREATE TABLE leases (id INTEGER PRIMARY KEY AUTOINCREMENT, seconds REAL NOT NULL, ends REAL NOT NULL)",
        """CREATE TABLE state (
            only INTEGER PRIMARY KEY CHECK (only = 0), revision INTEGER NOT NULL, cut INTEGER NOT NULL
        )""",
        "INSERT INTO state VALUES (0, 0, 0)",
    ),
    # `ends` counts from the boot named here; a lease without one is from another boot, and has run out.
    ("ALTER TABLE leases ADD COLUMN boot TEXT NOT NULL DEFAULT ''",),
)
"""Append only: a file's schema is the number of these that were applied to it."""
SCHEMA = len(_MIGRATIONS)

_RESTORE = "restore it from a backup, or move it away to start without apps; images and volumes stay"
_CHECK = "see that the directory can be written, and that the disk is well"


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, or make it, readable by its owner alone.

    Raises:
        Permanent: it cannot be opened, is no database, is damaged, or a newer release wrote it.
        Temporary: another process holds it.
    """
    with explained(path):
        _create(path)
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_SECONDS, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # A commit that was answered must survive a loss of power.
            connection.execute("PRAGMA synchronous = FULL")
            _check(connection, path)
            _migrate(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    """`kind` is DEFERRED to read one state of the file, IMMEDIATE to write."""
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk ends the transaction by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raises errors of SQLite and of the file system as Whit's."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explanation(error, path) from error
    except OSError as error:
        raise Permanent(f"{path} cannot be opened: {error.strerror}", hint=_CHECK) from error


def _explanation(error: sqlite3.Error, path: Path) -> WhitError:
    """By primary result code (sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return Temporary(f"{path} is held by another process for more than {BUSY_SECONDS} s")
    if code == sqlite3.SQLITE_FULL:
        return Permanent(f"{path} cannot grow: {error}", hint="make room on its disk")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return Permanent(f"{path} is damaged: {error}", hint=_RESTORE)
    return Permanent(f"{path} cannot be used: {error}", hint=_CHECK)


def _create(path: Path) -> None:
    """With its mode from the first moment. SQLite gives the same mode to the files beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.chmod(0o600)
    else:
        path.touch(0o600)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Reads every page, some 10 ms for 10 MB: better now than in the middle of a change."""
    (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise Permanent(f"{path} is damaged: {result}", hint=_RESTORE)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    # The lock is taken first: of two processes that make the file, one finds it made.
    with transaction(connection, "IMMEDIATE"):
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if schema > SCHEMA:
            raise Permanent(
                f"{path} was written by a newer release (schema {schema}, this one knows {SCHEMA})",
                hint="run the newer release, or restore the file as it was before it",
            )
        for statement in (statement for step in _MIGRATIONS[schema:] for statement in step):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
