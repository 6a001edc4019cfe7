"""Signing: who vouches for an image, or for a file that was made of one, in cosign's format.

Specified in sigstore/cosign specs/SIGNATURE_SPEC.md: the payload names the manifest's digest; payload and signature are
a layer of an image with the tag `sha256-<digest>.sig` in the same layout. Beside a file, `FILE.sig` holds the signature
alone, as `cosign sign-blob` writes it. Which images have to be signed is not decided here.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from whit.base.errors import BadKey, DigestMismatch, ForeignSignature, NotFound, NotSigned, WrongKey, system_failure
from whit.image.oci import archive, manifest
from whit.image.oci.archive import Source
from whit.image.oci.layout import Layout
from whit.image.oci.manifest import Descriptor
from whit.image.trust import keys
from whit.image.trust.keys import PrivateKey, PublicKey

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
_TYPE = "cosign container image signature"
_EPOCH = "0001-01-01T00:00:00Z"
_SUFFIX = ".sig"
_LISTING = ".sha256"


def payload(digest: str, name: str) -> bytes:
    """What is signed: simple signing, as cosign writes it (containers/image, containers-signature.5.md)."""
    critical = {"identity": {"docker-reference": name}, "image": {"docker-manifest-digest": digest}, "type": _TYPE}
    return json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()


def _repository(name: str) -> str:
    """A name without tag and digest: what tools compare that look at the name too, as skopeo does."""
    path, slash, last = name.partition("@")[0].rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}"


def sign(layout: Layout, descriptor: Descriptor, name: str, key: PrivateKey) -> Descriptor:
    """Add the key's signature to those of the image; one that is there is enough. Where they are kept."""
    public = key.public_key()
    present = _signatures(layout, descriptor.digest)
    kept = [item for item in present if not _vouches(layout, item, descriptor.digest, [public])]
    content = payload(descriptor.digest, _repository(name))
    blob, size = layout.put(io.BytesIO(content))
    item = Descriptor(PAYLOAD, blob, size, {SIGNATURE: keys.sign(key, hashlib.sha256(content).digest())})
    return _keep(layout, descriptor.digest, [*kept, item])


def verify(layout: Layout, descriptor: Descriptor, name: str, wanted: Sequence[PublicKey]) -> PublicKey:
    """The key that vouches for the image, one of those `wanted`.

    Raises:
        NotSigned: there is no signature.
        WrongKey: there are, but none by these keys.
        ForeignSignature: one of these keys signed, but another image.
        DigestMismatch: image or signature were changed in the store.
    """
    present = _signatures(layout, descriptor.digest)
    if not present:
        raise NotSigned(f"{name} is not signed", hint=f"sign it: whit image sign {name} --key FILE")
    layout.read(descriptor.digest)
    for item in present:
        if found := _vouches(layout, item, descriptor.digest, wanted):
            return found
    if any(_signed(layout, item, wanted) for item in present):
        raise ForeignSignature(
            f"the signature that is kept for {name} is of another image", hint="the store was tampered with: sign anew"
        )
    known = ", ".join(keys.fingerprint(key) for key in wanted)
    raise WrongKey(f"{name} is signed, but not by {known}", hint="sign it with that key, or trust the other one")


def verify_blobs(layout: Layout, descriptor: Descriptor) -> None:
    """That configuration and layers are what the manifest says. Raises DigestMismatch, NotFound."""
    document = manifest.parse_manifest(layout.read(descriptor.digest))
    layout.read(document.config.digest)
    for item in document.layers:
        path = layout.path(item.digest)
        if not path.exists():
            raise NotFound(f"blob {item.digest} is not in {layout.root}", hint="build or fetch the image again")
        if f"sha256:{_digest(path).hex()}" != item.digest:
            raise DigestMismatch(f"{path} does not have the content that its name says", hint="remove it, build again")


def bring(origin: Source, layout: Layout, digest: str) -> None:
    """Take over the signatures of an image from where it comes from, if there are any; what is here stays."""
    document = archive.find(origin, manifest.signature_name(digest))
    present = _signatures(layout, digest)
    found = [item for item in _items(document) if item not in present]
    for item in found:
        archive.copy(origin, item, layout)
    if found:
        _keep(layout, digest, [*present, *found])


def blobs(layout: Layout, digest: str) -> list[Descriptor]:
    """All blobs of the signatures of an image, the manifest's last; none if it is not signed."""
    found = layout.find(manifest.signature_name(digest))
    if found is None:
        return []
    document = layout.read(found.digest)
    return [*map(Descriptor.parse, document["layers"]), Descriptor.parse(document["config"]), found]


def sign_file(path: Path, key: PrivateKey) -> Path:
    """Write the signature of a file, or of a directory's files, beside it. Where it is."""
    beside = path.with_name(path.name + _SUFFIX)
    try:
        if path.is_dir():
            path.with_name(path.name + _LISTING).write_bytes(_listing(path))
        beside.write_text(keys.sign(key, _digest(path)) + "\n")
    except OSError as error:
        raise system_failure("sign", error) from error
    return beside


def verify_file(path: Path, wanted: Sequence[PublicKey]) -> PublicKey:
    """The key that vouches for a file, or for a directory's files. Raises NotSigned, WrongKey."""
    beside = path.with_name(path.name + _SUFFIX)
    if not beside.is_file():
        raise NotSigned(f"{path} is not signed: there is no {beside.name}", hint=f"whit image sign {path} --key FILE")
    try:
        digest, signature = _digest(path), beside.read_text(errors="replace").strip()
    except OSError as error:
        raise system_failure("read", error) from error
    found = next((key for key in wanted if keys.holds(key, digest, signature)), None)
    if found is None:
        known = ", ".join(keys.fingerprint(key) for key in wanted)
        hint = "fetch or build it again; do not run it"
        raise WrongKey(f"{beside.name} is no signature of {path} by {known}, or the file was changed", hint=hint)
    return found


def _listing(directory: Path) -> bytes:
    """What sha256sum prints of a directory's files, sorted by path, from beside it."""
    files = sorted(item for item in directory.rglob("*") if item.is_file())
    rows = (f"{_digest(item).hex()}  {directory.name}/{item.relative_to(directory)}\n" for item in files)
    return "".join(rows).encode()


def _digest(path: Path) -> bytes:
    """A file's SHA-256, or that of a directory's listing."""
    if path.is_dir():
        return hashlib.sha256(_listing(path)).digest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _signatures(layout: Layout, digest: str) -> list[Descriptor]:
    found = layout.find(manifest.signature_name(digest))
    return _items(layout.read(found.digest) if found else {})


def _items(document: dict[str, Any]) -> list[Descriptor]:
    items = map(Descriptor.parse, document.get("layers") or ())
    return [item for item in items if item.media_type == PAYLOAD and SIGNATURE in item.annotations]


def _signed(layout: Layout, item: Descriptor, wanted: Iterable[PublicKey]) -> tuple[PublicKey, bytes] | None:
    """Which of the keys signed this payload, and the payload."""
    content = layout.read_bytes(item.digest)
    digest, signature = hashlib.sha256(content).digest(), item.annotations[SIGNATURE]
    return next(((key, content) for key in wanted if keys.holds(key, digest, signature)), None)


def _vouches(layout: Layout, item: Descriptor, digest: str, wanted: Iterable[PublicKey]) -> PublicKey | None:
    """Which of the keys says of this image, in this payload, that it is the one."""
    signed = _signed(layout, item, wanted)
    if signed is None:
        return None
    key, content = signed
    critical = manifest.parse(content, item.digest).get("critical")
    named = critical.get("image") if isinstance(critical, dict) else None
    right = isinstance(named, dict) and named.get("docker-manifest-digest") == digest
    return key if right and isinstance(critical, dict) and critical.get("type") == _TYPE else None


def _keep(layout: Layout, digest: str, items: Sequence[Descriptor]) -> Descriptor:
    config = {
        "architecture": "",
        "config": {},
        "created": _EPOCH,
        "history": [{"created": _EPOCH} for _ in items],
        "os": "",
        "rootfs": {"diff_ids": [item.digest for item in items], "type": "layers"},
    }
    written = manifest.manifest_document(layout.put_document(manifest.CONFIG, config), items, {})
    descriptor = layout.put_document(manifest.MANIFEST, written)
    layout.tag(manifest.signature_name(digest), descriptor)
    return replace(descriptor, annotations={manifest.REF_NAME: manifest.signature_name(digest)})


def read_public_keys(paths: Sequence[Path]) -> list[PublicKey]:
    """Raises BadKey, that names the file."""
    return [keys.read_public(_read(path), str(path)) for path in paths]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadKey(f"{path} cannot be read: {error.strerror}", hint="name a file with a public key in PEM") from error
