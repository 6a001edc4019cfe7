"""A writer is killed in the middle: what it was told to be committed is there, whole, and nothing else but the next."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

from whit.cluster.sqlite import SqliteStore
from whit.model.store import Put

WRITER = Path(__file__).with_name("store_writer.py")
SOURCE = Path(__file__).parents[2] / "src"


async def killed_after(path: Path, delay: float) -> int:
    """The last revision that a writer told before it was killed, `delay` seconds after its third."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(WRITER), str(path)),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
    )
    try:
        assert process.stdout
        async with asyncio.timeout(30):
            told = [await process.stdout.readline() for _ in range(3)]
        await asyncio.sleep(delay)
    finally:
        process.kill()
        rest, _ = await process.communicate()
    lines = (b"".join(told) + rest).split(b"\n")
    # What follows the last line's end was cut off by the kill.
    return int(lines[-2])


async def test_the_committed_prefix_is_there(tmp_path: Path, sample: Callable[[int, int], int]) -> None:
    for number in range(sample(4, 40)):
        path = tmp_path / f"{number}.db"
        await check(path, await killed_after(path, number % 10 * 0.0137))


async def check(path: Path, told: int) -> None:
    store = await SqliteStore.open(path)
    documents, revision = await store.list("/v1/0")
    assert revision in (told, told + 1), "nothing told is lost, and at most one more was on its way"
    assert [document.key for document in documents] == [f"/v1/{number:06}" for number in range(1, revision + 1)]
    for key in ("/v1/count", "/v1/held"):
        found = await store.get(key)
        assert found
        assert found.value == str(revision).encode()
    changes = store.watch("/v1/count", 0)
    async with asyncio.timeout(20):
        assert [(await anext(changes)).revision for _ in range(revision)] == list(range(1, revision + 1))
    assert await store.commit([], [Put("/v1/after", b"1")]) == revision + 1
    await store.close()
