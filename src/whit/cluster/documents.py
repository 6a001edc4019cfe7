"""Nouns in the store: one document each at /v1/<kind>/<app>/<name>, as JSON with the version of its form.

A document of the next release is read by this one: fields that this release does not know are kept when it is written
again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from whit.base.errors import Permanent
from whit.model.store import Check, Delete, Document, Put, Store

N = TypeVar("N", bound=BaseModel)

FORM = 1
"""Of documents; raised when an older release could not read them any more."""


def key_of(kind: str, app: str = "", name: str = "") -> str:
    return "/".join(["", "v1", kind, *filter(None, (app, name))])


class Documents:
    """Typed access to a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def get(self, noun: type[N], kind: str, app: str = "", name: str = "") -> N | None:
        document = await self.store.get(key_of(kind, app, name))
        return None if document is None else _decode(noun, document)

    async def put(self, value: BaseModel, kind: str, app: str = "", name: str = "") -> int:
        """Write it whatever is there, but for fields that this release does not know. Returns the revision."""
        key = key_of(kind, app, name)
        there = await self.store.get(key)
        checks = [Check(key, there.revision if there else 0)]
        return await self.store.commit(checks, [Put(key, _encode(value, there))])

    async def delete(self, kind: str, app: str = "", name: str = "") -> None:
        await self.store.commit([], [Delete(key_of(kind, app, name))])

    async def list(self, noun: type[N], kind: str) -> Sequence[N]:
        documents, _ = await self.store.list(key_of(kind) + "/")
        return [_decode(noun, document) for document in documents]


def _encode(value: BaseModel, there: Document | None) -> bytes:
    document: dict[str, Any] = value.model_dump(mode="json")
    known = set(type(value).model_fields) | {"form"}
    if there is not None:
        unknown = {name: field for name, field in json.loads(there.value).items() if name not in known}
        document = unknown | document
    return json.dumps({"form": FORM, **document}, separators=(",", ":")).encode()


def _decode(noun: type[N], document: Document) -> N:
    fields: dict[str, Any] = json.loads(document.value)
    form = fields.pop("form", 0)
    if form > FORM + 1:
        raise Permanent(f"{document.key} has the form {form}; this release reads up to {FORM + 1}")
    try:
        return noun.model_validate({name: field for name, field in fields.items() if name in noun.model_fields})
    except ValidationError as error:
        raise Permanent(f"{document.key} cannot be read: {error}") from error
