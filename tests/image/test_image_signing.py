"""Signatures: what openssl and skopeo accept, what is refused, and that no change of image or signature goes unseen."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import httpx
import pytest
from support.images import need

from whit.base.errors import BadKey, DigestMismatch, ForeignSignature, NotSigned, WrongKey, WrongPassword
from whit.base.settings import Settings
from whit.image.oci import manifest
from whit.image.store.images import ImageStore
from whit.image.trust import keys, signing
from whit.model.build import BuildSpec, DirectoryPart
from whit.model.image import Image
from whit.model.progress import Report


async def built(store: ImageStore, tmp_path: Path, report: Report, text: str = "hello", name: str = "web") -> Image:
    site = tmp_path / f"site-{name.partition('/')[0]}"
    site.mkdir(exist_ok=True)
    (site / "index").write_text(text)
    return await store.build(name, BuildSpec(parts=(DirectoryPart(path=site),)), report)


def openssl_accepts(scratch: Path, key: keys.PrivateKey, message: bytes, signature: str) -> None:
    """An implementation of another hand."""
    (scratch / "signature").write_bytes(base64.b64decode(signature))
    (scratch / "key.pub").write_bytes(keys.public_pem(key.public_key()))
    verify = ["openssl", "dgst", "-sha256", "-verify", "key.pub", "-signature", "signature"]
    done = subprocess.run(verify, input=message, check=True, capture_output=True, cwd=scratch)
    assert done.stdout == b"Verified OK\n"


def test_private_key_is_opened_by_its_password_alone() -> None:
    key = keys.generate()
    sealed = keys.seal(key, b"secret")
    assert sealed.startswith(b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n")
    again = keys.read_private(sealed, lambda: b"secret", "k")
    assert again.private_numbers() == key.private_numbers()
    with pytest.raises(WrongPassword):
        keys.read_private(sealed, lambda: b"Secret", "k")
    old = sealed.replace(b"SIGSTORE", b"COSIGN")
    assert keys.read_private(old, lambda: b"secret", "k").private_numbers() == key.private_numbers()


@pytest.mark.parametrize("options", [[], ["-aes256", "-pass", "pass:secret"]], ids=["plain", "locked"])
def test_keys_of_openssl_are_read(tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "k.pem"
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", *options, "-out", path]
    subprocess.run(make, check=True, capture_output=True)
    key = keys.read_private(path.read_bytes(), lambda: b"secret", "k")
    show = ["openssl", "pkey", "-in", path, "-passin", "pass:secret", "-pubout"]
    assert keys.public_pem(key.public_key()) == subprocess.run(show, check=True, capture_output=True).stdout


@pytest.mark.parametrize(
    "make",
    [
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        ["openssl", "genpkey", "-algorithm", "ED25519"],
        ["echo", "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\ne30=\n-----END"],
        ["echo", "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n%\n-----END"],
        ["echo", "ssh-ed25519 AAAA"],
        ["echo"],
    ],
)
def test_other_keys_are_refused(make: list[str]) -> None:
    pem = subprocess.run(make, check=True, capture_output=True).stdout
    with pytest.raises(BadKey):
        keys.read_private(pem, lambda: b"", "k")
    with pytest.raises(BadKey):
        keys.read_public(pem, "k")


def test_key_that_asks_for_all_memory_is_refused() -> None:
    lines = keys.seal(keys.generate(), b"").split(b"\n")
    document = json.loads(base64.b64decode(b"".join(lines[1:-2])))
    document["kdf"]["params"]["N"] = 1 << 30
    forged = b"\n".join([lines[0], base64.b64encode(json.dumps(document).encode()), lines[-2]])
    with pytest.raises(BadKey, match="cosign does not use"):
        keys.read_private(forged, lambda: b"", "k")


async def test_openssl_verifies_what_is_kept(store: ImageStore, tmp_path: Path, report: Report) -> None:
    """By the format's description alone: the tag, the layer, its annotation, the payload."""
    image = await built(store, tmp_path, report)
    key = keys.generate()
    assert store.sign("web", key) == image.digest.replace(":", "-") + ".sig"
    index = json.loads((store.layout.root / "index.json").read_bytes())
    names = {one["annotations"]["org.opencontainers.image.ref.name"]: one["digest"] for one in index["manifests"]}
    kept = json.loads(store.layout.path(names[image.digest.replace(":", "-") + ".sig"]).read_bytes())
    (layer,) = kept["layers"]
    assert layer["mediaType"] == "application/vnd.dev.cosign.simplesigning.v1+json"
    payload = store.layout.path(layer["digest"])
    claim = json.loads(payload.read_bytes())["critical"]
    assert claim["image"] == {"docker-manifest-digest": image.digest}
    assert claim["type"] == "cosign container image signature"
    openssl_accepts(tmp_path, key, payload.read_bytes(), layer["annotations"]["dev.cosignproject.cosign/signature"])


async def test_signatures_add_up_and_are_no_images(store: ImageStore, tmp_path: Path, report: Report) -> None:
    await built(store, tmp_path, report)
    one, two, three = keys.generate(), keys.generate(), keys.generate()
    for key in (one, two, one):
        store.sign("web", key)
    for key in (one, two):
        assert store.verify("web", [three.public_key(), key.public_key()]) == key.public_key()
    assert [stored.name for stored in store.images()] == ["web"]
    assert len(signing.blobs(store.layout, store.image("web").digest)) == 4
    await store.collect()
    assert store.verify("web", [one.public_key()], deep=True) == one.public_key()
    store.remove("web")
    await store.collect()
    assert store.layout.digests() == []
    assert store.layout.names() == {}


async def test_what_is_not_vouched_for(store: ImageStore, tmp_path: Path, report: Report) -> None:
    image = await built(store, tmp_path, report)
    other = await built(store, tmp_path, report, "bye", "other")
    key, stranger = keys.generate(), keys.generate()
    with pytest.raises(NotSigned, match="web is not signed"):
        store.verify("web", [key.public_key()])
    store.sign("web", key)
    with pytest.raises(WrongKey, match=keys.fingerprint(stranger.public_key())):
        store.verify("web", [stranger.public_key()])
    signatures = store.layout.find(manifest.signature_name(image.digest))
    assert signatures is not None
    store.layout.tag(manifest.signature_name(other.digest), signatures)
    with pytest.raises(ForeignSignature):
        store.verify("other", [key.public_key()])


async def test_changes_in_the_store_are_seen(store: ImageStore, tmp_path: Path, report: Report) -> None:
    image = await built(store, tmp_path, report)
    key = keys.generate()
    store.sign("web", key)
    for blob in [*signing.blobs(store.layout, image.digest), store.layout.find("web")]:
        assert blob is not None
        path = store.layout.path(blob.digest)
        before = path.read_bytes()
        path.write_bytes(before.replace(b"sha256", b"sha265", 1) if b"sha256" in before else before + b" ")
        if blob.media_type != manifest.CONFIG:
            with pytest.raises(DigestMismatch):
                store.verify("web", [key.public_key()])
        path.write_bytes(before)
    layer = store.layout.path(manifest.parse_manifest(store.layout.read(image.digest)).layers[0].digest)
    layer.write_bytes(layer.read_bytes() + b"\0")
    store.verify("web", [key.public_key()])
    with pytest.raises(DigestMismatch):
        store.verify("web", [key.public_key()], deep=True)


def test_files_and_directories_beside_their_signature(tmp_path: Path) -> None:
    key, stranger = keys.generate(), keys.generate()
    disk, machine = tmp_path / "disk.img", tmp_path / "machine"
    disk.write_bytes(b"\0" * 3_000_000 + b"end")
    machine.mkdir()
    (machine / "kernel").write_bytes(b"k")
    (machine / "initrd").write_bytes(b"i")
    for path, signed in ((disk, disk), (machine, tmp_path / "machine.sha256")):
        with pytest.raises(NotSigned):
            signing.verify_file(path, [key.public_key()])
        beside = signing.sign_file(path, key)
        assert signing.verify_file(path, [stranger.public_key(), key.public_key()]) == key.public_key()
        openssl_accepts(tmp_path, key, signed.read_bytes(), beside.read_text())
        with pytest.raises(WrongKey):
            signing.verify_file(path, [stranger.public_key()])
    subprocess.run(["sha256sum", "-c", "machine.sha256"], check=True, capture_output=True, cwd=tmp_path)
    (machine / "more").write_bytes(b"")
    disk.write_bytes(b"\0" * 3_000_000 + b"End")
    for path in (disk, machine):
        with pytest.raises(WrongKey, match="was changed"):
            signing.verify_file(path, [key.public_key()])
        path.with_name(path.name + ".sig").write_bytes(b"\xff\n")
        with pytest.raises(WrongKey):
            signing.verify_file(path, [key.public_key()])


async def test_signatures_travel_with_layouts_and_archives(store: ImageStore, tmp_path: Path, report: Report) -> None:
    await built(store, tmp_path, report)
    key = keys.generate()
    store.sign("web", key)
    store.export("web", "oci", tmp_path / "layout")
    store.export("web", "oci-archive", tmp_path / "web.tar")
    second = ImageStore(Settings(id="imgtest", run_root=tmp_path / "run", state_root=tmp_path / "state2"))
    for number, name in enumerate((f"oci:{tmp_path}/layout", f"oci-archive:{tmp_path}/web.tar:web")):
        await second.obtain(name, report)
        assert second.verify(name, [key.public_key()], deep=True) == key.public_key()
        second.remove(name)
        assert (await second.collect()).blobs == 6, number
    (blob,) = [path for path in (tmp_path / "layout/blobs/sha256").iterdir() if b"simplesigning" in path.read_bytes()]
    blob.write_bytes(blob.read_bytes().replace(b"simple", b"Simple"))
    with pytest.raises(DigestMismatch):
        await second.obtain(f"oci:{tmp_path}/layout", report)
    assert second.images() == []


async def test_signatures_travel_with_registries(
    registry: str, store: ImageStore, tmp_path: Path, report: Report
) -> None:
    """They are where cosign looks for them, as openssl sees it, and come with the image when it is pulled."""
    name = f"{registry}/me/web:1"
    image = await built(store, tmp_path, report, name=name)
    key, stranger = keys.generate(), keys.generate()
    store.sign(name, key)
    tag = manifest.signature_name(image.digest)
    push = [need("skopeo"), "copy", "-q", "--preserve-digests", "--dest-tls-verify=false"]
    for source, target in ((name, "1"), (tag, tag)):
        subprocess.run([*push, f"oci:{store.layout.root}:{source}", f"docker://{registry}/me/web:{target}"], check=True)
    with httpx.Client(base_url=f"http://{registry}/v2/me/web", headers={"Accept": manifest.MANIFEST}) as client:
        digest = client.head("/manifests/1").headers["Docker-Content-Digest"]
        (layer,) = client.get(f"/manifests/{digest.replace(':', '-')}.sig").raise_for_status().json()["layers"]
        content = client.get(f"/blobs/{layer['digest']}").raise_for_status().content
    assert json.loads(content)["critical"]["image"]["docker-manifest-digest"] == digest
    assert json.loads(content)["critical"]["identity"]["docker-reference"] == f"{registry}/me/web"
    openssl_accepts(tmp_path, key, content, layer["annotations"]["dev.cosignproject.cosign/signature"])
    second = ImageStore(Settings(id="imgtest", run_root=tmp_path / "run", state_root=tmp_path / "state2"))
    await second.obtain(name, report)
    assert second.verify(name, [key.public_key()]) == key.public_key()
    with pytest.raises(WrongKey):
        second.verify(name, [stranger.public_key()])
