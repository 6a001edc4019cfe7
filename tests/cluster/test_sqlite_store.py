"""What only the SQLite store does: its file, its log of changes, its clock, and its one thread."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from whit.base.errors import NotFound, Permanent, Temporary
from whit.cluster import database, sqlite
from whit.cluster.sqlite import SqliteStore
from whit.model.store import Change, Put


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "state.db"


async def following(changes: AsyncIterator[Change]) -> Change:
    """The next change. Raises TimeoutError if it does not come."""
    async with asyncio.timeout(30):
        return await anext(changes)


async def fill(path: Path, count: int = 1, size: int = 1) -> None:
    store = await SqliteStore.open(path)
    for number in range(count):
        await store.commit([], [Put(f"/v1/{number:04}", b"x" * size)])
    await store.close()


async def test_the_file_is_the_owners_alone(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit([], [Put("/v1/a", b"secret")])
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    await store.close()


async def test_a_file_that_others_could_read_is_closed_to_them(path: Path) -> None:
    await fill(path)
    path.chmod(0o644)
    await fill(path)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_commit_waits_for_the_disk(path: Path) -> None:
    store = await SqliteStore.open(path)
    assert await store._run(lambda: store._connection.execute("PRAGMA synchronous").fetchone()) == (2,)
    assert await store._run(lambda: store._connection.execute("PRAGMA journal_mode").fetchone()) == ("wal",)
    await store.close()


# ---- files that cannot be used ----


async def test_no_database_is_told_with_a_remedy(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"services: {}\n" * 1000)
    with pytest.raises(Permanent, match=r"state\.db is damaged") as caught:
        await SqliteStore.open(path)
    assert "backup" in caught.value.hint


async def test_a_damaged_page_is_found_on_opening(path: Path) -> None:
    await fill(path, 200, 500)
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 9 * 4096] = b"\xff" * (6 * 4096)
    path.write_bytes(content)
    with pytest.raises(Permanent, match=r"state\.db is damaged") as caught:
        await SqliteStore.open(path)
    assert "backup" in caught.value.hint


async def test_a_damage_found_later_is_told_too(path: Path) -> None:
    store = await SqliteStore.open(path)

    def damaged() -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    with pytest.raises(Permanent, match="is damaged") as caught:
        await store._run(damaged)
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    await store.close()


async def test_a_newer_releases_file_is_refused_and_left_alone(path: Path) -> None:
    await fill(path)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(Permanent, match=r"written by a newer release \(schema 99") as caught:
        await SqliteStore.open(path)
    assert "newer release" in caught.value.hint
    assert path.read_bytes() == before


async def test_a_directory_in_its_place_is_told(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(Permanent, match=r"state\.db cannot be") as caught:
        await SqliteStore.open(path)
    assert caught.value.hint


async def test_a_full_disk_is_told_and_the_store_goes_on(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit([], [Put("/v1/a", b"1")])
    pages = await store._run(lambda: store._connection.execute("PRAGMA page_count").fetchone()[0])
    await store._run(lambda: store._connection.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    with pytest.raises(Permanent, match="cannot grow") as caught:
        await store.commit([], [Put("/v1/b", b"x" * 100_000)])
    assert caught.value.hint == "make room on its disk"
    documents, _ = await store.list("/")
    assert [document.key for document in documents] == ["/v1/a"]
    await store.commit([], [Put("/v1/a", b"2")])
    await store.close()


async def test_a_writer_that_stays_is_a_matter_of_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    store = await SqliteStore.open(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Temporary, match="held by another process"):
        await store.commit([], [Put("/v1/a", b"1")])
    assert await store.get("/v1/a") is None, "reading goes on"
    other.execute("ROLLBACK")
    await store.commit([], [Put("/v1/a", b"1")])
    other.close()
    await store.close()


# ---- schema ----


async def test_an_older_schema_is_brought_up_with_its_documents(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(database, "_MIGRATIONS", database._MIGRATIONS[:1])
        older.setattr(database, "SCHEMA", 1)
        connection = database.connect(path)
    connection.execute("INSERT INTO leases (seconds, ends) VALUES (60, 9e12)")
    connection.execute("INSERT INTO documents VALUES ('/v1/a', x'31', 1, 0), ('/v1/leased', x'31', 1, 1)")
    connection.execute("UPDATE state SET revision = 1")
    connection.close()
    store = await SqliteStore.open(path)
    documents, revision = await store.list("/v1/")
    assert [document.key for document in documents] == ["/v1/a"], "a lease from before the clock was known has run out"
    assert revision == 2
    await store.close()


async def test_of_two_that_make_the_file_both_can_use_it(path: Path) -> None:
    stores = await asyncio.gather(*(SqliteStore.open(path) for _ in range(8)))
    await asyncio.gather(*(store.commit([], [Put(f"/v1/{n}", b"1")]) for n, store in enumerate(stores)))
    assert (await stores[0].list("/"))[1] == 8
    for store in stores:
        await store.close()


# ---- the log of changes ----


async def test_a_watch_from_before_the_cut_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "KEPT_CHANGES", 10)
    store = await SqliteStore.open(path)
    for _ in range(25):
        await store.commit([], [Put("/v1/a", b"1")])
    with pytest.raises(NotFound, match="after revision 14 are no longer kept") as caught:
        await following(store.watch("/v1/", 14))
    assert "list" in caught.value.hint
    assert (await following(store.watch("/v1/", 15))).revision == 16
    assert await store._run(lambda: store._connection.execute("SELECT count(*) FROM changes").fetchone()) == (10,)
    await store.close()


async def test_a_quiet_watch_does_not_fall_behind_the_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "KEPT_CHANGES", 5)
    store = await SqliteStore.open(path)
    waiting = asyncio.create_task(following(store.watch("/v1/quiet/", 0)))
    for _ in range(20):
        await store.commit([], [Put("/v1/busy", b"1")])
        await asyncio.sleep(0.01)
    revision = await store.commit([], [Put("/v1/quiet/a", b"1")])
    assert (await waiting).revision == revision
    await store.close()


@pytest.mark.parametrize("page", [1, 2, 3, 5, 6, 7, 100])
async def test_pages_of_any_length_give_the_same(path: Path, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    monkeypatch.setattr(sqlite, "PAGE", page)
    store = await SqliteStore.open(path)
    for number in range(2):
        await store.commit([], [Put(f"/v1/{key}", str(number).encode()) for key in "abc"])
    changes = store.watch("/v1/", 0)
    found = [await following(changes) for _ in range(6)]
    assert [(change.revision, change.key) for change in found] == [(n, f"/v1/{key}") for n in (1, 2) for key in "abc"]
    await store.close()


async def test_a_slow_watch_within_a_transaction_is_told_of_the_cut(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "KEPT_CHANGES", 5)
    monkeypatch.setattr(sqlite, "PAGE", 2)
    store = await SqliteStore.open(path)
    await store.commit([], [Put(f"/v1/{key}", b"1") for key in "abc"])
    changes = store.watch("/v1/", 0)
    assert [(await following(changes)).key for _ in range(2)] == ["/v1/a", "/v1/b"]
    # The cut is now at the very revision that was read in part.
    for _ in range(5):
        await store.commit([], [Put("/v1/z", b"1")])
    with pytest.raises(NotFound, match="no longer kept"):
        await following(changes)
    await store.close()


async def test_commits_and_closing_wake_a_watch_without_polling(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "POLL_SECONDS", 3600)
    monkeypatch.setattr(sqlite, "PAGE", 2)
    store = await SqliteStore.open(path)
    seen: list[str] = []

    async def watch() -> None:
        async for change in store.watch("/v1/", 0):
            seen.append(change.key)

    watching = asyncio.create_task(watch())
    async with asyncio.timeout(60):
        for keys in ("a", "bcdef", "g"):
            await store.commit([], [Put(f"/v1/{key}", b"1") for key in keys])
            while seen[-1:] != [f"/v1/{keys[-1]}"]:
                await asyncio.sleep(0.01)
        await store.close()
        await watching
    assert seen == [f"/v1/{key}" for key in "abcdefg"]


# ---- leases and time ----


async def test_setting_the_time_ends_no_lease(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SqliteStore.open(path)
    lease = await store.grant(60)
    await store.commit([], [Put("/v1/a", b"1", lease)])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e9)
    await store.renew(lease)
    assert await store.get("/v1/a")
    await store.close()


async def test_a_lease_of_an_earlier_boot_has_run_out(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await SqliteStore.open(path)
    lease = await store.grant(3600)
    await store.commit([], [Put("/v1/a", b"1", lease), Put("/v1/b", b"1")])
    await store.close()
    (tmp_path / "boot").write_text("another\n")
    monkeypatch.setattr(sqlite, "_BOOT_ID", tmp_path / "boot")
    store = await SqliteStore.open(path)
    assert [document.key for document in (await store.list("/"))[0]] == ["/v1/b"]
    with pytest.raises(NotFound):
        await store.renew(lease)
    await store.close()


async def test_leases_run_out_while_no_store_is_open(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit([], [Put("/v1/a", b"1", await store.grant(0.2))])
    await store.close()
    await asyncio.sleep(0.3)
    store = await SqliteStore.open(path)
    assert await store.get("/v1/a") is None
    await store.close()


# ---- the loop ----


async def test_the_loop_goes_on_while_the_disk_works(path: Path) -> None:
    store = await SqliteStore.open(path)
    ticks, writing = 0, True

    async def tick() -> None:
        nonlocal ticks
        while writing:
            await asyncio.sleep(0.001)
            ticks += not slow.done()

    slow = asyncio.create_task(store._run(lambda: time.sleep(0.5)))
    ticking = asyncio.create_task(tick())
    for _ in range(5):
        await store.commit([], [Put("/v1/a", b"x" * 1_000_000)])
    writing = False
    await asyncio.gather(ticking, slow)
    assert ticks > 20, "the half second of work in the store's thread was not the loop's"
    await store.close()
