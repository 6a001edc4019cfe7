"""Reference: what a person writes to name an image: a stored name, a path, or a registry's.

The grammar of registry names and their short forms is that of Docker (distribution/reference).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import InputError

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST = re.compile(r"(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9a-fA-F:]+\])(?::\d+)?")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d+){3}|\[::1\])(?::\d+)?")


@dataclass(frozen=True)
class PathReference:
    """oci:PATH[:NAME] or oci-archive:PATH[:NAME]."""

    path: Path
    name: str | None


@dataclass(frozen=True)
class RegistryReference:
    """In full: host/name, and a tag or a digest."""

    host: str
    name: str
    tag: str = ""
    digest: str = ""

    def __str__(self) -> str:
        return f"{self.host}/{self.name}" + (f"@{self.digest}" if self.digest else f":{self.tag}")

    @property
    def loopback(self) -> bool:
        """A registry on this machine is spoken to without TLS too, as Docker does."""
        return bool(_LOOPBACK.fullmatch(self.host))


def parse(text: str) -> PathReference | RegistryReference:
    """Raises InputError."""
    for scheme in ("oci:", "oci-archive:"):
        if text.startswith(scheme):
            path, _, name = text.removeprefix(scheme).partition(":")
            return PathReference(Path(path), name or None)
    rest, _, digest = text.partition("@")
    name, tag = rest, "latest"
    if ":" in rest.rpartition("/")[2]:
        name, _, tag = rest.rpartition(":")
    host, name = _host(name)
    valid = _HOST.fullmatch(host) and _NAME.fullmatch(name) and _TAG.fullmatch(tag)
    if not valid or ("@" in text and not _DIGEST.fullmatch(digest)):
        raise InputError(
            f"{text!r} does not name an image",
            hint="write NAME, HOST/NAME:TAG, oci:PATH or oci-archive:PATH; names are in lower case",
        )
    return RegistryReference(host, name, "" if digest else tag, digest)


def _host(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return first, rest
    return "docker.io", name if slash else f"library/{name}"
