"""Nouns in the store: one document each at /v1/<kind>/<app>/<name>, as JSON with the version of its form.

A document of the next release is read by this one: fields that this release does not know, at any depth, are passed
over when it is read, and kept when it is written again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from whit.base.errors import Conflict, InputError, Permanent
from whit.model.store import Check, Delete, Document, Put, Store

N = TypeVar("N", bound=BaseModel)

FORM = 1
"""Of documents; raised when an older release could not read them any more."""
ATTEMPTS = 10
"""How often a write is tried while others write the same document."""


def key_of(kind: str, app: str = "", name: str = "") -> str:
    """Raises InputError if a part would change the key's depth."""
    parts = [kind, *((app, name) if name else (app,) if app else ())]
    for part in parts:
        if not part or "/" in part:
            raise InputError(f"{part!r} cannot be part of a document's key")
    return "/".join(["", "v1", *parts])


class Documents:
    """Typed access to a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def get(self, noun: type[N], kind: str, app: str = "", name: str = "") -> N | None:
        """Raises Permanent if what is stored cannot be read as this noun."""
        document = await self.store.get(key_of(kind, app, name))
        return None if document is None else _decode(noun, document)

    async def put(self, value: BaseModel, kind: str, app: str = "", name: str = "") -> int:
        """Write it whatever is there, but for fields that this release does not know. Returns the revision.

        Raises:
            Permanent: what is there cannot be read, so nobody knows what would be lost.
            Conflict: others write it all the time.
        """
        key = key_of(kind, app, name)
        for attempt in range(1, ATTEMPTS + 1):
            there = await self.store.get(key)
            checks = [Check(key, there.revision if there else 0)]
            try:
                return await self.store.commit(checks, [Put(key, _encode(value, there))])
            except Conflict:
                if attempt == ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def delete(self, kind: str, app: str = "", name: str = "") -> None:
        await self.store.commit([], [Delete(key_of(kind, app, name))])

    async def list(self, noun: type[N], kind: str, app: str = "") -> Sequence[N]:
        """All of a kind, or those of one app, in the order of their keys. Raises Permanent."""
        documents, _ = await self.store.list(key_of(kind, app) + "/")
        return [_decode(noun, document) for document in documents]


def _encode(value: BaseModel, there: Document | None) -> bytes:
    fields: dict[str, Any] = value.model_dump(mode="json")
    if there is not None:
        before = _fields(there)
        known = _read(type(value), there, before).model_dump(mode="json")
        fields = _graft(fields, before, known)
    return json.dumps({**fields, "form": FORM}, separators=(",", ":")).encode()


def _graft(new: Any, old: Any, known: Any) -> Any:
    """`new` with what `old` has beyond `known`, which is `old` as this release reads it.

    An item of a list is known by its number, so it keeps unknown fields only if nothing else of it changed.
    """
    if isinstance(new, dict) and isinstance(old, dict) and isinstance(known, dict):
        unknown = {key: field for key, field in old.items() if key not in known}
        return unknown | {
            key: _graft(field, old[key], known[key]) if key in old and key in known else field
            for key, field in new.items()
        }
    if isinstance(new, list) and isinstance(old, list) and isinstance(known, list):
        pairs = list(zip(old, known, strict=True)) if len(old) == len(known) else []
        return [
            _graft(item, *pairs[number]) if number < len(pairs) and item == pairs[number][1] else item
            for number, item in enumerate(new)
        ]
    return new


def _decode(noun: type[N], document: Document) -> N:
    return _read(noun, document, _fields(document))


def _fields(document: Document) -> dict[str, Any]:
    """What is written, without the version of its form."""
    try:
        fields = json.loads(document.value)
    except ValueError as error:
        raise _unreadable(document, str(error)) from error
    if not isinstance(fields, dict):
        raise _unreadable(document, "it is no table")
    form = fields.pop("form", 0)
    if not isinstance(form, int) or form > FORM + 1:
        raise Permanent(
            f"{document.key} has the form {form}; this release reads up to {FORM + 1}", hint="run the newer release"
        )
    return fields


def _read(noun: type[N], document: Document, fields: dict[str, Any]) -> N:
    try:
        # Nouns are strict about unknown keys where a person wrote them; here it was another release.
        return noun.model_validate(fields, extra="ignore")
    except ValidationError as error:
        raise _unreadable(document, str(error)) from error


def _unreadable(document: Document, reason: str) -> Permanent:
    return Permanent(f"{document.key} cannot be read: {reason}", hint="run the release that wrote it, or delete it")
