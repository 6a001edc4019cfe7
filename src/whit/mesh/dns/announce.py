"""Answers that policy waits for: the resolver tells the agent, and holds each back until the agent says it is done.

One connection, a line of JSON for each answer, its number as the answer to that. The resolver waits for a bounded time
and for no dead agent; what it could not tell it tells the next agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from whit.mesh.dns.answers import Given

log = logging.getLogger(__name__)

NAME = "answers.sock"
PATIENCE = 1.0
"""Seconds for which an answer is held back at most."""
RETRY = 0.25
UNTOLD = 512
"""Answers that wait for an agent, while there is none."""
MOST = 64
"""Addresses of one answer."""


@dataclass(frozen=True)
class Announcement:
    """`asker` is about to be told that `name` is at `addresses`."""

    asker: str
    name: str
    addresses: Mapping[str, float]
    """Seconds to live by address."""
    late: int = 0
    """Answers that the resolver has released untold until now."""


class Announcer:
    """The resolver's side. `path` may be relative to the directory of the process."""

    def __init__(self, path: str = NAME) -> None:
        self.path = path
        self.late = 0
        self._number = 0
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, tuple[asyncio.Future[None], bytes]] = {}
        self._untold: deque[bytes] = deque(maxlen=UNTOLD)
        self._connecting = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._retrying: asyncio.Task[None] | None = None

    async def announce(self, asker: str, given: Given) -> bool:
        """Returns whether the agent knows before the time is over."""
        self._number += 1
        number, line = self._number, self._line(self._number, asker, given)
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = told, line
        try:
            async with asyncio.timeout(PATIENCE):
                if await self._send(line):
                    await told
                    return True
        except (TimeoutError, ConnectionError):
            pass
        finally:
            del self._waiting[number]
        self.late += 1
        return False

    def _line(self, number: int, asker: str, given: Given) -> bytes:
        addresses = dict(list(given.addresses.items())[:MOST])
        document = {"id": number, "asker": asker, "name": given.name, "addresses": addresses, "late": self.late}
        return json.dumps(document).encode() + b"\n"

    async def _send(self, line: bytes) -> bool:
        """Returns whether somebody is there to read it."""
        async with self._connecting:
            if self._writer is None and not await self._connect():
                self._keep(line)
                return False
            assert self._writer is not None
            self._writer.write(line)
            return True

    def _keep(self, *lines: bytes) -> None:
        """For the next agent."""
        self._untold.extend(lines)
        if self._untold and (self._retrying is None or self._retrying.done()):
            self._retrying = asyncio.create_task(self._try_again())

    async def _connect(self) -> bool:
        try:
            reader, self._writer = await asyncio.open_unix_connection(self.path)
        except OSError:
            return False
        while self._untold:
            self._writer.write(self._untold.popleft())
        self._reading = asyncio.create_task(self._read(reader))
        return True

    async def _try_again(self) -> None:
        """Until the agent is back."""
        while self._writer is None:
            await asyncio.sleep(RETRY)
            async with self._connecting:
                if self._writer is None:
                    await self._connect()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Until the agent ends."""
        with contextlib.suppress(ConnectionError, ValueError):
            while line := await reader.readline():
                told = self._waiting.get(int(line), (None, b""))[0]
                if told is not None and not told.done():
                    told.set_result(None)
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        lost = [(told, line) for told, line in self._waiting.values() if not told.done()]
        self._keep(*(line for _, line in lost))
        for told, _ in lost:
            told.set_exception(ConnectionResetError("the agent has ended"))


class Reception:
    """The agent's side."""

    def __init__(self, directory: Path, learn: Callable[[Announcement], Awaitable[None]]) -> None:
        self.path = directory / NAME
        self.learn = learn
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        self.path.chmod(0o666)

    async def close(self) -> None:
        """Safe twice. Answers that are held back are released."""
        if self._server is not None:
            self._server.close()
            for writer in tuple(self._writers):
                writer.close()
            self._server = None
        self.path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                number, announcement = _parse(line)
                try:
                    await self.learn(announcement)
                except Exception:  # the answer is given all the same, and those that follow are learned
                    log.exception("%s is not learned", announcement.name)
                writer.write(b"%d\n" % number)
        except (ConnectionError, ValueError, KeyError, TypeError) as error:
            log.warning("the resolver is not understood: %r", error)
        finally:
            self._writers.discard(writer)
            writer.close()


def _parse(line: bytes) -> tuple[int, Announcement]:
    found = json.loads(line)
    addresses = {str(address): float(ttl) for address, ttl in found["addresses"].items()}
    return int(found["id"]), Announcement(found["asker"], found["name"], addresses, int(found["late"]))
