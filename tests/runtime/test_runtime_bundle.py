from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.instances import make_spec

from whit.base.errors import InputError, Unavailable
from whit.base.settings import Settings
from whit.model.instance import InstanceSpec, ResolvedMount
from whit.model.service import LimitsSpec
from whit.runtime.bundle import capabilities
from whit.runtime.bundle.host import HostFacts, accounts_swap, held
from whit.runtime.bundle.oci_config import command_line, configuration
from whit.runtime.bundle.users import Owner
from whit.runtime.layout import Layout
from whit.runtime.operations import NetworkFiles, hosts_text, resolv_conf_text
from whit.tools.oci_runtime import Runtime

HOST = HostFacts(Runtime("crun", Path("/usr/bin/crun"), "1.8", Path("/run/r")), open_files=20000, machine="x86_64")


def made(owner: Owner | None = None, host: HostFacts = HOST, **changes: Any) -> dict[str, Any]:
    spec = make_spec(Path("/image"), "serve", **changes)
    return configuration(spec, Layout(Settings(id="t1"), spec.name), host, owner or Owner())


def test_the_whole_of_it() -> None:
    document = made(env={"A": "b", "HOME": "/h"}, read_only=True, working_dir="/srv")
    assert document["ociVersion"] == "1.0.2"
    assert document["root"] == {"path": "/run/whit/t1/instances/test-web-1/rootfs", "readonly": True}
    assert document["hostname"] == "tiny"
    process = document["process"]
    assert process["args"] == ["serve"]
    assert process["cwd"] == "/srv"
    assert process["env"][1:] == ["HOME=/h", "A=b"]
    assert process["env"][0].startswith("PATH=/usr/local/sbin:")
    assert process["noNewPrivileges"] is True
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 20000, "hard": 20000}]
    linux = document["linux"]
    assert linux["cgroupsPath"] == "/whit/t1/test-web-1"
    assert linux["resources"]["pids"] == {"limit": 2048}
    assert "memory" not in linux["resources"]
    assert linux["namespaces"][-1] == {"type": "network", "path": "/run/whit/t1/netns/test-web-1"}
    assert {one["type"] for one in linux["namespaces"]} == {"pid", "ipc", "uts", "mount", "cgroup", "network"}
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "/proc/sys" in linux["readonlyPaths"]


def test_no_cgroup_namespace_on_v1() -> None:
    host = HostFacts(HOST.runtime, cgroups="v1", machine="x86_64")
    assert "cgroup" not in {one["type"] for one in made(host=host)["linux"]["namespaces"]}


def test_limits() -> None:
    limits = LimitsSpec(memory=64 << 20, cpus=1.5, pids=10)
    found = made(limits=limits)["linux"]["resources"]
    assert found["memory"] == {"limit": 64 << 20, "swap": 64 << 20}
    assert found["cpu"] == {"quota": 150_000, "period": 100_000}
    assert found["pids"] == {"limit": 10}
    host = HostFacts(HOST.runtime, swap_accounting=False, machine="x86_64")
    assert made(host=host, limits=limits)["linux"]["resources"]["memory"] == {"limit": 64 << 20}


def test_capabilities_of_root_and_of_others() -> None:
    root = made()["process"]["capabilities"]
    assert root["effective"] == root["permitted"] == root["bounding"] == list(capabilities.DEFAULT)
    assert root["ambient"] == root["inheritable"] == []
    added = (*capabilities.DEFAULT, "CAP_SYS_NICE")
    other = made(Owner(1000, 1000), capabilities=added)["process"]["capabilities"]
    assert other["bounding"] == list(added)
    assert other["ambient"] == other["inheritable"] == other["effective"] == other["permitted"] == ["CAP_SYS_NICE"]


def test_nobody_gives_what_he_does_not_hold() -> None:
    status = "Name:\tx\nCapInh:\t0\nCapPrm:\t000001fffeffffff\n"
    assert set(capabilities.KNOWN) - set(held(status)) == {"CAP_SYS_RESOURCE"}
    host = HostFacts(HOST.runtime, capabilities=held(status), machine="x86_64")
    made(host=host)
    with pytest.raises(Unavailable, match=r"services\.web: this agent does not hold CAP_SYS_RESOURCE"):
        made(host=host, capabilities=capabilities.KNOWN)


def test_mounts_come_parents_first_and_replace_ours() -> None:
    mounts = (
        ResolvedMount(kind="bind", source=Path("/b"), target="/a/b/c", read_only=True),
        ResolvedMount(kind="tmpfs", target="/a/", size=5, mode=0o755),
        ResolvedMount(kind="bind", source=Path("/h"), target="/etc/hosts"),
        ResolvedMount(kind="tmpfs", target="/dev/shm", size=1 << 30),
    )
    found = made(mounts=mounts)["mounts"]
    targets = [one["destination"] for one in found]
    assert targets.count("/etc/hosts") == targets.count("/dev/shm") == 1
    assert targets.index("/a/") < targets.index("/a/b/c")
    by_target = {one["destination"]: one for one in found}
    assert by_target["/a/b/c"]["options"] == ["bind", "ro", "rprivate", "nosuid", "nodev"]
    assert by_target["/a/"]["options"] == ["nosuid", "noexec", "nodev", "mode=755", "size=5"]
    assert by_target["/etc/hosts"]["source"] == "/h"


@pytest.mark.parametrize("target", ["/", "/proc", "/proc/sys", "/sys/fs", "/dev", "/a/../proc"])
def test_places_that_cannot_be_mounted_over(target: str) -> None:
    with pytest.raises(InputError, match="nothing can be mounted") as caught:
        made(mounts=(ResolvedMount(kind="tmpfs", target=target),))
    assert caught.value.place.key == "services.web.mounts"


@pytest.mark.parametrize(
    ("entrypoint", "command", "image", "wanted"),
    [
        (None, None, (["e"], ["c"]), ("e", "c")),
        (None, ["x"], (["e"], ["c"]), ("e", "x")),
        (["n"], None, (["e"], ["c"]), ("n",)),
        (["n"], ["x"], (["e"], ["c"]), ("n", "x")),
        (None, None, ([], ["c"]), ("c",)),
        ([], ["x"], (["e"], []), ("x",)),
    ],
)
def test_the_command(
    entrypoint: list[str] | None, command: list[str] | None, image: tuple[list[str], list[str]], wanted: tuple[str, ...]
) -> None:
    assert command_line("web", entrypoint, command, *image) == wanted


def test_no_command_at_all() -> None:
    with pytest.raises(InputError, match=r"services\.web: has no command"):
        command_line("web", None, None, [], [])


def test_network_files() -> None:
    spec: InstanceSpec = make_spec(Path("/image"))
    text = hosts_text(spec, NetworkFiles([("10.0.0.7", ["db", "db.shop"])]))
    assert text.splitlines()[-2:] == ["10.1.2.3\ttiny", "10.0.0.7\tdb db.shop"]
    assert resolv_conf_text(NetworkFiles()) == "options ndots:1\n"


def test_whether_swap_is_counted(tmp_path: Path) -> None:
    assert not accounts_swap("hybrid", tmp_path)
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.memsw.limit_in_bytes").touch()
    assert accounts_swap("hybrid", tmp_path)
    assert not accounts_swap("v2", tmp_path)
    (tmp_path / "init").mkdir()
    (tmp_path / "init/memory.swap.max").touch()
    assert accounts_swap("v2", tmp_path)
