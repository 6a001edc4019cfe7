"""Images are settled in a process of its own: it says what it does, fails as a build here, and ends with its agent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from whit.base.errors import CheckFailed, InputError, WhitError
from whit.base.settings import Settings
from whit.control import image_process
from whit.control.images import settled_images
from whit.image.sandbox.processes import module_environment
from whit.image.store.images import ImageStore
from whit.model.app import AppSpec
from whit.model.build import BuildSpec, CheckSpec, DirectoryPart
from whit.model.progress import Progress
from whit.model.service import ServiceSpec

ALONE = """
import asyncio, json, sys
from pathlib import Path
from whit.base.settings import Settings
from whit.control import image_process
from whit.model.app import AppSpec

request = json.load(sys.stdin)
settings = Settings(request["id"], Path(request["run"]), Path(request["state"]))
asyncio.run(image_process.settle(settings, AppSpec.model_validate(request["spec"]), lambda progress: None))
"""


def app(directory: Path, site: Path, *checks: CheckSpec) -> AppSpec:
    build = BuildSpec(parts=(DirectoryPart(path=site),), check=checks)
    return AppSpec(name="blog", directory=directory, services={"web": ServiceSpec(build=build)})


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index").write_text("hello")
    return tmp_path / "site"


async def test_what_it_made_is_found_here(settings: Settings, tmp_path: Path, site: Path) -> None:
    spec, store, said = app(tmp_path, site), ImageStore(settings), list[Progress]()
    assert await settled_images(spec, store, said.append) is None
    assert said == []
    made = await image_process.settle(settings, spec, said.append)
    assert (made["web"].layers[0] / "index").read_text() == "hello"
    assert [(one.subject, one.done) for one in said if one.done] == [("web", True)]
    assert await settled_images(spec, store, said.append) == {"web": made["web"].model_copy(update={"cached": True})}
    assert said[-1].step == "image unchanged"
    (site / "index").write_text("changed")
    assert await settled_images(spec, store, said.append) is None


async def test_it_fails_as_a_build_here(settings: Settings, tmp_path: Path, site: Path) -> None:
    said: list[Progress] = []
    missing = app(tmp_path, tmp_path / "nowhere")
    assert await settled_images(missing, ImageStore(settings), said.append) is None
    with pytest.raises(InputError, match="nowhere"):
        await image_process.settle(settings, missing, said.append)
    assert [(one.subject, one.step, one.failed) for one in said] == [("web", "no image", True)]
    with pytest.raises(CheckFailed) as caught:
        await image_process.settle(settings, app(tmp_path, site, CheckSpec(run=("/nothing",))), said.append)
    assert caught.value.code == "check-failed"
    assert "include" in caught.value.hint


async def test_a_store_that_cannot_be_written_is_told(settings: Settings, tmp_path: Path, site: Path) -> None:
    settings.images_dir.parent.mkdir(parents=True)
    settings.images_dir.write_text("in the way")
    assert await settled_images(app(tmp_path, site), ImageStore(settings), lambda progress: None) is None
    with pytest.raises(WhitError, match=str(settings.images_dir)):
        await image_process.settle(settings, app(tmp_path, site), lambda progress: None)


def test_it_ends_with_its_agent(settings: Settings, tmp_path: Path, site: Path) -> None:
    with (site / "large").open("wb") as file:
        file.truncate(2 << 30)
    spec = app(tmp_path, site).model_dump(mode="json")
    places = {"id": settings.id, "run": str(settings.run_root), "state": str(settings.state_root)}
    environment = os.environ | module_environment()
    with subprocess.Popen([sys.executable, "-c", ALONE], stdin=subprocess.PIPE, env=environment) as agent:
        assert agent.stdin is not None
        agent.stdin.write(json.dumps(places | {"spec": spec}).encode())
        agent.stdin.close()
        child = building(agent.pid)
        agent.send_signal(signal.SIGKILL)
    give_up = time.monotonic() + 90
    while running(child):
        assert time.monotonic() < give_up, "it builds for an agent that is gone"
        time.sleep(0.05)


def building(agent: int) -> int:
    """The process of this agent that settles images, once it has begun to."""
    give_up = time.monotonic() + 90
    while time.monotonic() < give_up:
        for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
            if running(int(child)):
                return int(child)
        time.sleep(0.02)
    raise AssertionError("nothing was built")


def running(pid: int) -> bool:
    """Whether it runs the module and has not just been started or ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return False
    return words[:1] == [sys.executable.encode()] and image_process.__name__.encode() in words
