"""skopeo: copies an image from a registry into an OCI layout. What comes is verified by whoever takes it from there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from whit.base.errors import CommandError, NotFound, Unreachable
from whit.tools import process

_TIMEOUT = 1800.0
_CONVERTED = re.compile(r"preserve digests", re.I)
"""Docker's own manifests become OCI's, and so get another digest; all others stay as they were signed."""
_ABSENT = re.compile(r"manifest unknown|name unknown|not found|denied|unauthorized|authentication required", re.I)


async def copy(
    reference: str,
    layout: Path,
    *,
    architecture: str,
    verify_tls: bool = True,
    authfile: Path | None = None,
    env: Mapping[str, str] | None = None,
    name: str = "image",
) -> None:
    """Copy `reference` (REGISTRY/NAME:TAG or @DIGEST) for one architecture into a layout, under a name.

    Raises:
        NotFound: the registry does not have it, or does not show it to us.
        Unreachable: the registry does not answer.
    """
    argv = ["skopeo", "--override-os", "linux", "--override-arch", architecture, "copy", "--quiet"]
    argv += [f"--src-tls-verify={'true' if verify_tls else 'false'}"]
    argv += ["--src-authfile", str(authfile)] if authfile else []
    places = (f"docker://{reference}", f"oci:{layout}:{name}")
    try:
        try:
            await process.run([*argv, "--preserve-digests", *places], env=env, timeout=_TIMEOUT)
        except CommandError as error:
            if not _CONVERTED.search(error.stderr):
                raise
            await process.run([*argv, *places], env=env, timeout=_TIMEOUT)
    except CommandError as error:
        raise _told(reference, error) from error


def _told(reference: str, error: CommandError) -> NotFound | Unreachable:
    detail = error.stderr.splitlines()[-1] if error.stderr else ""
    if _ABSENT.search(error.stderr):
        hint = "check the name and the tag; for a private one: skopeo login REGISTRY"
        return NotFound(f"there is no image {reference} to be had: {detail}", hint=hint)
    hint = "check the network, the name of the registry and its certificate"
    return Unreachable(f"{reference} cannot be fetched: {detail}", hint=hint)
