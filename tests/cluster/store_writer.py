"""Writes to a store until it is killed, and says on its output what was committed: a revision a line.

Each transaction puts one new document and counts in another, so that half a transaction would show.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from whit.cluster.sqlite import SqliteStore
from whit.model.store import Put


async def write(path: Path) -> None:
    store = await SqliteStore.open(path)
    lease = await store.grant(3600)
    for number in itertools.count(1):
        count = str(number).encode()
        changes = [Put(f"/v1/{number:06}", b"x" * 20_000), Put("/v1/count", count), Put("/v1/held", count, lease)]
        print(await store.commit([], changes), flush=True)


asyncio.run(write(Path(sys.argv[1])))
