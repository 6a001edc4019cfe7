"""Who looks out in sandboxes whose program waits behind its gate: a process that is there already, and tells where
somebody listens in a hundredth of the time that it takes to start one. Each stays until it has seen somebody.

Another agent has none, and starts one for each look.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from whit.base.errors import NotFound, WhitError
from whit.kernel.network import sockets
from whit.kernel.network.sockets import Place
from whit.kernel.thread import in_thread
from whit.runtime import programs
from whit.tools.runsc import Runsc
from whit.tools.sentry import Lookout

log = logging.getLogger(__name__)


class Lookouts:
    """Of one agent, by instance."""

    def __init__(self) -> None:
        self._kept: dict[str, Lookout] = {}

    async def place(self, name: str, runtime: Runsc) -> None:
        for other in [other for other, one in self._kept.items() if other == name or one.has_ended]:
            self.drop(other)
        try:
            self._kept[name] = await runtime.lookout(name, programs.path("listeners"))
        except WhitError as error:
            log.warning("nobody looks out in %s: %s", name, error)

    def drop(self, name: str) -> None:
        """Content if there is none."""
        if (one := self._kept.pop(name, None)) is not None:
            one.close()

    async def listening(self, name: str, runtime: Runsc) -> set[Place]:
        """Raises CommandError, Permanent: that cannot be seen."""
        if (one := self._kept.get(name)) is not None:
            try:
                there = sockets.shown(await in_thread(one.ask))
            except NotFound:
                self.drop(name)
            else:
                if there:
                    self.drop(name)
                return there
        return await runtime.listening(name, programs.path("listeners"))


@dataclass(frozen=True)
class PlaceLookout:
    lookouts: Lookouts
    runtime: Runsc
    name: str

    def describe(self) -> str:
        return f"have somebody look out who listens in {self.name}"

    async def do(self) -> None:
        await self.lookouts.place(self.name, self.runtime)

    async def undo(self) -> None:
        self.lookouts.drop(self.name)
