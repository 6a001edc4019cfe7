"""Images for other machines: what can be linked without running it is, all else is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.image import plan
from whit.image.oci import manifest
from whit.model.build import BuildSpec, CheckSpec, DirectoryPart, PythonPart

OTHER = "arm64" if manifest.architecture() == "amd64" else "amd64"


def spec(directory: Path, **update: object) -> BuildSpec:
    return BuildSpec(parts=(DirectoryPart(path=directory),), architecture=OTHER).model_copy(update=update)  # type: ignore[arg-type]


def test_layers_for_another_machine_have_keys_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    own = plan.make(spec(tmp_path, architecture=""))
    assert plan.make(spec(tmp_path)).key != own.key
    assert plan.make(spec(tmp_path, architecture=manifest.architecture())).key == own.key


def test_what_would_have_to_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"this machine cannot run {OTHER}"):
        plan.make(spec(tmp_path, check=(CheckSpec(run=("true",)),)))
    with pytest.raises(InputError, match=f"parts of kind python are not linked for {OTHER} here"):
        plan.make(spec(tmp_path, parts=(PythonPart(path=tmp_path),)))


def test_the_configuration_names_the_machines() -> None:
    document = manifest.config_document(manifest.parse_config({}), [], [], {}, OTHER)
    assert document["architecture"] == OTHER
