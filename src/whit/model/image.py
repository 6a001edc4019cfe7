"""Image: linked parts, content-addressed, in an OCI layout."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pydantic import Field

from whit.model.base import Noun
from whit.model.build import BuildSpec
from whit.model.lock import Lock
from whit.model.progress import Report


class ImageConfig(Noun):
    """The part of an OCI image configuration that decides how an instance runs."""

    user: str = ""
    env: dict[str, str] = Field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    working_dir: str = "/"
    stop_signal: str = "SIGTERM"
    volumes: tuple[str, ...] = ()


class Image(Noun):
    """An image of the store, unpacked and ready to be mounted."""

    name: str = Field(description="Name and tag in the store.")
    digest: str = Field(description="Digest of the manifest, as sha256:<hex>.")
    config: ImageConfig
    layers: tuple[Path, ...] = Field(description="Directories of the unpacked layers, lowest first.")
    size: int = Field(description="Bytes of all layer blobs.")
    cached: bool = Field(default=False, description="Nothing had to be built or fetched.")


class Images(Protocol):
    """What the image area offers."""

    async def build(
        self,
        name: str,
        spec: BuildSpec,
        report: Report,
        *,
        refresh: bool = False,
        lock: Lock | None = None,
        fetch: bool = True,
        observe: bool = False,
    ) -> Image:
        """Link the parts, or find the result of the same parts, and unpack it. Raises InputError, CommandError.

        With `refresh` the parts are looked up anew, as if nothing had been built. What `lock` has is taken as it says;
        without `fetch` everything must be in it, and here. With `observe` the checks run in the whole image first, and
        what they open stays in closures.
        """
        ...

    async def built(self, name: str, spec: BuildSpec, lock: Lock | None = None) -> Image | None:
        """What `build` has made of the same parts, if all of it is here. Raises InputError."""
        ...

    async def obtain(self, reference: str, report: Report, *, fetch: bool = True) -> Image:
        """Find `reference` in the store, import it, or pull it, and unpack it. Raises NotFound, NotLocked."""
        ...

    async def obtained(self, reference: str) -> Image | None:
        """What `obtain` would find without importing, pulling or unpacking anything."""
        ...


class Leases(Protocol):
    """Keeps images from being collected as garbage. Leases survive restarts."""

    def hold(self, holder: str, image: Image) -> None:
        """Keep the image's layers until `release(holder)`, whatever happens to its name."""
        ...

    def release(self, holder: str) -> None:
        """Safe to repeat."""
        ...


class StoredImage(Noun):
    """An image as the store lists it."""

    name: str
    digest: str
    size: int = Field(description="Bytes of all layer blobs.")
    created: str = Field(default="", description="RFC 3339.")
