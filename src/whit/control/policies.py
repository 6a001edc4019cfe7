"""Policies that were applied by themselves, beside those of apps: kept in the store, and handed to the mesh."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from whit.base.errors import NotFound
from whit.cluster.documents import Documents
from whit.control.network import NodeNetwork
from whit.model.policy import PolicySpec

CLUSTER = "-"
"""Stands for the app of a policy of the whole cluster in the document's key; no app can have this name."""


class Policies:
    """In the order of their apps and names. Whoever changes them writes the maps then."""

    def __init__(self, documents: Documents, network: NodeNetwork) -> None:
        self.documents = documents
        self.network = network

    async def load(self) -> None:
        self._hand_over(await self.documents.list(PolicySpec, "policy"))

    @property
    def all(self) -> tuple[PolicySpec, ...]:
        return self.network.policies

    async def apply(self, policies: Sequence[PolicySpec]) -> None:
        """Add them; one of the same app and name takes the other's place."""
        for policy in policies:
            await self.documents.put(policy, "policy", policy.app or CLUSTER, policy.name)
        named = {(policy.app, policy.name): policy for policy in (*self.all, *policies)}
        self._hand_over(named.values())

    async def remove(self, app: str, name: str) -> None:
        """`app` is empty for one of the whole cluster. Raises NotFound."""
        if not any((policy.app, policy.name) == (app, name) for policy in self.all):
            known = ", ".join(policy.title for policy in self.all) or "none"
            raise NotFound(f"there is no policy {f'{app}/' if app else ''}{name}", hint=f"there are: {known}")
        await self.documents.delete("policy", app or CLUSTER, name)
        self._hand_over(policy for policy in self.all if (policy.app, policy.name) != (app, name))

    def _hand_over(self, policies: Iterable[PolicySpec]) -> None:
        self.network.policies = tuple(sorted(policies, key=lambda policy: (policy.app, policy.name)))
