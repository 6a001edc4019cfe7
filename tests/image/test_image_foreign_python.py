"""Python for other machines: which wheels are taken, and what is refused by name. The packages are made here."""

from __future__ import annotations

import importlib.util
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from whit.base.errors import InputError
from whit.image.building import plan
from whit.image.oci import manifest
from whit.image.sources.python import Installer
from whit.model.build import BuildSpec, PythonPart
from whit.tools.pip import Target

OTHER = "arm64" if manifest.architecture() == "amd64" else "amd64"
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}[OTHER]
HERE = {"amd64": "x86_64", "arm64": "aarch64"}[manifest.architecture()]
PACKAGES = "usr/local/lib/python3.11/dist-packages"
BACKEND = """
import zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = {name!r}
    with zipfile.ZipFile(f"{{directory}}/{{name}}", "w") as wheel:
        wheel.writestr("own.py", "")
        wheel.writestr("own-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: own\\nVersion: 1\\n")
        wheel.writestr("own-1.dist-info/WHEEL", f"Wheel-Version: 1.0\\nTag: {{name[6:-4]}}\\n")
        wheel.writestr("own-1.dist-info/RECORD", "")
    return name
"""


def make_wheel(directory: Path, name: str, tag: str, requires: str = "") -> None:
    said = f"Requires-Dist: {requires}\n" if requires else ""
    with zipfile.ZipFile(directory / f"{name}-1-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"TAG = {tag!r}\n")
        wheel.writestr(f"{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{said}")
        wheel.writestr(f"{name}-1.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        wheel.writestr(f"{name}-1.dist-info/RECORD", f"{name}.py,,\n{name}-1.dist-info/METADATA,,\n")


@pytest.fixture
def installer(tmp_path: Path) -> Installer:
    """Of packages that lie in `index`."""
    for name in ("index", "scratch/built", "wheels", "builders"):
        (tmp_path / name).mkdir(parents=True)
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "index"), "HOME": str(tmp_path)}
    target = Target("3.11", OTHER)
    return Installer(target, env, tmp_path / "scratch", tmp_path / "wheels", tmp_path / "builders")


async def test_wheels_and_markers_are_those_of_the_other_machine(installer: Installer, tmp_path: Path) -> None:
    """Markers of a wheel that is needed count too: it is pip that reads them."""
    index = tmp_path / "index"
    for machine in (HERE, MACHINE):
        make_wheel(index, "native", f"cp311-cp311-manylinux_2_17_{machine}", f'deeper; platform_machine == "{MACHINE}"')
    for name in ("deeper", "here", "there"):
        make_wheel(index, name, "py3-none-any")
    asked = f'native\nhere; platform_machine == "{HERE}"\nthere; platform_machine == "{MACHINE}"\n'
    tree = await installer.requirements({"requirements.txt": asked}, ())
    modules = {entry.path: entry for entry in tree if entry.path.endswith(".py")}
    assert sorted(modules) == [f"{PACKAGES}/{name}.py" for name in ("deeper", "native", "there")]
    assert MACHINE in modules[f"{PACKAGES}/native.py"].data().decode()
    cache = tree.get(f"{PACKAGES}/__pycache__/native.cpython-311.pyc")
    assert cache
    assert cache.head(4) == importlib.util.MAGIC_NUMBER


async def test_a_package_without_such_a_wheel_is_named(installer: Installer, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "index/Some_source-1.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("Some_source-1/setup.py"), io.BytesIO())
    make_wheel(tmp_path / "index", "Some_source", f"cp311-cp311-manylinux_2_17_{HERE}")
    with pytest.raises(InputError, match=f"Some_source has no wheel for Python 3.11 on {OTHER}") as caught:
        await installer.requirements({"requirements.txt": "Some_source\n"}, ())
    assert caught.value.code == "requirement-no-wheel"
    assert "debian:python3-some-source" in caught.value.hint


async def test_what_is_not_there_at_all_is_told_as_pip_does(installer: Installer) -> None:
    with pytest.raises(InputError, match="No matching distribution found for nowhere") as caught:
        await installer.requirements({"requirements.txt": "nowhere\n"}, ())
    assert caught.value.code == "requirement-unmet"


@pytest.mark.parametrize("tag", [pytest.param("py3-none-any", marks=pytest.mark.full), f"cp311-cp311-linux_{HERE}"])
async def test_a_project_that_compiles_is_not_taken_elsewhere(tag: str, installer: Installer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "backend.py").write_text(BACKEND.format(name=f"own-1-{tag}.whl"))
    system = 'requires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (source / "pyproject.toml").write_text(f"[build-system]\n{system}")
    if tag.endswith("any"):
        assert f"{PACKAGES}/own.py" in await installer.project(source, (), None, dependencies=False)
        return
    with pytest.raises(InputError, match=f"compiles code for this machine .own-1-{tag}.whl.*for {OTHER}") as caught:
        await installer.project(source, (), None, dependencies=False)
    assert caught.value.code == "project-not-pure"


@pytest.mark.network
def test_its_steps_are_for_the_other_machine(tmp_path: Path) -> None:
    """The one asks nothing of the network but where Debian's packages are."""
    (tmp_path / "requirements.txt").write_text("idna\n")
    steps = plan.make(BuildSpec(parts=(PythonPart(path=tmp_path),), architecture=OTHER)).steps  # type: ignore[arg-type]
    assert [step.kind for step in steps] == ["debian", "requirements", "project"]
    assert {step.architecture for step in steps} == {OTHER}
    assert steps[1].asked == f"python 3.11 {OTHER}: idna"
