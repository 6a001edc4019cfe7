"""Reference: what a person writes to name an image: a stored name, a path, or a registry's.

The grammar of registry names and their short forms is that of Docker (distribution/reference).
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import InputError, NotFound

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_HOST = re.compile(r"(?:[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*|\[[0-9a-fA-F:]+\])(?::\d+)?")
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d+){3}|\[::1\])(?::\d+)?")

SEARCH = Path("/etc/containers/registries.conf")


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
    """Raises InputError, and NotFound for a short name where the machine names no registry for such."""
    for scheme in ("oci:", "oci-archive:"):
        if text.startswith(scheme):
            path, _, name = text.removeprefix(scheme).partition(":")
            return PathReference(Path(path), name or None)
    rest, _, digest = text.partition("@")
    name, tag = rest, "latest"
    if ":" in rest.rpartition("/")[2]:
        name, _, tag = rest.rpartition(":")
    host, name = _host(name)
    valid = (not host or _HOST.fullmatch(host)) and _NAME.fullmatch(name) and _TAG.fullmatch(tag)
    if not valid or ("@" in text and not _DIGEST.fullmatch(digest)):
        raise InputError(
            f"{text!r} does not name an image",
            hint="write NAME, HOST/NAME:TAG, oci:PATH or oci-archive:PATH; names are in lower case",
            code="image-name",
        )
    return RegistryReference(host or _registry_for(name), name, "" if digest else tag, digest)


def _host(name: str) -> tuple[str, str]:
    """The host, empty if the name has none, and the rest."""
    first, slash, rest = name.partition("/")
    if slash and (first == "localhost" or "." in first or ":" in first):
        return first, rest
    return "", name


def _registry_for(name: str) -> str:
    registry = default_registry()
    if registry is None:
        raise NotFound(
            f"there is no image {name}: it is not stored here, and the name says no registry",
            hint=f"write HOST/{name}:TAG, build it from parts, or name a registry for short names in {SEARCH}",
            code="image-no-registry",
        )
    return registry


def default_registry(path: Path | None = None) -> str | None:
    """Where names without a registry are looked for: the first one of the machine's own list, which skopeo and podman
    read too (containers-registries.conf(5)). Whit itself prefers none."""
    try:
        document = tomllib.loads((path or SEARCH).read_text())
    except FileNotFoundError:
        return None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path or SEARCH}: {error}", hint="correct the file") from None
    listed = document.get("unqualified-search-registries", [])
    return str(listed[0]) if listed else None
