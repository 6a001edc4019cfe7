"""skopeo: copies an image from a registry into an OCI layout. What comes is verified by whoever takes it from there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from whit.base.errors import CommandError, NotFound, Unreachable
from whit.tools import process

_TIMEOUT = 1800.0
_ABSENT = re.compile(r"manifest unknown|name unknown|not found|denied|unauthorized|authentication required", re.I)


async def copy(
    reference: str,
    layout: Path,
    *,
    architecture: str,
    verify_tls: bool = True,
    authfile: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Copy `reference` (REGISTRY/NAME:TAG or @DIGEST) for one architecture into a new layout.

    Raises:
        NotFound: the registry does not have it, or does not show it to us.
        Unreachable: the registry does not answer.
    """
    argv = ["skopeo", "--override-os", "linux", "--override-arch", architecture, "copy", "--quiet"]
    argv += [f"--src-tls-verify={'true' if verify_tls else 'false'}"]
    argv += ["--src-authfile", str(authfile)] if authfile else []
    try:
        await process.run([*argv, f"docker://{reference}", f"oci:{layout}:image"], env=env, timeout=_TIMEOUT)
    except CommandError as error:
        detail = error.stderr.splitlines()[-1] if error.stderr else ""
        if _ABSENT.search(error.stderr):
            hint = "check the name and the tag; for a private one: skopeo login REGISTRY"
            raise NotFound(f"there is no image {reference} to be had: {detail}", hint=hint) from error
        hint = "check the network, the name of the registry and its certificate"
        raise Unreachable(f"{reference} cannot be fetched: {detail}", hint=hint) from error
