"""The surface is what stands in the bundle; that the kernel holds to it, tests/contract shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.instances import Machine, make_spec

from whit.base.errors import NotFound
from whit.base.settings import Settings
from whit.model.instance import ResolvedMount
from whit.model.operation import carry_out
from whit.runtime.bundle.seccomp import ALWAYS
from whit.runtime.bundle.surface import allowed_calls, surface_of
from whit.runtime.layout import Layout
from whit.runtime.operations import NetworkFiles


@pytest.mark.machine
async def test_of_a_container(machine: Machine, tmp_path: Path) -> None:
    mounts = (
        ResolvedMount(kind="bind", source=tmp_path, target="/given", read_only=True),
        ResolvedMount(kind="bind", source=tmp_path, target="/data"),
    )
    spec = await machine.start(user="app", read_only=True, mounts=mounts, capabilities=("CAP_CHOWN",))
    found = surface_of(spec, machine.layout(spec), machine.driver.runtime)
    assert (found.kernel, found.user, found.capabilities) == ("host", "1000:1000", ("CAP_CHOWN",))
    assert set(ALWAYS) < set(found.system_calls)
    assert not {"mount", "bpf", "clone3", "chroot"} & set(found.system_calls)
    assert f"/data ({tmp_path})" in found.writable
    assert not [place for place in found.writable if place.startswith(("/ ", "/given", "/proc", "/sys"))]


@pytest.mark.machine
async def test_every_writable_place_is_one_and_no_other(machine: Machine) -> None:
    """What an instance finds out by trying, mount by mount."""
    script = "while read -r _ place _; do (: >$place/.try) 2>/dev/null && echo $place; done </proc/mounts"
    spec = machine.spec("sh", "-c", script, read_only=True)
    machine.network(spec)
    await carry_out(machine.driver.plan_start(spec, NetworkFiles()))
    await machine.driver.exit_of(spec.name)
    tried = set(machine.printed(spec).split())
    said = {place.split()[0] for place in surface_of(spec, machine.layout(spec), "").writable}
    files = {"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}
    assert tried == said - files


def test_what_was_never_started(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        surface_of(make_spec(tmp_path), Layout(Settings("tnone", state_root=tmp_path), "test-web-1"), "")


def test_calls_of_a_filter() -> None:
    profile = {
        "syscalls": [
            {"names": ["b", "a"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["c"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": []},
        ]
    }
    assert allowed_calls(json.loads(json.dumps(profile))) == ("a", "b")
