"""Names: what text becomes as the name of an app or service."""

from __future__ import annotations

import re


def valid_name(text: str) -> str:
    """`text` made the name of an app or service: a DNS label of at most 39 characters that begins with a letter."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return (name if name[:1].isalpha() else f"app-{name}".rstrip("-"))[:39].rstrip("-")
