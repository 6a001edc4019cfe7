"""whitd: one agent, one asyncio process. It serves the REST interface on a unix socket until it is told to stop.

Nothing that carries traffic or keeps an instance alive lives in here: the process may be killed at any time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from whit.api import metrics
from whit.api.routes import make_app
from whit.base import log as logs
from whit.base.errors import Conflict, WhitError
from whit.base.settings import Settings
from whit.control.agent import Agent
from whit.tools import systemctl

log = logging.getLogger(__name__)

DESCRIPTORS = 65_536
REST_PATIENCE = 80.0
"""Seconds that instances have to end when the machine goes down; the unit gives the agent ten more."""


class RootOnly(H11Protocol):
    """Refuses a peer that is not root, whatever the permissions of the socket have become."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer: socket.socket = transport.get_extra_info("socket")
        _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if user != os.geteuid():
            log.warning("refused a connection of user %d", user)
            transport.abort()
            return
        super().connection_made(transport)


@contextlib.contextmanager
def only_agent(settings: Settings) -> Iterator[None]:
    """One agent for an id. The lock goes with the process, however it ends."""
    settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (settings.run_dir / "agent.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise Conflict(f"an agent with the id {settings.id} runs already (pid {lock.read().strip()})") from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def allow_descriptors() -> None:
    """Two for each instance, and more: many systems start processes with no more than 1,024."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, DESCRIPTORS), hard))


def listen(settings: Settings) -> socket.socket:
    """The API's socket, 0600 from the moment it has a name."""
    settings.socket.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        server.bind(str(settings.socket))
    finally:
        os.umask(before)
    return server


async def serve(settings: Settings) -> None:
    agent = await Agent.start(settings)
    scraped = None
    try:
        if settings.metrics_listen:
            scraped = await metrics.serve(metrics.place_of(settings.metrics_listen), agent.observation)
        config = uvicorn.Config(
            make_app(agent),
            http=RootOnly,
            ws="websockets-sansio",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
        # uvicorn stops on it, and then raises it again, which would end the process before it has let go of anything.
        signal.signal(signal.SIGTERM, lambda *_: None)
        await uvicorn.Server(config).serve(sockets=[listen(settings)])
    finally:
        if scraped:
            scraped.close()
        if await systemctl.goes_down():
            await rest(agent)
        await agent.stop()
        settings.socket.unlink(missing_ok=True)


async def rest(agent: Agent) -> None:
    """Left alone, instances would be told to end by the machine's last steps, all at once and beside their mesh."""
    log.info("the machine goes down: stopping what runs")
    try:
        await agent.rest(REST_PATIENCE)
    except WhitError as error:
        log.warning("%s", error)


def main() -> None:
    """Entry of the whitd command."""
    parser = argparse.ArgumentParser(prog="whitd", description="The agent of a Whit node.")
    parser.add_argument("--id", help="the agent's id (default: $WHIT_ID, or whit)")
    parser.add_argument("--verbose", action="store_true", help="log every operation")
    arguments = parser.parse_args()
    logs.configure(verbose=arguments.verbose)
    try:
        settings = Settings.from_environment()
        if arguments.id:
            settings = replace(settings, id=arguments.id)
        allow_descriptors()
        with only_agent(settings):
            asyncio.run(serve(settings))
    except WhitError as error:
        log.error("%s", error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
