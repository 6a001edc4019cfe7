"""Images for other machines: what can be linked without running it is, all else is refused by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from whit.base.errors import InputError, Unavailable
from whit.formats.app.appfile import load_app
from whit.image.building import plan
from whit.image.oci import manifest
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, CheckSpec, DirectoryPart, LayoutPart
from whit.model.progress import Report

OTHER = "arm64" if manifest.architecture() == "amd64" else "amd64"


def spec(directory: Path, **update: object) -> BuildSpec:
    return BuildSpec(parts=(DirectoryPart(path=directory),), architecture=OTHER).model_copy(update=update)  # type: ignore[arg-type]


def test_layers_for_another_machine_have_keys_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    own = plan.make(spec(tmp_path, architecture=""))
    assert plan.make(spec(tmp_path)).key != own.key
    assert plan.make(spec(tmp_path, architecture=manifest.architecture())).key == own.key


def test_layers_of_an_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"layers of an image are not linked for {OTHER} here"):
        plan.make(spec(tmp_path, parts=(LayoutPart(path=tmp_path),)))


def test_without_an_emulator_nothing_is_taken_for_proven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=f"what is linked for {OTHER} is not proven here"):
        plan.make(spec(tmp_path, check=(CheckSpec(run=("true",)),)))


@pytest.mark.network
@pytest.mark.root
@pytest.mark.full
@pytest.mark.skipif(not shutil.which("qemu-aarch64-static"), reason="qemu-user-static is not installed")
async def test_a_closure_for_another_machine_is_proven_under_an_emulator(store: ImageStore, report: Report) -> None:
    build = load_app(Path("catalog:nginx"), environment={}).services["nginx"].build
    assert build
    image = await store.build("nginx", build.model_copy(update={"architecture": OTHER}), report)
    assert image.size < 12e6
    bill = store.bill("nginx")
    assert any(file.path.endswith("aarch64-linux-gnu/libc.so.6") for file in bill.files)
    assert len(bill.checks) == len(build.check)


def test_the_configuration_names_the_machines() -> None:
    document = manifest.config_document(manifest.parse_config({}), [], [], {}, OTHER)
    assert document["architecture"] == OTHER
