"""The wheel carries the objects, and works where there is no compiler and no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

LOAD = """
from ipaddress import IPv4Network
from pathlib import Path
import shutil, sys
from whit.base.settings import Settings
from whit.datapath import build
from whit.datapath.datapath import Datapath, uninstall
from whit.datapath.install import DatapathConfig
assert shutil.which("clang") is None
assert sys.argv[2] in build.__file__, build.__file__
assert not build.build()
settings = Settings(id=sys.argv[1])
try:
    with Datapath.install(settings, DatapathConfig(pool=IPv4Network("10.99.0.0/24"))) as datapath:
        print("flows", datapath.flows.max_entries)
finally:
    uninstall(settings)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(output), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = output.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_is_for_every_machine_and_has_the_objects(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"whit/datapath/objects/abi.bpf.o", "whit/datapath/objects/datapath.bpf.o", "whit/py.typed"} <= names
    assert not [name for name in names if name.startswith(("bpf/", "tests/")) or ".stamp" in name or ".build" in name]


@pytest.mark.slow
@pytest.mark.root
def test_the_wheel_loads_the_datapath_without_a_compiler(wheel: Path, tmp_path: Path, settings) -> None:  # type: ignore[no-untyped-def]
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {"PATH": str(tmp_path), "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{packages}"}
    command = [sys.executable, "-S", "-c", LOAD, settings.id, str(tmp_path)]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "flows 262144\n"
