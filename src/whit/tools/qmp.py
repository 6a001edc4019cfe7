"""QMP: the control socket of a virtual machine of QEMU's, by which it is written to a file, loaded and ended.

Format: docs/interop/qmp-spec.txt of QEMU. The machine itself is qemu.py's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from whit.base.errors import Permanent, TimedOut

_LIMIT = 1 << 20
_GIVEN = "whit"
"""The name that QEMU gives to a descriptor."""
_FASTEST = 1 << 40
_MIGRATION_PAUSE = 0.005


class Qmp:
    """A connection to a machine's control socket. Made by `connected`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, own: socket.socket) -> None:
        self._reader = reader
        self._writer = writer
        self._socket = own

    async def execute(self, command: str, **arguments: Any) -> Any:
        """The result of one command. Raises Permanent if the machine refuses it."""
        request: dict[str, Any] = {"execute": command}
        if arguments:
            request["arguments"] = arguments
        self._writer.write(json.dumps(request).encode() + b"\n")
        await self._writer.drain()
        return await self._answer(command)

    async def _answer(self, command: str) -> Any:
        while True:
            answer = await self.message()
            if "error" in answer:
                raise Permanent(f"QEMU refused {command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]

    async def message(self) -> dict[str, Any]:
        """The next answer or event. Raises Permanent when the machine is gone."""
        try:
            line = await self._reader.readline()
        except ConnectionError:
            line = b""
        if not line:
            raise Permanent("the machine's control socket was closed")
        message: dict[str, Any] = json.loads(line)
        return message

    async def save(self, file: int) -> None:
        """Write a machine that was stopped to a descriptor. Raises Permanent if it cannot be written."""
        await self._give(file)
        await self.execute("migrate-set-parameters", **{"max-bandwidth": _FASTEST})
        await self.execute("migrate", uri=f"fd:{_GIVEN}")
        await self._migrated()

    async def load(self, file: int) -> None:
        """Fill a machine that waits for it; it does not go on yet. Raises Permanent if it ends over it."""
        await self._give(file)
        await self.execute("migrate-incoming", uri=f"fd:{_GIVEN}")
        await self._migrated()

    async def _give(self, file: int) -> None:
        request = json.dumps({"execute": "getfd", "arguments": {"fdname": _GIVEN}}).encode() + b"\n"
        socket.send_fds(self._socket, [request], [file])
        await self._answer("getfd")

    async def _migrated(self) -> None:
        while (found := await self.execute("query-migrate")).get("status") != "completed":
            if found.get("status") in ("failed", "cancelled"):
                raise Permanent(f"QEMU: {found.get('error-desc', 'the machine could not be written or read')}")
            await asyncio.sleep(_MIGRATION_PAUSE)

    async def quit(self) -> None:
        """End the machine at once, as if its power were cut."""
        with contextlib.suppress(Permanent, ConnectionError):
            await self.execute("quit")


@asynccontextmanager
async def connected(path: Path, *, timeout: float = 5.0) -> AsyncIterator[Qmp]:
    """Raises TimedOut, or Permanent if no machine listens there."""
    own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(own, str(path))
            reader, writer = await asyncio.open_unix_connection(sock=own, limit=_LIMIT)
    except TimeoutError:
        own.close()
        raise TimedOut(f"the machine at {path} did not answer within {timeout:g} s") from None
    except OSError as error:
        own.close()
        raise Permanent(f"no machine listens at {path}: {error.strerror}") from error
    try:
        qmp = Qmp(reader, writer, own)
        async with asyncio.timeout(timeout):
            await qmp.message()
            await qmp.execute("qmp_capabilities")
        yield qmp
    except TimeoutError:
        raise TimedOut(f"the machine at {path} did not answer within {timeout:g} s") from None
    finally:
        writer.close()
