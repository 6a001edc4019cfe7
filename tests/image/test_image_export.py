"""Images on their way out: the same bytes under hostile conditions, read by other tools, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from support.images import need

from whit.base.errors import Conflict, DiskFull, NotFound
from whit.base.settings import Settings
from whit.image.provenance import sbom
from whit.image.provenance.bill import Bill, BilledFile, BilledPart, Package, trace
from whit.image.sandbox.processes import module_environment
from whit.image.store.export import Target
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, DirectoryPart
from whit.model.progress import Report

ROOT = Path(__file__).resolve().parents[2]


def shuffled(path: Path, seed: int) -> Path:
    """The same directory, made in another order, at another time, and under another umask."""
    names = [f"d{number % 7}/f{number}" for number in range(60)]
    random.Random(seed).shuffle(names)
    for name in names:
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
        file.chmod(0o644)
        os.utime(file, (seed, seed))
    for directory in path.iterdir():
        directory.chmod(0o755)
    (path / "d0" / "link").symlink_to("f0")
    return path


def digest_of(path: Path) -> str:
    """Of a file, or of a directory's files with their paths."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    rows = [(str(file.relative_to(path)), digest_of(file)) for file in files]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


@pytest.mark.parametrize("target", ["oci", "oci-archive", "rootfs"])
async def test_twice_the_same_bytes(target: Target, tmp_path: Path, report: Report) -> None:
    digests = set()
    for seed in (1, 2):
        part = DirectoryPart(path=shuffled(tmp_path / f"{seed}" / ("x" * seed), seed))
        state = tmp_path / f"state{seed}"
        store = ImageStore(Settings(id="imgtest", run_root=state / "run", state_root=state))
        await store.build("x", BuildSpec(parts=(part,)), report)
        written = store.export("x", target, tmp_path / f"out{seed}")
        digests.add((digest_of(written.path), written.digest))
    assert len(digests) == 1


@pytest.fixture
async def exported(store: ImageStore, tmp_path: Path, report: Report) -> ImageStore:
    parts = (DirectoryPart(path=shuffled(tmp_path / "a", 1)), DirectoryPart(path=shuffled(tmp_path / "b", 2)))
    (tmp_path / "b" / "d0" / "f0").write_text("of the second")
    await store.build("x", BuildSpec(parts=parts), report)
    return store


async def test_other_tools_read_it(exported: ImageStore, tmp_path: Path) -> None:
    exported.export("x", "oci", tmp_path / "layout")
    exported.export("x", "oci-archive", tmp_path / "image.tar")
    for source in (f"oci:{tmp_path}/layout:x", f"oci-archive:{tmp_path}/image.tar:x"):
        said = subprocess.run([need("skopeo"), "inspect", source], capture_output=True, text=True, check=True).stdout
        assert len(json.loads(said)["Layers"]) == 2


async def test_root_is_the_merged_tree(exported: ImageStore, tmp_path: Path) -> None:
    exported.export("x", "rootfs", tmp_path / "root.tar")
    with tarfile.open(tmp_path / "root.tar") as tar:
        names = tar.getnames()
        content = tar.extractfile("d0/f0")
        assert content
        assert content.read() == b"of the second"
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert len(names) == len(set(names))


async def test_an_export_is_replaced_and_nothing_else_is(exported: ImageStore, tmp_path: Path) -> None:
    for _ in range(2):
        exported.export("x", "oci", tmp_path / "layout")
        exported.export("x", "rootfs", tmp_path / "root.tar")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    for target in ("oci", "rootfs"):
        with pytest.raises(Conflict):
            exported.export("x", target, tmp_path / "mine")  # type: ignore[arg-type]
    with pytest.raises(NotFound):
        exported.export("y", "oci", tmp_path / "y")
    left = {path.name for path in tmp_path.iterdir() if path.name.startswith((".new", ".old"))}
    assert left == set()


@pytest.mark.root
async def test_full_disk_has_its_own_error_and_leaves_nothing(exported: ImageStore, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        for target in ("oci", "oci-archive", "rootfs"):
            with pytest.raises(DiskFull) as caught:
                exported.export("x", target, small / "out")  # type: ignore[arg-type]
            assert caught.value.code == "disk-full"
            assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.network
@pytest.mark.root
@pytest.mark.slow
def test_another_user_order_time_place_and_parallelism_give_the_same_bits(
    open_directory: Path, record_number: Callable[[str, object], None]
) -> None:
    """Debian, Python, byte code and a closure: built by root, and by nobody on one CPU with everything else changed."""
    digests = []
    for number in range(2):
        place = open_directory / ("deep/" * number + f"place{number}")
        site = place / "site/srv/www"
        site.mkdir(parents=True)
        for name in ("a.txt", "b.txt")[:: -1 if number else 1]:
            (site / name).write_text(name)
        for path in (*place.rglob("*"), place):
            path.chmod(0o755 if path.is_dir() else 0o644)
            os.utime(path, (number * 10**9, number * 10**9))
        packages = ["debian:ca-certificates", "debian:libcap2"][:: -1 if number else 1]
        build = f"parts: [{', '.join(packages)}, ./site], check: [[python3, -c, 'import http.server, ssl']]"
        (place / "whit.yaml").write_text(
            "name: same\nservices: {web: {command: [python3, -m, http.server], build: {link: closure, "
            f"needs: [python], {build}}}}}}}\n"
        )
        state = open_directory / f"state{number}"
        state.mkdir()
        start: list[str] = []
        env = {**module_environment(), "PATH": os.environ["PATH"], "WHIT_STATE_ROOT": str(state), "HOME": str(state)}
        if number:
            os.chown(state, 65534, 65534)
            start = ["taskset", "-c", "0", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
            env |= {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7", "LANG": "de_DE.UTF-8"}
        argv = [*start, sys.executable, "-m", "whit.cli", "build", str(place), "-o", str(state / "image.tar"), "--json"]
        umask = 0o077 if number else 0o022
        done = subprocess.run(
            argv, env=env, cwd=state, umask=umask, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        digests.append(digest_of(state / "image.tar"))
        record_number("reproduced image, MB", round(json.loads(done.stdout)["exported"]["size"] / 1e6, 1))
    assert digests[0] == digests[1]


def test_bill_of_materials() -> None:
    packages = (
        Package("libc6", "2:1+b1", architecture="amd64", sha256="ab" * 32),
        Package("x", "1", kind="pypi", needs=("libc6",)),
    )
    files = (BilledFile("usr/lib/libc.so.6", "file", 1, "p", "libc6"), BilledFile("srv/a", "file", 1, "./site"))
    bill = Bill((BilledPart("./site", "directory", "build.parts[0]"),), trace(packages, [("pypi:x", "p")]), files)
    found = sbom.document("web", "sha256:00", bill)
    assert found == sbom.document("web", "sha256:00", Bill.parse(bill.document()))
    by_name = {one["name"]: one for one in found["components"]}
    assert by_name["libc6"]["purl"] == "pkg:deb/debian/libc6@2%3A1%2Bb1?arch=amd64"
    assert by_name["libc6"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert by_name["x"]["purl"] == "pkg:pypi/x@1"
    assert by_name["libc6"]["evidence"]["occurrences"] == [{"location": "/usr/lib/libc.so.6"}]
    assert by_name["./site"]["evidence"]["occurrences"] == [{"location": "/srv/a"}]
    assert {"ref": "pypi:x", "dependsOn": ["libc6"]} in found["dependencies"]
    references = [one["bom-ref"] for one in found["components"]]
    assert len(references) == len(set(references))
    assert {one["ref"] for one in found["dependencies"]} <= {*references, "sha256:00"}
    schema = JsonStrictValidator(SchemaVersion.V1_5)
    assert schema.validate_str(sbom.encode(found)) is None
    assert schema.validate_str(sbom.encode(found | {"components": [{"type": "nonsense", "name": "x"}]})) is not None
