"""Nouns in the store, and what releases before and after this one make of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field

from whit.base.errors import InputError, Permanent
from whit.cluster.documents import FORM, Documents, key_of
from whit.cluster.sqlite import SqliteStore
from whit.model.app import AppSpec
from whit.model.base import Noun
from whit.model.service import ServiceSpec
from whit.model.store import Put

APP = AppSpec(
    name="shop", directory=Path("/srv"), services={"web": ServiceSpec(image="x"), "db": ServiceSpec(image="y")}
)


class Peer(Noun):
    name: str
    port: int = 0


class Book(Noun):
    peers: tuple[Peer, ...] = ()
    pages: dict[str, int] = Field(default_factory=dict)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "state.db")
    yield store
    await store.close()


@pytest.fixture
def documents(store: SqliteStore) -> Documents:
    return Documents(store)


async def write(store: SqliteStore, key: str, fields: object) -> None:
    await store.commit([], [Put(key, json.dumps(fields).encode())])


async def written(store: SqliteStore, key: str) -> Any:
    found = await store.get(key)
    assert found
    return json.loads(found.value)


async def test_a_noun_comes_back_equal(documents: Documents) -> None:
    assert await documents.get(AppSpec, "app", "shop") is None
    revision = await documents.put(APP, "app", "shop")
    assert revision == 1
    assert await documents.get(AppSpec, "app", "shop") == APP
    await documents.delete("app", "shop")
    assert await documents.get(AppSpec, "app", "shop") is None


async def test_its_key_and_form(documents: Documents, store: SqliteStore) -> None:
    await documents.put(Peer(name="a"), "peer", "shop", "a")
    assert await written(store, "/v1/peer/shop/a") == {"name": "a", "port": 0, "form": FORM}


async def test_a_list_has_one_kind_or_one_app_in_the_order_of_keys(documents: Documents) -> None:
    for app, name in (("shop", "b"), ("shop", "a"), ("shopping", "c"), ("blog", "d")):
        await documents.put(Peer(name=name), "peer", app, name)
    await documents.put(Peer(name="other"), "peers", "shop", "x")
    assert [peer.name for peer in await documents.list(Peer, "peer")] == ["d", "a", "b", "c"]
    assert [peer.name for peer in await documents.list(Peer, "peer", "shop")] == ["a", "b"]


@pytest.mark.parametrize(("app", "name"), [("a/b", ""), ("a", "b/c"), ("", "b")])
def test_a_name_cannot_change_the_depth_of_a_key(app: str, name: str) -> None:
    with pytest.raises(InputError, match="cannot be part"):
        key_of("app", app, name)


async def test_writers_at_the_same_time_all_succeed(documents: Documents) -> None:
    await asyncio.gather(*(documents.put(Peer(name=str(number)), "peer", "shop", "a") for number in range(6)))
    assert await documents.get(Peer, "peer", "shop", "a")


# ---- the next release ----


async def test_unknown_fields_are_passed_over_at_any_depth(documents: Documents, store: SqliteStore) -> None:
    fields = APP.model_dump(mode="json")
    fields |= {"next": 1, "form": FORM + 1}
    fields["services"]["web"] |= {"next": 2, "limits": {"memory": None, "next": 3}}
    await write(store, "/v1/app/shop", fields)
    assert await documents.get(AppSpec, "app", "shop") == APP
    assert list(await documents.list(AppSpec, "app")) == [APP]


async def test_unknown_fields_are_kept_at_any_depth(documents: Documents, store: SqliteStore) -> None:
    fields = APP.model_dump(mode="json") | {"next": 1}
    fields["services"]["web"] |= {"next": 2}
    fields["services"]["web"]["limits"] |= {"next": 3}
    fields["services"]["db"] |= {"next": 4}
    await write(store, "/v1/app/shop", fields)
    services = {"web": ServiceSpec(image="newer"), "cache": ServiceSpec(image="z")}
    await documents.put(APP.model_copy(update={"services": services}), "app", "shop")
    found = await written(store, "/v1/app/shop")
    assert (found["next"], found["services"]["web"]["next"]) == (1, 2)
    assert found["services"]["web"]["limits"]["next"] == 3
    assert found["services"]["web"]["image"] == "newer"
    assert set(found["services"]) == {"web", "cache"}, "what this release knows and took away stays away"
    assert "next" not in found["services"]["cache"]


async def test_what_was_taken_out_of_a_table_is_no_unknown_field(documents: Documents, store: SqliteStore) -> None:
    await documents.put(Book(pages={"a": 1, "b": 2}), "book")
    await documents.put(Book(pages={"b": 3}), "book")
    assert (await written(store, "/v1/book"))["pages"] == {"b": 3}


@pytest.mark.parametrize(
    ("now", "kept"),
    [
        ("ab", {"a": 1, "b": 2}),
        ("ac", {"a": 1, "c": None}),
        ("abc", {"a": 1, "b": 2, "c": None}),
        ("b", {"b": None}),
        ("", {}),
    ],
)
async def test_items_of_a_list_keep_theirs_where_they_stay(
    documents: Documents, store: SqliteStore, now: str, kept: dict[str, int | None]
) -> None:
    await write(store, "/v1/book", {"peers": [{"name": "a", "next": 1}, {"name": "b", "next": 2}]})
    await documents.put(Book(peers=tuple(Peer(name=name) for name in now)), "book")
    assert {peer["name"]: peer.get("next") for peer in (await written(store, "/v1/book"))["peers"]} == kept


async def test_a_field_that_an_older_release_did_not_write_has_its_default(
    documents: Documents, store: SqliteStore
) -> None:
    await write(store, "/v1/peer/shop/a", {"name": "a"})
    assert await documents.get(Peer, "peer", "shop", "a") == Peer(name="a", port=0)


# ---- what cannot be read ----


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (b'{"name": "a", "form": 3}', "has the form 3; this release reads up to 2"),
        (b'{"name": "a", "form": "x"}', "has the form x"),
        (b'{"name": "a"', "cannot be read: Expecting"),
        (b"\xff\xfe", "cannot be read"),
        (b"[1]", "it is no table"),
        (b'{"port": 1}', "name"),
    ],
)
@pytest.mark.parametrize("verb", ["get", "list", "put"])
async def test_it_is_told_by_its_key_and_never_overwritten(
    documents: Documents, store: SqliteStore, stored: bytes, message: str, verb: str
) -> None:
    await store.commit([], [Put("/v1/peer/a", stored)])
    actions: dict[str, Any] = {
        "get": lambda: documents.get(Peer, "peer", "a"),
        "list": lambda: documents.list(Peer, "peer"),
        "put": lambda: documents.put(Peer(name="new"), "peer", "a"),
    }
    with pytest.raises(Permanent, match=r"^/v1/peer/a ") as caught:
        await actions[verb]()
    assert message in caught.value.message
    assert caught.value.hint
    found = await store.get("/v1/peer/a")
    assert found
    assert found.value == stored


def test_nouns_stay_strict_where_a_person_writes_them() -> None:
    class Loose(BaseModel):
        peer: Peer

    with pytest.raises(ValueError, match="Extra inputs"):
        Loose.model_validate({"peer": {"name": "a", "next": 1}})
