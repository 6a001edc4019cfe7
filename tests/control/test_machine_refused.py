"""Machines that are refused before anything boots: what is missing is named, with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.base.errors import WhitError
from whit.base.settings import Settings
from whit.control.images import How
from whit.control.machines import appliances, booting, settling
from whit.formats.machine.document import load_machine
from whit.image.sources.kernel import Kernel
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, DirectoryPart
from whit.model.service import MountSpec, ServiceSpec


async def test_a_machine_without_a_kernel(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "machine.yml").write_text("services: [{name: web, image: a}]\n")
    spec = load_machine(tmp_path / "machine.yml")
    with pytest.raises(WhitError) as caught:
        await settling.settle_machine(spec, ImageStore(settings), lambda _: None, tmp_path)
    assert caught.value.code == "machine-no-kernel"
    assert caught.value.hint == "add kernel: {image: debian}"


def test_an_image_that_is_not_built_for_another_architecture(tmp_path: Path) -> None:
    text = "kernel: {image: debian}\nservices:\n  - {name: web, image: localhost:1/a:b}\n"
    (tmp_path / "machine.yml").write_text(text)
    with pytest.raises(WhitError) as caught:
        load_machine(tmp_path / "machine.yml").built_for("arm64")
    assert caught.value.code == "machine-foreign-image"
    assert "machine.yml:3" in caught.value.message
    assert "it is linked for arm64" in caught.value.hint


async def test_a_machine_whose_image_is_not_here(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "machine.yml").write_text(
        "kernel: {image: debian}\nservices:\n  - {name: web, image: localhost:1/a:b}\n"
    )
    spec = load_machine(tmp_path / "machine.yml")
    with pytest.raises(WhitError) as caught:
        await settling.images(spec, ImageStore(settings), lambda _: None, How())
    assert caught.value.code == "machine-no-such-image"
    assert "machine.yml:3" in caught.value.message
    assert "oci:PATH" in caught.value.hint


async def test_a_service_with_a_directory_of_its_node(settings: Settings, tmp_path: Path) -> None:
    store, site, boot = ImageStore(settings), tmp_path / "site", tmp_path / "boot"
    for directory in (site, boot):
        directory.mkdir()
    (boot / "vmlinuz-6").touch()
    image = await store.build("x", BuildSpec(parts=(DirectoryPart(path=site),)), lambda _: None)
    service = ServiceSpec(image="x", mounts=(MountSpec(kind="bind", source="/srv", target="/srv"),))
    with pytest.raises(WhitError) as caught:
        appliances.bootable(store, "web", service, image, Kernel("6", tmp_path), tmp_path)
    assert caught.value.code == "machine-of-node"
    assert "/srv" in caught.value.message
    assert "volume" in caught.value.hint


def test_a_description_that_no_build_wrote(tmp_path: Path) -> None:
    (tmp_path / booting.DESCRIPTION).write_text('{"name": 3}')
    with pytest.raises(WhitError) as caught:
        booting.machine(tmp_path, booting.Wishes(), tmp_path)
    assert caught.value.code == "machine-json"
    assert "whit build --target microvm" in caught.value.hint
