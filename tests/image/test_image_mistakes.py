"""Mistakes in what images are built from: each kind has a code of its own, and leaves nothing behind."""

from __future__ import annotations

import io
import socket
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.images import Tar

from whit.base.errors import Untrusted, WhitError
from whit.base.settings import Settings
from whit.cli.commands import building
from whit.control import trust
from whit.formats.app.appfile import load_app
from whit.image.building import plan
from whit.image.oci import archive, manifest, reference
from whit.image.oci.layout import Layout
from whit.image.rootfs.tree import read_tar
from whit.image.sources import directory, project
from whit.image.store.images import ImageStore
from whit.image.trust import keys, signing
from whit.model import lock
from whit.model.build import BuildSpec, DirectoryPart
from whit.model.image import Image
from whit.model.progress import Report
from whit.model.trust import TrustRule
from whit.tools import apt_sources

OTHER = "arm64" if manifest.architecture() == "amd64" else "amd64"
PART = "parts: [debian:dash]"

APPS = [
    ("services: {web: {}}", "service-no-image"),
    ("services: {web: {image: x, build: .}}", "service-image-and-build"),
    ("build: {}", "build-parts-or-context"),
    ("build: {parts: []}", "build-no-parts"),
    ("build: {parts: [nothing]}", "part-unknown"),
    ("build: {parts: [{link: trim}]}", "part-missing"),
    ("build: {parts: [./gone]}", "part-no-path"),
    ("build: {parts: [./whit.yaml]}", "part-no-directory"),
    ("build: {parts: ['python:./plain']}", "part-not-python"),
    ("build: ./docker", "part-dockerfile"),
    ("build: {parts: ['debian:dash=']}", "debian-no-version"),
    ("build: {parts: ['debian:Da sh']}", "debian-name"),
    (f"build: {{{PART}, needs: [A]}}", "need-name"),
    (f"build: {{{PART}, link: shut}}", "link-unknown"),
    (f"build: {{{PART}, lnk: trim}}", "unknown-key"),
    (f"build: {{{PART}, check: [{{timeout: 1s}}]}}", "check-question"),
    (f"build: {{{PART}, check: [{{tcp: 80}}]}}", "check-no-server"),
    (f"build: {{{PART}, check: [[]]}}", "check-no-command"),
    (f"build: {{{PART}, check: [{{run: x, timeout: soon}}]}}", "check-timeout"),
    ("image: x\ntrust: [{images: x}]", "trust-incomplete"),
    ("image: x\ntrust: [{images: x, keys: []}]", "trust-no-key"),
    ("image: x\ntrust: [{images: x, keys: whit.yaml}]", "bad-key"),
]


@pytest.mark.parametrize(("text", "code"), APPS, ids=[code for _, code in APPS])
def test_app_files(tmp_path: Path, text: str, code: str) -> None:
    for name, file in (("plain", "a"), ("docker", "Dockerfile")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    first, *rest = text.split("\n")
    top = first if first.startswith("services") else f"services: {{web: {{{first}}}}}"
    (tmp_path / "whit.yaml").write_text("\n".join([top, *rest]))
    with pytest.raises(WhitError) as caught:
        load_app(tmp_path)
    assert caught.value.code == code, caught.value
    assert "whit.yaml:" in caught.value.message
    assert remedies(caught.value)


def remedies(error: WhitError) -> list[str]:
    """What to do, of each mistake; none if one of them does not say it."""
    found = [problem.hint for problem in getattr(error, "problems", [error])]
    return found if all(found) else []


def tar(*members: tuple[str, dict[str, object]]) -> bytes:
    made = Tar()
    for name, values in members:
        made.add(name, **values)  # type: ignore[arg-type]
    return made.bytes()


ARCHIVES: list[tuple[bytes, str]] = [
    (tar(("../../etc/cron.d/x", {"data": b"x"})), "archive-outside"),
    (
        tar(("pipe", {"kind": tarfile.CONTTYPE + b""}), ("sock", {"kind": b"Z"}))[:0] or b"\1" * 4096,
        "archive-unreadable",
    ),
    (tar(("a", {"kind": tarfile.LNKTYPE, "link": "gone"})), "archive-hard-link"),
    (tar(("mem", {"kind": tarfile.CHRTYPE, "devmajor": 1, "devminor": 1})), "archive-special-file"),
]


@pytest.mark.parametrize(("data", "code"), ARCHIVES, ids=[code for _, code in ARCHIVES])
def test_archives(tmp_path: Path, data: bytes, code: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(WhitError) as caught:
        list(read_tar(tmp_path / "a.tar"))
    assert caught.value.code == code, caught.value
    assert "a.tar" in caught.value.message
    assert remedies(caught.value)


def write_layout(path: Path, **changes: object) -> Path:
    """A layout that is right but for the changes."""
    made = Layout(path)
    made.create()
    blob, size = made.put(io.BytesIO(tar(("a", {"data": b"x"}))))
    config = {"architecture": changes.get("architecture", manifest.architecture()), "os": "linux"}
    ids = changes.get("diff_ids", [blob])
    written = made.put_document(manifest.CONFIG, config | {"rootfs": {"type": "layers", "diff_ids": ids}})
    layer = manifest.Descriptor(str(changes.get("layer", manifest.LAYER)), blob, size)
    document = manifest.manifest_document(written, [layer], {})
    if "config" in changes:
        document["config"]["mediaType"] = changes["config"]
    if "digest" in changes:
        document["layers"][0]["digest"] = changes["digest"]
    if "size" in changes:
        document["layers"][0]["size"] = changes["size"]
    item = made.put_document(str(changes.get("kind", manifest.MANIFEST)), document)
    for name in changes.get("names", ["x"]):  # type: ignore[attr-defined]
        made.tag(name, item)
    if "remove" in changes:
        made.remove_blob(item.digest if changes["remove"] == "manifest" else blob)
    if "damage" in changes:
        made.path(item.digest).write_bytes(b"{}")
    if "index" in changes:
        (path / "index.json").write_text(str(changes["index"]))
    return path


LAYOUTS: list[tuple[dict[str, object], str]] = [
    ({"architecture": OTHER}, "image-architecture"),
    ({"diff_ids": []}, "image-layers"),
    ({"layer": "application/x-layer"}, "layer-media-type"),
    ({"config": "application/x-config"}, "config-media-type"),
    ({"digest": "md5:1"}, "digest-form"),
    ({"size": None}, "descriptor"),
    ({"kind": "application/x-manifest"}, "index-media-type"),
    ({"names": []}, "layout-no-image"),
    ({"remove": "layer"}, "layout-incomplete"),
    ({"damage": True}, "digest-mismatch"),
    ({"index": "{"}, "document-no-json"),
    ({"index": "[]"}, "document-no-object"),
    ({"index": " " * (9 << 20)}, "document-too-large"),
]


@pytest.mark.parametrize(("changes", "code"), LAYOUTS, ids=[code for _, code in LAYOUTS])
async def test_layouts(
    store: ImageStore, tmp_path: Path, report: Report, changes: dict[str, object], code: str
) -> None:
    write_layout(tmp_path / "l", **changes)
    with pytest.raises(WhitError) as caught:
        await store.obtain(f"oci:{tmp_path}/l", report)
    assert caught.value.code == code, caught.value
    assert remedies(caught.value)
    nothing_is_left(store)


def nothing_is_left(store: ImageStore) -> None:
    """No image, no layer, nothing half written."""
    assert store.images() == []
    assert list(store.layers_dir.iterdir()) == []
    root = store.layers_dir.parent
    assert [path for path in root.rglob(".new-*") if path.is_file()] == []


def spec(path: Path, **update: object) -> BuildSpec:
    return BuildSpec(parts=(DirectoryPart(path=path),)).model_copy(update=update)


def not_a_tar(path: Path) -> None:
    (path / "a").write_bytes(b"x" * 2000)
    archive.source(path / "a")


def bad_lock(path: Path) -> None:
    (path / lock.FILE).write_text("{")
    lock.read(path)


def toml(path: Path, name: str, text: str) -> None:
    (path / name).write_text(text)
    project.read(path)


def link_out(path: Path) -> None:
    (path / "l").symlink_to("../../gone")
    list(directory.scan(path).entries())


def special_file(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path / "s"))
    list(directory.scan(path).entries())


def unchecked_source(path: Path) -> None:
    (path / "sources.list").write_text("deb [trusted=yes] http://foreign.example bookworm main\n")
    apt_sources.host_sources("bookworm", "amd64", path)


def no_rules(path: Path) -> None:
    (path / "trust.yaml").write_text("{}\n")
    trust.rules(Settings(trust=path / "trust.yaml"), ())


def app(path: Path, services: Sequence[str] = (), text: str = "services: {a: {image: x}, b: {image: y}}") -> object:
    (path / "whit.yaml").write_text(text)
    return building.chosen(path, services)


OTHERS: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: plan.make(BuildSpec(parts=(DirectoryPart(path=path, link="closure"),))), "closure-unproven"),
    (lambda path: plan.make(BuildSpec(parts=(DirectoryPart(path=path, requires=("quantum",)),))), "unsatisfied-need"),
    (lambda path: archive.source(path / "gone"), "layout-missing"),
    (not_a_tar, "archive-no-tar"),
    (lambda path: Layout(path).descriptors(), "layout-no-index"),
    (lambda path: Layout(path).read("sha256:" + "0" * 64), "blob-missing"),
    (lambda _: reference.parse("Not An Image"), "image-name"),
    (bad_lock, "lock-damaged"),
    (lambda path: toml(path, "pyproject.toml", "["), "project-toml"),
    (lambda path: project.read(path), "project-neither"),
    (lambda path: toml(path, "requirements.txt", "-r more.txt\n"), "requirements-missing"),
    (lambda path: toml(path, "requirements.txt", "-e ./x\n"), "requirement-form"),
    (link_out, "directory-link-out"),
    (lambda path: app(path, ["c"]), "no-such-service"),
    (lambda path: building.for_machines(app(path), "mips"), "no-such-architecture"),  # type: ignore[arg-type]
    (lambda path: building.for_machines(app(path), OTHER), "nothing-built"),  # type: ignore[arg-type]
    (lambda _: building.chosen_target("floppy"), "no-such-form"),
    (special_file, "directory-special-file"),
    (unchecked_source, "repository-unsigned"),
    (no_rules, "trust-empty"),
    (lambda path: trust.rules(Settings(trust=path / "gone"), ()), "trust-unreadable"),
    (lambda path: signing.read_public_keys([path / "gone"]), "bad-key"),
    (lambda _: keys.read_private(keys.seal(keys.generate(), b"a"), lambda: b"b", "k"), "wrong-password"),
    (lambda path: signing.verify_file(path, []), "not-signed"),
]


@pytest.mark.parametrize(("attempt", "code"), OTHERS, ids=[code for _, code in OTHERS])
def test_everything_else(tmp_path: Path, attempt: Callable[[Path], object], code: str) -> None:
    with pytest.raises(WhitError) as caught:
        attempt(tmp_path)
    assert caught.value.code == code, caught.value
    assert remedies(caught.value)


async def test_what_may_not_run(store: ImageStore, tmp_path: Path, report: Report) -> None:
    """The rules of an app, asked of a real store."""
    (tmp_path / "site").mkdir()
    images: list[Image] = []
    for name in ("a", "b"):
        (tmp_path / "site" / "name").write_text(name)
        images.append(await store.build(name, spec(tmp_path / "site"), report))
    key, stranger = keys.generate(), keys.generate()

    def code(signer: keys.PrivateKey) -> str:
        rule = TrustRule(images="a*", keys=(keys.public_pem(signer.public_key()).decode(),))
        with pytest.raises(Untrusted) as caught:
            trust.require(store, images, [rule])
        return caught.value.code

    assert code(key) == "not-signed"
    store.sign("a", key)
    assert code(stranger) == "wrong-key"
    store.sign("b", key)
    other = store.layout.find(manifest.signature_name(images[1].digest))
    assert other is not None
    store.layout.tag(manifest.signature_name(images[0].digest), other)
    assert code(key) == "foreign-signature"


def test_codes_are_distinct() -> None:
    codes = [code for table in (APPS, ARCHIVES, LAYOUTS, OTHERS) for _, code in table]
    assert len(codes) >= 62
    assert len(codes) - len(set(codes)) <= 2, "a key is read by two readers"
