"""Trust: asks for the signatures without which an image is not run, by the rules of the app and of the node.

It is asked when an app is brought up, where a person reads the answer, and again before each instance begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from whit.base.settings import Settings
from whit.formats.app.trust import load_trust
from whit.image.store.images import ImageStore
from whit.image.trust import keys
from whit.model.image import Image
from whit.model.trust import TrustRule


@dataclass(frozen=True)
class VerifyImage:
    """Changes nothing; what follows is not done if it fails."""

    store: ImageStore
    image: Image
    rules: tuple[TrustRule, ...]

    def describe(self) -> str:
        return f"verify who vouches for image {self.image.name}"

    async def do(self) -> None:
        await asyncio.to_thread(require, self.store, [self.image], self.rules)

    async def undo(self) -> None:
        return


def rules(settings: Settings, own: Sequence[TrustRule]) -> tuple[TrustRule, ...]:
    """The app's own and the node's. Raises InputError if the node's cannot be read."""
    return (*own, *(load_trust(settings.trust) if settings.trust else ()))


def verification(store: ImageStore, image: Image, asked: Iterable[TrustRule]) -> list[VerifyImage]:
    """What has to be done before the image is run; nothing if no rule covers it."""
    covering = tuple(rule for rule in asked if rule.covers(image.name))
    return [VerifyImage(store, image, covering)] if covering else []


def require(store: ImageStore, images: Iterable[Image], asked: Sequence[TrustRule]) -> None:
    """Every rule that covers an image has to be met.

    Raises:
        Untrusted: nobody of those asked for vouches for an image.
        DigestMismatch: it was changed in the store.
        BadKey: a rule names a key that is none.
    """
    for image in images:
        for rule in asked:
            if rule.covers(image.name):
                wanted = [keys.read_public(text.encode(), f"a key of {rule.images}") for text in rule.keys]
                store.verify(image.name, wanted, digest=image.digest)
