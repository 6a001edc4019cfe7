"""Release: an app as it was last brought up, with the image of each service settled.

Kept in the store, so that an agent that starts anew runs what was brought up, not what the person edited since.
"""

from __future__ import annotations

from pydantic import Field

from whit.model.app import AppSpec
from whit.model.base import Noun
from whit.model.image import Image


class Release(Noun):
    spec: AppSpec
    images: dict[str, Image]
    """By service."""
    restarts: dict[str, int] = Field(default_factory=dict)
    """How often the person asked for a restart, by service: a change makes new instances."""
