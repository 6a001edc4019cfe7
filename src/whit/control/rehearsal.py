"""Rehearsal: what policies would do, asked of the agent before they are applied. Nothing of it changes anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from whit.control.network import NodeNetwork
from whit.kernel.thread import in_thread
from whit.mesh.check import check
from whit.mesh.scenario import Present
from whit.model.app import AppSpec
from whit.model.finding import Candidate, Finding


class Rehearsal:
    """Of one node. What takes long is done in a thread."""

    def __init__(self, network: NodeNetwork, apps: Callable[[], Sequence[AppSpec]]) -> None:
        self.network = network
        self.apps = apps

    async def check(self, candidate: Candidate) -> list[Finding]:
        """What is doubtful about it beside what runs now."""
        return await in_thread(check, candidate, self._present())

    def _present(self) -> Present:
        network = self.network
        return Present(tuple(self.apps()), network.policies, network.books.identities, network.instance_addresses)
