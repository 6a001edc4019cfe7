"""What every store does. A second store joins by an entry in STORES, and nothing else of this file changes.

Each entry opens the store at a directory; opening the same directory twice gives two clients of one store. Times are
generous and leases last whole seconds, so that a store behind a network can keep them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path

import pytest

from whit.base.errors import Conflict, InputError, NotFound, WhitError
from whit.cluster.sqlite import SqliteStore
from whit.model.store import MAX_OPERATIONS, MAX_VALUE, Change, Check, Delete, Put, Store

SOON = 30.0
"""Seconds within which a change of this client must be seen; a failing test waits so long."""
OTHER_CLIENT = 1.0
"""Seconds within which a change of another client must be seen."""
AGAIN = 5
"""How often it is looked whether it was: a busy machine may hold up one."""

Open = Callable[[], Awaitable[Store]]


async def open_sqlite(directory: Path) -> Store:
    return await SqliteStore.open(directory / "state.db")


STORES: dict[str, Callable[[Path], Awaitable[Store]]] = {"sqlite": open_sqlite}


@pytest.fixture(params=STORES)
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens one more client of the same store."""
    async with AsyncExitStack() as opened:

        async def another() -> Store:
            store = await STORES[request.param](tmp_path)
            opened.push_async_callback(store.close)
            return store

        yield another


@pytest.fixture
async def store(client: Open) -> Store:
    return await client()


async def keys(store: Store, prefix: str) -> list[str]:
    return [document.key for document in (await store.list(prefix))[0]]


async def watched(store: Store, prefix: str, after: int, count: int, seconds: float = SOON) -> list[Change]:
    """The next `count` changes. Raises TimeoutError if they do not come."""
    found: list[Change] = []
    async with asyncio.timeout(seconds), aclosing(store.watch(prefix, after)) as changes:  # type: ignore[type-var]
        async for change in changes:
            found.append(change)
            if len(found) == count:
                return found
    return found


async def gone(store: Store, key: str, seconds: float) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while await store.get(key):
                await asyncio.sleep(0.05)
            return True
    return False


# ---- documents and revisions ----


async def test_what_is_not_there_is_none(store: Store) -> None:
    assert await store.get("/v1/none") is None
    documents, _ = await store.list("/v1/")
    assert list(documents) == []


async def test_a_document_comes_back_as_it_was_put(store: Store) -> None:
    value = bytes(range(256))
    revision = await store.commit([], [Put("/v1/a", value)])
    found = await store.get("/v1/a")
    assert found
    assert (found.key, found.value, found.revision) == ("/v1/a", value, revision)


async def test_an_empty_value_is_not_a_deletion(store: Store) -> None:
    revision = await store.commit([], [Put("/v1/a", b"")])
    found = await store.get("/v1/a")
    assert found
    assert found.value == b""
    (change,) = await watched(store, "/v1/", revision - 1, 1)
    assert change.document == found


async def test_revisions_grow_and_belong_to_the_store(store: Store) -> None:
    first = await store.commit([], [Put("/v1/a", b"1")])
    second = await store.commit([], [Put("/v1/b", b"1")])
    third = await store.commit([], [Put("/v1/a", b"2"), Put("/v1/c", b"1")])
    assert first < second < third
    documents, revision = await store.list("/v1/")
    assert [(found.key, found.revision) for found in documents] == [
        ("/v1/a", third),
        ("/v1/b", second),
        ("/v1/c", third),
    ]
    assert revision == third


async def test_a_deleted_document_is_gone(store: Store) -> None:
    await store.commit([], [Put("/v1/a", b"1")])
    revision = await store.commit([], [Delete("/v1/a")])
    assert await store.get("/v1/a") is None
    assert (await store.list("/"))[1] == revision


async def test_what_is_not_there_can_be_deleted(store: Store) -> None:
    after = await store.commit([], [Put("/v1/a", b"1")])
    await store.commit([], [Delete("/v1/none")])
    await store.commit([], [Put("/v1/b", b"1")])
    (change,) = await watched(store, "/v1/", after, 1)
    assert change.key == "/v1/b", "nothing changed by deleting nothing"


async def test_a_list_is_ordered_and_has_only_what_begins_with_the_prefix(store: Store) -> None:
    names = ["/v1/b", "/v1/a/z", "/v1/a", "/v1/ab", "/v1/aé", "/v1/a%", "/v1/a_", "/v1/A", "/v2/a", "/v1/a/\U0001f600"]
    await store.commit([], [Put(name, b"x") for name in names])
    assert await keys(store, "/v1/a/") == ["/v1/a/z", "/v1/a/\U0001f600"]
    assert await keys(store, "/v1/a%") == ["/v1/a%"]
    assert await keys(store, "/v1/") == sorted(name for name in names if name.startswith("/v1/"))


# ---- transactions ----


async def test_a_check_holds_at_the_revision_of_the_document(store: Store) -> None:
    revision = await store.commit([Check("/v1/a", 0)], [Put("/v1/a", b"1")])
    await store.commit([], [Put("/v1/other", b"1")])
    assert await store.commit([Check("/v1/a", revision)], [Put("/v1/a", b"2")]) > revision


@pytest.mark.parametrize("wrong", ["absent", "older", "newer", "deleted"])
async def test_a_check_that_fails_changes_nothing(store: Store, wrong: str) -> None:
    old = await store.commit([], [Put("/v1/a", b"1")])
    new = await store.commit([], [Put("/v1/a", b"2")])
    expected = {"absent": 0, "older": old, "newer": new + 1, "deleted": new}[wrong]
    if wrong == "deleted":
        new = await store.commit([], [Delete("/v1/a")])
    before = await store.list("/")
    with pytest.raises(Conflict, match="/v1/a"):
        await store.commit([Check("/v1/a", expected)], [Put("/v1/b", b"x"), Put("/v1/a", b"3")])
    assert await store.list("/") == before


async def test_of_two_that_take_one_key_one_gets_it(client: Open) -> None:
    stores = [await client(), await client()]
    attempts = [
        store.commit([Check("/v1/lock", 0)], [Put("/v1/lock", str(number).encode())])
        for number, store in enumerate(stores * 10)
    ]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == len(attempts) - 1


async def test_nothing_is_lost_when_many_count(client: Open) -> None:
    stores = [await client(), await client()]

    async def count(store: Store) -> None:
        while True:
            found = await store.get("/v1/n")
            value, revision = (int(found.value), found.revision) if found else (0, 0)
            with suppress(Conflict):
                await store.commit([Check("/v1/n", revision)], [Put("/v1/n", str(value + 1).encode())])
                return

    async with asyncio.timeout(60):
        await asyncio.gather(*(count(store) for store in stores * 10))
    found = await stores[0].get("/v1/n")
    assert found
    assert found.value == b"20"


async def test_a_value_of_the_largest_size_fits(store: Store) -> None:
    await store.commit([], [Put("/v1/a", b"x" * (MAX_VALUE - 1))])
    found = await store.get("/v1/a")
    assert found
    assert len(found.value) == MAX_VALUE - 1


async def test_a_larger_value_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="/v1/a has 1048576 bytes"):
        await store.commit([], [Put("/v1/b", b""), Put("/v1/a", b"x" * MAX_VALUE)])
    assert await keys(store, "/") == []


async def test_as_many_operations_as_allowed(store: Store) -> None:
    await store.commit([], [Put(f"/v1/{number}", b"x") for number in range(MAX_OPERATIONS)])
    assert len(await keys(store, "/v1/")) == MAX_OPERATIONS


async def test_more_operations_are_refused(store: Store) -> None:
    checks = [Check("/v1/0", 0)]
    with pytest.raises(InputError, match=f"{MAX_OPERATIONS + 1} operations"):
        await store.commit(checks, [Put(f"/v1/{number}", b"x") for number in range(MAX_OPERATIONS)])
    assert await keys(store, "/") == []


async def test_one_key_is_changed_once_in_a_transaction(store: Store) -> None:
    with pytest.raises(InputError, match="/v1/a is changed twice"):
        await store.commit([], [Put("/v1/a", b"1"), Delete("/v1/a")])
    assert await keys(store, "/") == []


@pytest.mark.parametrize("key", ["", "v1/a"])
async def test_a_key_begins_with_a_slash(store: Store, key: str) -> None:
    with pytest.raises(InputError, match="is no key"):
        await store.commit([], [Put(key, b"1")])


# ---- watches ----


async def test_a_watch_gives_every_change_in_order(store: Store) -> None:
    _, after = await store.list("/")
    written = [await store.commit([], [Put(f"/v1/{number % 7}", str(number).encode())]) for number in range(150)]
    changes = await watched(store, "/v1/", after, 150)
    assert [change.revision for change in changes] == written
    assert [change.document.value for change in changes if change.document] == [str(n).encode() for n in range(150)]


async def test_a_transaction_is_seen_as_a_whole(store: Store) -> None:
    _, after = await store.list("/")
    revision = await store.commit([], [Put(f"/v1/{number:02}", b"x") for number in range(MAX_OPERATIONS)])
    await store.commit([], [Put("/v1/last", b"x")])
    changes = await watched(store, "/v1/", after, MAX_OPERATIONS + 1)
    assert [change.revision for change in changes[:-1]] == [revision] * MAX_OPERATIONS
    assert {change.key for change in changes[:-1]} == {f"/v1/{number:02}" for number in range(MAX_OPERATIONS)}
    assert changes[-1].key == "/v1/last"


async def test_a_watch_begins_after_its_revision(store: Store) -> None:
    await store.commit([], [Put("/v1/a", b"1")])
    after = await store.commit([], [Put("/v1/a", b"2")])
    await store.commit([], [Put("/v1/a", b"3")])
    (change,) = await watched(store, "/v1/", after, 1)
    assert change.document
    assert change.document.value == b"3"


async def test_a_watch_tells_deletions(store: Store) -> None:
    after = await store.commit([], [Put("/v1/a", b"1")])
    revision = await store.commit([], [Delete("/v1/a")])
    assert await watched(store, "/v1/", after, 1) == [Change("/v1/a", None, revision)]


async def test_a_watch_has_only_its_prefix(store: Store) -> None:
    _, after = await store.list("/")
    for key in ("/v1/b/x", "/v1/a", "/v1/ab/x", "/v1/a/x"):
        await store.commit([], [Put(key, b"1")])
    (change,) = await watched(store, "/v1/a/", after, 1)
    assert change.key == "/v1/a/x"


@pytest.mark.parametrize("listed", [1, 10, 39])
async def test_list_then_watch_misses_nothing(client: Open, listed: int) -> None:
    """The list is read while the writer goes on, so that commits fall before, between and after the two."""
    reader, writer = await client(), await client()
    reached = asyncio.Event()

    async def write() -> None:
        for number in range(40):
            await writer.commit([], [Put(f"/v1/{number:02}", b"x")])
            if number == listed:
                reached.set()
        await writer.commit([], [Put("/v1/end", b"x")])

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(write())
        await reached.wait()
        documents, revision = await reader.list("/v1/")
        seen = [document.key for document in documents]
        async with aclosing(reader.watch("/v1/", revision)) as changes:  # type: ignore[type-var]
            while seen[-1] != "/v1/end":
                seen.append((await anext(changes)).key)
    assert seen == [*(f"/v1/{number:02}" for number in range(40)), "/v1/end"]


async def test_a_waiting_watch_is_woken(store: Store) -> None:
    _, after = await store.list("/")
    waiting = asyncio.create_task(watched(store, "/v1/", after, 1))
    await asyncio.sleep(0.1)
    await store.commit([], [Put("/v1/a", b"1")])
    assert [change.key for change in await waiting] == ["/v1/a"]


async def test_another_clients_commit_is_seen_within_a_second(client: Open) -> None:
    reader, writer = await client(), await client()
    took: list[float] = []
    while not took or (took[-1] >= OTHER_CLIENT and len(took) < AGAIN):
        _, after = await reader.list("/")
        waiting = asyncio.create_task(watched(reader, "/v1/", after, 1))
        await asyncio.sleep(0.1)
        await writer.commit([], [Put("/v1/a", b"1")])
        began = time.monotonic()
        assert [change.key for change in await waiting] == ["/v1/a"]
        took.append(time.monotonic() - began)
    assert took[-1] < OTHER_CLIENT, took


async def test_many_watches_each_see_everything(store: Store) -> None:
    _, after = await store.list("/")
    waiting = [asyncio.create_task(watched(store, "/v1/", after, 5)) for _ in range(20)]
    for number in range(5):
        await store.commit([], [Put(f"/v1/{number}", b"1")])
    for task in waiting:
        assert [change.key for change in await task] == [f"/v1/{number}" for number in range(5)]


async def test_a_watch_ends_when_the_store_is_closed(store: Store) -> None:
    _, after = await store.list("/")
    waiting = asyncio.create_task(watched(store, "/v1/", after, 1))
    await asyncio.sleep(0.1)
    await store.close()
    assert await waiting == []


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(WhitError, match="closed"):
        await store.get("/v1/a")


# ---- leases ----


async def test_a_lease_that_is_not_renewed_takes_its_documents(store: Store) -> None:
    lease = await store.grant(3)
    after = await store.commit([], [Put("/v1/a", b"1", lease), Put("/v1/b", b"1", lease), Put("/v1/c", b"1")])
    changes = await watched(store, "/v1/", after, 2)
    assert {(change.key, change.document) for change in changes} == {("/v1/a", None), ("/v1/b", None)}
    assert await keys(store, "/v1/") == ["/v1/c"]


async def test_a_renewed_lease_keeps_its_documents(store: Store) -> None:
    lease = await store.grant(4)
    await store.commit([], [Put("/v1/a", b"1", lease)])
    for _ in range(10):
        await asyncio.sleep(0.5)
        await store.renew(lease)
    assert await store.get("/v1/a")
    assert await gone(store, "/v1/a", 60)


async def test_a_lease_that_ran_out_cannot_be_renewed_or_used(store: Store) -> None:
    lease = await store.grant(3)
    await store.commit([], [Put("/v1/a", b"1", lease)])
    assert await gone(store, "/v1/a", 60)
    with pytest.raises(NotFound, match=f"lease {lease}"):
        await store.renew(lease)
    with pytest.raises(NotFound, match=f"lease {lease}"):
        await store.commit([], [Put("/v1/b", b"1"), Put("/v1/a", b"1", lease)])
    assert await keys(store, "/v1/") == []


async def test_a_revoked_lease_takes_its_documents_at_once(store: Store) -> None:
    lease = await store.grant(60)
    after = await store.commit([], [Put("/v1/a", b"1", lease)])
    await store.revoke(lease)
    assert await store.get("/v1/a") is None
    (change,) = await watched(store, "/v1/", after, 1)
    assert (change.key, change.document) == ("/v1/a", None)
    await store.revoke(lease)


async def test_a_document_put_again_without_the_lease_outlives_it(store: Store) -> None:
    lease = await store.grant(60)
    await store.commit([], [Put("/v1/a", b"1", lease), Put("/v1/b", b"1", lease)])
    await store.commit([], [Put("/v1/a", b"2")])
    await store.revoke(lease)
    assert await keys(store, "/v1/") == ["/v1/a"]


async def test_a_lease_is_known_to_every_client(client: Open) -> None:
    one, other = await client(), await client()
    lease = await one.grant(60)
    await other.commit([], [Put("/v1/a", b"1", lease)])
    await other.renew(lease)
    await one.revoke(lease)
    assert await other.get("/v1/a") is None


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_a_lease_lasts(store: Store, seconds: float) -> None:
    with pytest.raises(InputError, match="lease"):
        await store.grant(seconds)


# ---- what is kept ----


async def test_a_store_that_is_opened_again_goes_on(client: Open) -> None:
    first = await client()
    written = await first.commit([], [Put("/v1/a", b"1")])
    lease = await first.grant(60)
    await first.close()
    again = await client()
    documents, revision = await again.list("/v1/")
    assert [document.key for document in documents] == ["/v1/a"]
    assert revision == written
    await again.renew(lease)
    assert await again.commit([], [Put("/v1/b", b"1")]) > written
    assert [change.key for change in await watched(again, "/v1/", written - 1, 2)] == ["/v1/a", "/v1/b"]
