"""Real servers linked by closure: their own checks pass, and they are far smaller than what their packages bring.

A run without --full builds two of the eight; the application file is the one that the benchmark measures.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from whit.base.settings import Settings
from whit.control.machines import appliances
from whit.formats.app.appfile import load_app
from whit.image.sandbox import confine
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec
from whit.model.progress import Report

pytestmark = [pytest.mark.network, pytest.mark.root, pytest.mark.slow]

APPLICATIONS = Path(__file__).resolve().parents[2] / "benchmarks" / "images"
MEGABYTES = {
    "http-server": 22,
    "nginx": 11,
    "redis": 22,
    "memcached": 10,
    "haproxy": 21,
    "flask": 32,
    "fastapi": 39,
    "postgresql": 90,
}
"""What a closure may have at most, by service; the first ones are those of a quick run."""
QUICK = 2
BOOTS = {"nginx": 5, "fastapi": 12}
"""Megabytes that the compressed first root of a microVM may have, which is all that boots but the kernel."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package lists and packages, fetched once for this module."""
    return tmp_path_factory.mktemp("packages")


@pytest.fixture
def store(settings: Settings, packages: Path) -> ImageStore:
    cache = settings.state_dir / "builds" / "apt"
    if any(packages.iterdir()):
        shutil.copytree(packages, cache, dirs_exist_ok=True)
        subprocess.run(["chown", "-R", f"{confine.DEBIAN_UID}:{confine.DEBIAN_UID}", cache], check=True)
    return ImageStore(settings)


def build_of(name: str) -> BuildSpec:
    build = load_app(APPLICATIONS, environment={}).services[name].build
    assert build
    return build


@pytest.mark.parametrize("name", MEGABYTES)
async def test_closure_passes_its_checks_and_is_small(
    name: str,
    settings: Settings,
    packages: Path,
    store: ImageStore,
    report: Report,
    sample: Callable[[int, int], int],
    record_number: Callable[[str, object], None],
) -> None:
    if list(MEGABYTES).index(name) >= sample(QUICK, len(MEGABYTES)):
        pytest.skip("part of the full run")
    image = await store.build(name, build_of(name), report)
    bill = store.bill(name)
    record_number(f"closure of {name}, MB", round(image.size / 1e6, 1))
    assert image.size < MEGABYTES[name] * 1e6
    assert len(bill.checks) == len(build_of(name).check)
    unexplained = [file.path for file in bill.files if file.kind != "directory" and not file.reason]
    assert unexplained == []
    shutil.copytree(settings.state_dir / "builds" / "apt", packages, dirs_exist_ok=True)


async def test_without_a_file_that_is_needed_the_closure_is_refused(store: ImageStore, report: Report) -> None:
    spec = build_of("nginx")
    part = spec.parts[0].model_copy(update={"exclude": ("usr/lib/*/libpcre2-8.so*",)})
    with pytest.raises(Exception, match=r"libpcre2-8.so.0.*No such file"):
        await store.build("nginx", spec.model_copy(update={"parts": (part,)}), report)
    assert store.images() == []


@pytest.mark.full
@pytest.mark.parametrize("name", BOOTS)
async def test_what_boots_is_small(
    name: str, store: ImageStore, open_directory: Path, report: Report, record_number: Callable[[str, object], None]
) -> None:
    service = load_app(APPLICATIONS, environment={}).services[name]
    image = await store.build(name, build_of(name), report)
    await appliances.write(store, "microvm", name, service, image, open_directory / "vm", small=True)
    size = (open_directory / "vm" / "initrd").stat().st_size
    record_number(f"first root of {name}, MB", round(size / 1e6, 2))
    assert size < BOOTS[name] * 1e6
