"""Store: small versioned documents with transactions, watches and leases. SQLite and etcd offer the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_VALUE = 1 << 20
"""Bytes of one document."""
MAX_OPERATIONS = 100
"""Operations of one transaction."""


@dataclass(frozen=True)
class Document:
    """`revision` is the store's revision at which this key was last written."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True)
class Put:
    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True)
class Delete:
    key: str


@dataclass(frozen=True)
class Check:
    """Holds if the key was last written at `revision`; 0 means that it does not exist."""

    key: str
    revision: int


@dataclass(frozen=True)
class Change:
    """`document` is None for a deletion."""

    key: str
    document: Document | None
    revision: int


class Store(Protocol):
    async def get(self, key: str) -> Document | None: ...

    async def list(self, prefix: str) -> tuple[Sequence[Document], int]:
        """Documents below `prefix` in the order of their keys, and the revision at which they were read."""
        ...

    async def commit(self, checks: Sequence[Check], changes: Sequence[Put | Delete]) -> int:
        """All or nothing. Returns the new revision.

        Raises:
            Conflict: a check does not hold.
            InputError: a value or the number of operations is too large.
        """
        ...

    def watch(self, prefix: str, after: int) -> AsyncIterator[Change]:
        """Every change below `prefix` after that revision, in order, none left out, until closed.

        Raises:
            NotFound: changes after that revision are no longer kept; list, then watch anew.
        """
        ...

    async def grant(self, seconds: float) -> int:
        """A lease: documents put under it are deleted when it is not renewed in time."""
        ...

    async def renew(self, lease: int) -> None:
        """Raises NotFound if it has run out."""
        ...

    async def revoke(self, lease: int) -> None: ...

    async def close(self) -> None: ...
