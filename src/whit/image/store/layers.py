"""The layers of images, unpacked: where each lies for the runtime, and how it comes there.

Which images there are is images.py's; what a layer's archive may hold is rootfs/unpack.py's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from whit.base.errors import Permanent
from whit.image.oci import manifest
from whit.image.oci.layout import Layout
from whit.image.oci.manifest import Descriptor, Layer
from whit.image.rootfs import unpack
from whit.image.sandbox.processes import failure, module_environment
from whit.image.store.turns import Turns, together
from whit.model.image import Image
from whit.tools import process

_TIMEOUT = 1800.0


class Layers:
    """Each in a directory below `place`, named for the digest of its contents."""

    def __init__(self, layout: Layout, place: Path, turns: Turns) -> None:
        self.layout = layout
        self.place = place
        self._turns = turns

    async def unpacked(self, name: str, descriptor: Descriptor, say: Callable[[str], None]) -> Image:
        """The image with this manifest, when all its layers are there. Raises Permanent, InputError, DiskFull."""
        layers = self.of(descriptor)
        missing = [item for item in layers if not self.directory(item).exists()]
        if missing:
            say(f"unpack {len(missing)} of {len(layers)} layers")
            await together(self._unpack(item) for item in missing)
        return self.image(name, descriptor, cached=not missing)

    async def _unpack(self, item: Layer) -> None:
        """In a process of its own."""
        request = {
            "blob": str(self.layout.path(item.descriptor.digest)),
            "compression": manifest.LAYERS[item.descriptor.media_type],
            "diff_id": item.diff_id,
            "destination": str(self.directory(item)),
        }
        async with self._turns.heavy:
            ended = await process.run(
                [sys.executable, "-m", unpack.__name__],
                stdin=json.dumps(request).encode(),
                env=module_environment(),
                timeout=_TIMEOUT,
                check=False,
            )
        if ended.returncode == 1 and ended.stdout:
            raise failure(json.loads(ended.stdout))
        if ended.returncode != 0:
            text = f"unpacking {item.diff_id} ended with {ended.returncode}: {ended.stderr[-2000:]}"
            raise Permanent(
                text, hint="is there memory left? Otherwise this is a fault of Whit", code="unpacking-ended"
            )

    def of(self, descriptor: Descriptor) -> list[Layer]:
        """Of the image with this manifest, lowest first."""
        document = manifest.parse_manifest(self.layout.read(descriptor.digest))
        ids = manifest.parse_diff_ids(self.layout.read(document.config.digest))
        return [Layer(blob, diff_id) for blob, diff_id in zip(document.layers, ids, strict=True)]

    def directory(self, item: Layer) -> Path:
        """Where it lies, or will."""
        return self.place / item.diff_id.removeprefix("sha256:")

    def image(self, name: str, descriptor: Descriptor, *, cached: bool) -> Image:
        """As the rest of Whit knows it; its layers may still have to be unpacked."""
        document = manifest.parse_manifest(self.layout.read(descriptor.digest))
        config = manifest.parse_config(self.layout.read(document.config.digest))
        layers = tuple(self.directory(item) for item in self.of(descriptor))
        size = sum(item.size for item in document.layers)
        return Image(name=name, digest=descriptor.digest, config=config, layers=layers, size=size, cached=cached)

    def here(self, name: str, descriptor: Descriptor | None) -> Image | None:
        """The image, if it is stored and unpacked."""
        if descriptor is None or not self.layout.has(descriptor.digest):
            return None
        image = self.image(name, descriptor, cached=True)
        return image if all(path.exists() for path in image.layers) else None

    def size(self, descriptor: Descriptor) -> int:
        """Bytes of the layers' blobs."""
        return sum(item.descriptor.size for item in self.of(descriptor))
