"""Manifest: the documents of the OCI image specification v1.1, read strictly and written in one form.

Specified in opencontainers/image-spec: descriptor.md, manifest.md, config.md, image-index.md.
"""

from __future__ import annotations

import json
import platform as machine
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from whit.base.errors import InputError
from whit.model.image import ImageConfig

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYERS = {LAYER: "", f"{LAYER}+gzip": "gzip", f"{LAYER}+zstd": "zstd"}
"""Media types of layers that can be unpacked, and how they are compressed."""
REF_NAME = "org.opencontainers.image.ref.name"

_SIGNATURE = re.compile(r"sha256-[0-9a-f]{64}\.sig")
DAMAGED = "the tool that wrote the image is at fault, or it was changed: write or fetch it anew"
"""The remedy for documents that are not what they should be."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "riscv64": "riscv64", "s390x": "s390x"}


def architecture() -> str:
    """This machine's architecture, as OCI (and Go) names it."""
    name = machine.machine()
    return _ARCHITECTURES.get(name, name)


def checked_digest(digest: str) -> str:
    """Raises InputError unless it is sha256:<64 hex digits>: a digest becomes part of a path."""
    if not _DIGEST.fullmatch(digest):
        raise InputError(
            f"{digest!r} is not a sha256 digest", hint="images with other digests are not supported", code="digest-form"
        )
    return digest


def signature_name(digest: str) -> str:
    """The name under which cosign keeps the signatures of the image with this digest."""
    return f"{checked_digest(digest).replace(':', '-')}.sig"


def is_signature(name: str) -> bool:
    return bool(_SIGNATURE.fullmatch(name))


def signed_digest(name: str) -> str:
    """The digest of the image that the signatures with this name are of."""
    return name.removesuffix(".sig").replace("-", ":", 1)


@dataclass(frozen=True)
class Descriptor:
    """Points at a blob."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = field(default_factory=dict)
    platform: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, document: dict[str, Any]) -> Descriptor:
        try:
            return cls(
                str(document["mediaType"]),
                checked_digest(str(document["digest"])),
                int(document["size"]),
                dict(document.get("annotations") or {}),
                dict(document.get("platform") or {}),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = f"bad descriptor {json.dumps(document)[:200]}: {error!r}"
            raise InputError(text, hint=DAMAGED, code="descriptor") from error

    def document(self) -> dict[str, Any]:
        optional = {"annotations": self.annotations, "platform": self.platform}
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size} | {
            key: value for key, value in optional.items() if value
        }


@dataclass(frozen=True)
class Layer:
    """A layer's blob, and the digest of its uncompressed tar."""

    descriptor: Descriptor
    diff_id: str


@dataclass(frozen=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]


def encode(document: dict[str, Any]) -> bytes:
    """The one form in which this project writes JSON blobs."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse(data: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise InputError(f"{what} is not JSON: {error}", hint=DAMAGED, code="document-no-json") from error
    if not isinstance(document, dict):
        raise InputError(f"{what} is not a JSON object", hint=DAMAGED, code="document-no-object")
    return document


def parse_manifest(document: dict[str, Any]) -> Manifest:
    """Raises InputError that names a media type which is not supported."""
    config = Descriptor.parse(document.get("config") or {})
    layers = tuple(Descriptor.parse(layer) for layer in document.get("layers") or ())
    if config.media_type != CONFIG:
        raise InputError(
            f"the configuration's media type {config.media_type!r} is not that of an image",
            hint="artifacts other than images cannot be run",
            code="config-media-type",
        )
    for layer in layers:
        if layer.media_type not in LAYERS:
            raise InputError(
                f"layer {layer.digest[:19]} has the unsupported media type {layer.media_type!r}",
                hint="convert it with: skopeo copy --format oci --dest-compress-format gzip …",
                code="layer-media-type",
            )
    return Manifest(config, layers)


def manifest_document(config: Descriptor, layers: Sequence[Descriptor], annotations: dict[str, str]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.document(),
        "layers": [layer.document() for layer in layers],
    }
    return document | ({"annotations": annotations} if annotations else {})


def config_document(
    config: ImageConfig,
    layers: Sequence[Layer],
    created_by: Sequence[str],
    labels: dict[str, str],
    machines: str = "",
) -> dict[str, Any]:
    """The image configuration, for this machine's architecture unless another is named.

    There is no creation time: it would make equal images differ.
    """
    run: dict[str, Any] = {
        "Env": [f"{name}={value}" for name, value in sorted(config.env.items())],
        "WorkingDir": config.working_dir,
        "StopSignal": config.stop_signal,
        "User": config.user,
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.command),
        "Volumes": {path: {} for path in config.volumes},
        "Labels": labels,
    }
    return {
        "architecture": machines or architecture(),
        "os": "linux",
        "config": {key: value for key, value in run.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created_by": text} for text in created_by],
    }


def parse_config(document: dict[str, Any]) -> ImageConfig:
    run = document.get("config") or {}
    pairs = (pair.partition("=") for pair in run.get("Env") or ())
    return ImageConfig(
        user=run.get("User") or "",
        env={name: value for name, _, value in pairs},
        entrypoint=tuple(run.get("Entrypoint") or ()),
        command=tuple(run.get("Cmd") or ()),
        working_dir=run.get("WorkingDir") or "/",
        stop_signal=run.get("StopSignal") or "SIGTERM",
        volumes=tuple(sorted(run.get("Volumes") or {})),
    )


def parse_diff_ids(document: dict[str, Any]) -> tuple[str, ...]:
    return tuple(checked_digest(str(item)) for item in (document.get("rootfs") or {}).get("diff_ids") or ())
