"""A Python application for arm64: linked by closure, proven under an emulator, booted, and twice the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.booted import booted
from support.whit import ROOT, Whit, free_port

from whit.base.settings import Settings
from whit.image.oci import manifest
from whit.runtime import programs

_TOOLS = ("qemu-aarch64-static", "qemu-system-aarch64", "aarch64-linux-gnu-gcc")
LARGEST = 15_000_000
"""Bytes of the compressed first root; for amd64 it has 14.3 MB."""

pytestmark = [
    pytest.mark.network,
    pytest.mark.root,
    pytest.mark.full,
    pytest.mark.timeout(900),
    pytest.mark.skipif(manifest.architecture() != "amd64", reason="arm64 is not another architecture here"),
    pytest.mark.skipif(not all(map(shutil.which, _TOOLS)), reason=f"needs {', '.join(_TOOLS)}"),
]


def write_app(app: Path) -> None:
    """The one that is measured, with a check that its interpreter takes the byte code that was made here."""
    shutil.copytree(ROOT / "benchmarks/images/fastapi", app / "fastapi")
    document = yaml.safe_load((ROOT / "benchmarks/images/whit.yaml").read_text())
    service = document["services"]["fastapi"]
    taken = "/app/__pycache__/hello.cpython-311.pyc matches"
    service["build"]["check"].insert(0, {"run": ["python3", "-v", "-c", "import hello"], "contains": taken})
    (app / "whit.yaml").write_text(yaml.safe_dump({"name": "far", "services": {"fastapi": service}}))


def test_fastapi_for_arm64_is_linked_proven_and_boots(
    settings: Settings, tmp_path: Path, record_number: Callable[[str, object], None]
) -> None:
    programs.build()
    app, again, port = tmp_path / "app", tmp_path / "far" / "again", free_port()
    write_app(app)
    shutil.copytree(app, again)
    whit = Whit(settings)
    other = Whit(Settings(settings.id, settings.run_root, tmp_path / "other"), {"TZ": "Asia/Tokyo"})
    made = tmp_path / "made"
    words = ["--target", "microvm", "--arch", "arm64", "-o"]
    whit("build", str(app), *words, str(made), timeout=600)
    other("build", str(again), *words, str(tmp_path / "second"), timeout=600)
    assert json.loads((made / "machine.json").read_text())["architecture"] == "arm64"
    for name in ("initrd", "kernel", "machine.json"):
        assert (made / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    size = (made / "initrd").stat().st_size
    record_number("FastAPI for arm64, compressed first root, bytes", size)
    assert size < LARGEST
    with booted(whit, str(made), tmp_path, ["-p", f"{port}:8000"]) as guest:
        guest.port = port
        assert json.loads(guest.get("/items/7?q=x")) == {"item": 7, "q": "x"}
        assert "/items/{item}" in guest.get("/openapi.json")
