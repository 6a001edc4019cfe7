"""What a machine is made of: the bills of its images at their places, drawn, listed, and locked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from whit.formats.machine.document import load_machine
from whit.image.machines import link
from whit.image.machines.link import LinkedMachine
from whit.image.machines.parts import Kernel, Parts, Root
from whit.image.provenance import graph, sbom
from whit.image.provenance.bill import Bill, BilledFile, BilledPackage, BilledPart, Package
from whit.image.rootfs.tree import Entry
from whit.image.sandbox.processes import module_environment
from whit.image.sources.kernel import Kernel as Linux
from whit.model.image import ImageConfig

TEXT = """\
kernel: {image: debian}
services: [{name: web, image: a}, {name: api, image: b, readonly: true}, {name: foreign, image: c}]
"""


def bill_of(version: str) -> Bill:
    """An image of one package, which needs a second."""
    parts = (BilledPart("debian:app", "debian", "build.parts[0]", "closure", (("base", "need:base"),)),)
    packages = (
        BilledPackage(Package("app", version, architecture="amd64", needs=("libc6",)), "debian:app"),
        BilledPackage(Package("libc6", "2", architecture="amd64"), "debian:app", "app"),
    )
    files = (
        BilledFile("bin/app", "file", 3, "debian:app", "app", "command: app"),
        BilledFile("lib/libc.so", "file", 4, "debian:app", "libc6", "library libc.so", "bin/app"),
    )
    return Bill(parts, packages, files)


@pytest.fixture
def machine(tmp_path: Path) -> LinkedMachine:
    return linked(tmp_path)


def linked(tmp_path: Path) -> LinkedMachine:
    """Two images that were built here, of two versions of a package, and one that was not."""
    (tmp_path / "machine.yml").write_text(TEXT)
    spec = load_machine(tmp_path / "machine.yml")
    spec = spec.model_copy(update={"services": tuple(one.settled() for one in spec.services)})
    entries = (Entry("bin/app", mode=0o755, content=b"app"), Entry("lib/libc.so", content=b"libc"))
    config = ImageConfig(command=("/bin/app",))
    bills = {"a": bill_of("1"), "b": bill_of("2"), "c": None}
    roots = {name: Root(name, "", entries, config, bill) for name, bill in bills.items()}
    (tmp_path / "supervisor").write_bytes(b"init")
    runtime = Root("crun", "", (Entry("usr/bin/crun", mode=0o755, content=b"crun"),))
    return link.link(spec, Parts(Kernel(Linux("6", tmp_path)), tmp_path / "supervisor", runtime, roots))


def test_a_file_is_explained_down_to_the_machine_file(machine: LinkedMachine) -> None:
    lines = machine.bill.explain("/containers/services/api/rootfs/lib/libc.so")
    assert lines[:6] == [
        "/containers/services/api/rootfs/lib/libc.so",
        "library libc.so of /containers/services/api/rootfs/bin/app",
        "command: app",
        "package libc6=2 (deb), services api/app depends on it",
        "package app=2 (deb)",
        "part services api/debian:app (closure): build.parts[0]",
    ]
    assert lines[6].startswith("part services api (whole): services (")
    assert "machine.yml" in lines[6]


def test_what_is_no_images_says_so(machine: LinkedMachine) -> None:
    assert "every machine has it" in machine.bill.explain("/containers/plan")
    assert machine.bill.explain("/containers/services/web/config.json")[1] == "made for services web"
    assert machine.bill.explain("/containers/services/foreign/lower/bin/app")[1] == "in the image c"


def test_the_sbom_tells_two_versions_of_a_package_apart(machine: LinkedMachine) -> None:
    found = sbom.document(machine.name, "sha256:1", machine.bill, kind="operating-system")
    assert found["metadata"]["component"]["type"] == "operating-system"
    by_ref = {one["bom-ref"]: one for one in found["components"]}
    assert len(by_ref) == len(found["components"])
    assert {ref: by_ref[ref]["purl"] for ref in ("services web/app", "services api/app")} == {
        "services web/app": "pkg:deb/debian/app@1?arch=amd64",
        "services api/app": "pkg:deb/debian/app@2?arch=amd64",
    }
    needs = {row["ref"]: row["dependsOn"] for row in found["dependencies"]}
    assert needs["services web/app"] == ["services web/libc6"]
    evidence = by_ref["services api/libc6"]["evidence"]["occurrences"]
    assert evidence == [{"location": "/containers/services/api/rootfs/lib/libc.so"}]


def test_the_source_of_a_specialised_kernel_is_told(machine: LinkedMachine, tmp_path: Path) -> None:
    package = Package("linux-source-6.1", "6.1.192-2", architecture="all", sha256="0" * 64)
    assert not any(one.part == "kernel" for one in machine.bill.packages)
    (tmp_path / "source.json").write_text(json.dumps(asdict(package)))
    assert BilledPackage(package, "kernel") in linked(tmp_path).bill.packages


def test_the_graph_leads_from_the_machine_to_the_packages(machine: LinkedMachine) -> None:
    _, edges = graph.drawing(machine.bill)
    pairs = {(edge.source, edge.target) for edge in edges}
    assert {("the app", "services web"), ("services web", "services web/debian:app")} <= pairs
    assert ("services web/debian:app", "package:services web/app") in pairs
    assert ("package:services web/app", "package:services web/libc6") in pairs
    assert ("the app", "services web/debian:app") not in pairs


@pytest.mark.full
@pytest.mark.network
@pytest.mark.root
@pytest.mark.slow
def test_a_locked_machine_fetches_nothing_and_a_changed_lock_is_told(open_directory: Path) -> None:
    """Its images, what runs them, and its kernel."""
    file = open_directory / "machine.yml"
    build = "build: {parts: [debian:busybox-static]}, command: [/bin/busybox, 'true']"
    file.write_text(f"kernel: {{image: debian}}\nonboot: [{{name: hello, {build}}}]\n")
    env = os.environ | module_environment() | {"WHIT_STATE_ROOT": str(open_directory / "state"), "WHIT_ID": "tlock"}

    def whit(*options: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "whit.cli", "build", str(file), *options]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False, timeout=300)

    assert "make it with: whit build --lock" in whit("--locked").stderr
    assert whit("--lock").returncode == 0
    lock = open_directory / "whit.lock"
    entries = json.loads(lock.read_text())["entries"]
    assert sorted(name.split()[0] for name in entries) == ["debian", "debian", "kernel"]
    one, other = (whit("--locked", "--output", str(open_directory / name)).stdout for name in ("a", "b"))
    assert one.split()[1] == other.split()[1]
    kernel = next(row["packages"][0] for name, row in entries.items() if name.startswith("kernel"))
    lock.write_text(lock.read_text().replace(kernel[3], "0" * 64))
    refused = whit("--locked", "--json")
    assert json.loads(refused.stderr.splitlines()[-1])["code"] == "not-locked"
    assert kernel[0] in refused.stderr
