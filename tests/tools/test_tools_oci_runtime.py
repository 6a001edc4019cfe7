"""Which runtime is chosen, how it is remembered, and calls to it. Running instances are tested in tests/runtime."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from whit.base.errors import NotFound, Unavailable
from whit.base.settings import Settings
from whit.tools import oci_runtime
from whit.tools.oci_runtime import ContainerState, Runtime, choose, find, parse_state


def test_states() -> None:
    document = {"id": "a", "status": "running", "pid": 7, "bundle": "/b", "more": 1}
    assert parse_state(document) == ContainerState("a", "running", 7, Path("/b"))
    assert parse_state({"id": "a", "status": "stopped", "bundle": "/b"}).pid == 0


async def test_what_does_not_exist(tmp_path: Path) -> None:
    runtime = Runtime("runc", Path("/usr/sbin/runc"), "1", tmp_path / "none")
    assert await runtime.containers() == {}
    assert not runtime.exists("x")
    with pytest.raises(NotFound):
        await runtime.state("x")
    assert await runtime.kill("x", "SIGTERM") is False
    await runtime.delete("x")


@pytest.mark.machine
async def test_one_is_chosen_by_trying_and_remembered(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = await choose(settings)
    assert chosen.root == settings.run_dir / "runtime"
    assert chosen.version[0].isdigit()

    async def never(runtime: Runtime, settings: Settings) -> str | None:
        raise AssertionError("tried again")

    monkeypatch.setattr(oci_runtime, "refusal_of", never)
    assert await choose(settings) == chosen
    memory = settings.run_dir / "runtime.json"
    document = json.loads(memory.read_text())
    for changed in ({**document, "fingerprint": {"boot": "another"}}, {"runtime": 1}, []):
        memory.write_text(json.dumps(changed))
        with pytest.raises(AssertionError, match="tried again"):
            await choose(settings)


@pytest.mark.machine
async def test_none_works(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuses(runtime: Runtime, settings: Settings) -> str | None:
        return "no such luck"

    monkeypatch.setattr(oci_runtime, "refusal_of", refuses)
    with pytest.raises(Unavailable, match="runc: no such luck"):
        await choose(settings)
    monkeypatch.setattr(oci_runtime, "find", lambda kind: None)
    with pytest.raises(Unavailable, match="neither crun nor runc is installed"):
        await choose(settings)


@pytest.mark.machine
async def test_a_refusal_says_why(settings: Settings) -> None:
    path = find("runc")
    assert path is not None
    broken = Runtime("runc", path, "1", Path("/proc/no/such/place"))
    assert "/proc/no" in (await oci_runtime.refusal_of(broken, settings) or "")
