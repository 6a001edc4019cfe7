"""Progress: what long work says while it runs."""

from __future__ import annotations

from collections.abc import Callable

from whit.model.base import Noun


class Progress(Noun):
    """One step of long work, as the person sees it."""

    subject: str
    """What is worked on: a service or an instance."""
    step: str
    """What is done to it, as `fetch 12 of 40 packages`."""
    done: bool = False
    failed: bool = False


Report = Callable[[Progress], None]
"""Called from any thread of the event loop's process; must not block."""
