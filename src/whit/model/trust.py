"""Trust: which images have to be signed, and by whom, before they are run."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pydantic import Field

from whit.model.base import Noun


class TrustRule(Noun):
    """Images of these names are run only if one of the keys vouches for them. Every rule that fits has to be met."""

    images: str = Field(min_length=1, description="Names of images; * is any text, as in `registry.example.com/*`.")
    keys: tuple[str, ...] = Field(min_length=1, description="Public keys: files with PEM, one of which has to fit.")

    def covers(self, name: str) -> bool:
        return fnmatchcase(name, self.images)
