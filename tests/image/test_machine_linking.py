"""Linking a machine: where everything lies, who owns it, what a runtime is told, and what contradicts itself."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whit.base.errors import InputError, NotFound
from whit.control.machines import settling
from whit.formats.machine.document import load_machine
from whit.image.forms.bootable import first_root
from whit.image.machines import first_boot, kernels, link, records
from whit.image.machines.link import LinkedMachine
from whit.image.machines.parts import Kernel, Parts, Root
from whit.image.rootfs.tree import Entry
from whit.image.sources import kernel
from whit.image.sources.kernel import Kernel as Linux
from whit.model.first_boot import FirstBootSpec, WrittenFile
from whit.model.image import ImageConfig
from whit.model.machine import KernelSpec, MachineSpec
from whit.model.machine_container import ContainerMount

PASSWD = b"root:x:0:0::/:/bin/sh\napp:x:33:44::/:/bin/sh\n"
Link = Callable[..., LinkedMachine]


def machine(tmp_path: Path, text: str) -> MachineSpec:
    file = tmp_path / "machine.yml"
    file.write_text("kernel: {image: debian}\n" + text)
    found = load_machine(file)
    stages: Sequence[Any] = ("onboot", "onshutdown", "services")
    return found.model_copy(update={stage: tuple(one.settled() for one in found.stage(stage)) for stage in stages})


@pytest.fixture
def linked(tmp_path: Path) -> Link:
    """Links a text. Every image has the same three files, and `config` as what it says of itself."""

    def make(text: str, config: ImageConfig | None = None) -> LinkedMachine:
        config = config or ImageConfig(command=("/bin/app", "-x"), env={"A": "b"}, working_dir="/srv")
        entries = (
            Entry("bin", "directory", 0o711),
            Entry("bin/app", mode=0o755, content=b"app", inode="layer:bin/app"),
            Entry("etc/passwd", content=PASSWD),
        )
        spec = machine(tmp_path, text)
        names = {one.source.reference for one in spec.containers}
        names |= {one.source.reference for one in spec.volumes if one.source} | {one.reference for one in spec.init}
        runtime = Root("crun", "", (Entry("usr/bin/crun", mode=0o755, content=b"crun"),))
        (tmp_path / "supervisor").write_bytes(b"init")
        parts = Parts(
            Kernel(Linux("6", tmp_path), tree=(Entry("lib/modules/6/x.ko", content=b"x"),)),
            tmp_path / "supervisor",
            runtime,
            {name: Root(name, "", entries, config) for name in names},
        )
        return link.link(spec, parts)

    return make


def text_of(machine: LinkedMachine, path: str) -> str:
    entry = machine.tree.get(path)
    assert entry is not None, path
    return entry.data().decode()


def config_of(machine: LinkedMachine, place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text_of(machine, f"containers/{place}/config.json"))
    return found


def records_of(machine: LinkedMachine, path: str) -> list[str]:
    return text_of(machine, path).rstrip("\0").split("\0")


def test_the_layout_is_linuxkits(linked: Link) -> None:
    found = linked(
        """
onboot: [{name: one, image: a}, {name: two, image: a, readonly: true}]
onshutdown: [{name: bye, image: a, timeout: 5s}]
services: [{name: web, image: b, after: [], restart: always, ready: {tcp: 80, timeout: 2s}}]
volumes: [{name: data, image: a}, {name: fixed, readonly: true}]
network: dhcp
"""
    )
    assert records_of(found, "containers/plan") == [
        "dhcp=eth0",
        "volume=data=",
        "volume=fixed=1",
        "onboot=000-one",
        "onboot=001-two",
        "service=web",
        "onshutdown=000-bye",
    ]
    paths = {entry.path for entry in found.tree}
    for path in (
        "usr/bin/crun",
        "containers/onboot/000-one/lower/bin/app",
        "containers/onboot/000-one/rootfs",
        "containers/onboot/001-two/rootfs/bin/app",
        "containers/services/web/lower/bin/app",
        "containers/volumes/data/lower/bin/app",
        "containers/volumes/fixed/merged",
        "lib/modules/6/x.ko".replace("lib/", "usr/lib/"),
        "etc/resolv.conf",
    ):
        assert path in paths, path
    assert records_of(found, "containers/services/web/runtime") == [
        "name=web",
        "uid=0",
        "restart=always",
        "grace=10000",
        "ready-tcp=80",
        "ready-timeout=2000",
    ]
    assert "timeout=5000" in records_of(found, "containers/onshutdown/000-bye/runtime")
    assert found.bill.explain("/usr/bin/crun")[0] == "/usr/bin/crun"
    with pytest.raises(NotFound):
        found.bill.explain("/nothing")


def test_one_file_of_one_image_is_stored_once(linked: Link, tmp_path: Path) -> None:
    found = linked("onboot: [{name: one, image: a}, {name: two, image: a}]\nvolumes: [{name: v, image: a}]")
    places = ("onboot/000-one/lower", "onboot/001-two/lower", "volumes/v/lower")
    inodes = {entry.inode for place in places if (entry := found.tree.get(f"containers/{place}/bin/app"))}
    assert inodes == {"layer:bin/app"}


def test_what_is_not_said_is_linuxkits_default(linked: Link) -> None:
    found = config_of(linked("services: [{name: web, image: a}]"), "services/web")
    process = found["process"]
    assert (process["args"], process["cwd"]) == (["/bin/app", "-x"], "/srv")
    assert "A=b" in process["env"]
    assert any(one.startswith("PATH=/usr") for one in process["env"])
    assert process["capabilities"]["bounding"] == []
    assert process["noNewPrivileges"] is False
    assert [one["type"] for one in found["linux"]["namespaces"]] == ["mount", "cgroup", "pid"]
    places = {one["destination"]: one["type"] for one in found["mounts"]}
    assert list(places) == ["/dev", "/dev/pts", "/proc", "/sys", "/sys/fs/cgroup"]
    assert found["linux"]["resources"]["devices"][0] == {"allow": False, "access": "rwm"}
    assert found["linux"]["cgroupsPath"] == "/services/web"


def test_binds(linked: Link) -> None:
    found = linked(
        "services: [{name: web, image: a, binds: ['/a:/z', '/b:/y:ro', 'v:/dev'], tmpfs: [/z]}]\nvolumes: [{name: v}]"
    )
    mounts = {one["destination"]: one for one in config_of(found, "services/web")["mounts"]}
    assert mounts["/z"]["options"] == ["rw", "rbind", "rshared"], "the last of a place wins"
    assert mounts["/y"]["options"] == ["ro", "rbind"]
    assert mounts["/dev"]["source"] == "/containers/volumes/v/merged"


def test_users_by_the_name_of_a_container(linked: Link) -> None:
    found = linked(
        """
onboot: [{name: first, image: a}]
services: [{name: web, image: a, uid: web, gid: first, additionalGids: [web, 7]}]
files: [{path: etc/x/y, contents: z, uid: web, gid: first, mode: "0640"}]
"""
    )
    assert config_of(found, "services/web")["process"]["user"] == {"uid": 101, "gid": 100, "additionalGids": [101, 7]}
    entry, parent = found.tree.get("etc/x/y"), found.tree.get("etc/x")
    assert entry is not None
    assert parent is not None
    assert (entry.uid, entry.gid, entry.mode) == (101, 100, 0o640)
    assert (parent.uid, parent.gid, parent.mode) == (101, 100, 0o750), "who may read it may come to it"


def test_the_user_of_an_image(linked: Link) -> None:
    config = ImageConfig(command=("x",), user="app")
    found = config_of(linked("services: [{name: web, image: a}]", config), "services/web")
    assert (found["process"]["user"]["uid"], found["process"]["user"]["gid"]) == (33, 44)


def test_settings_of_the_machine_are_set_by_the_machine(linked: Link) -> None:
    found = linked(
        """
services:
  - {name: host, image: a, sysctl: {net.core.somaxconn: 9, kernel.shmmax: 5}}
  - {name: own, image: a, net: new, ipc: new, sysctl: {net.core.somaxconn: 9, kernel.shmmax: 5, vm.swappiness: 1}}
"""
    )
    assert "sysctl" not in config_of(found, "services/host")["linux"]
    told = records_of(found, "containers/services/host/runtime")
    assert [one for one in told if one.startswith("sysctl")] == [
        "sysctl=kernel.shmmax=5",
        "sysctl=net.core.somaxconn=9",
    ]
    assert config_of(found, "services/own")["linux"]["sysctl"] == {"net.core.somaxconn": "9", "kernel.shmmax": "5"}
    assert "sysctl=vm.swappiness=1" in records_of(found, "containers/services/own/runtime")


MISTAKES = [
    ("services: [{name: a, image: a, hostname: x}]", "machine-hostname", "needs a namespace of its own"),
    ("services: [{name: a, image: a, userns: new}]", "machine-userns", "users are nobody's"),
    (
        "services: [{name: a, image: a, uidMappings: [{containerID: 0, hostID: 0, size: 1}]}]",
        "machine-mappings",
        "in a namespace of their own",
    ),
    ("files: [{path: run/x, contents: y}]", "machine-hidden-file", "is hidden by"),
    ("services: [{name: a, image: a, command: []}]", "machine-no-command", "has no command"),
]


@pytest.mark.parametrize(("text", "code", "message"), MISTAKES, ids=[code for _, code, _ in MISTAKES])
def test_what_contradicts_itself(linked: Link, text: str, code: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        linked(text)
    assert caught.value.code == code


def test_mounts_of_the_machine_as_the_kernel_takes_them() -> None:
    tmpfs = ContainerMount(destination="/x", type="tmpfs", options=("ro", "nosuid", "size=1m", "mode=700"))
    assert records.mount(tmpfs, "/c") == "tmpfs\x1ftmpfs\x1f/x\x1f3\x1f0\x1fsize=1m,mode=700"
    bind = ContainerMount(destination="/x", type="bind", source="/y", options=("rbind", "rshared"))
    below = ContainerMount(destination="own/etc", type="tmpfs")
    assert records.mount(below, "/c").split("\x1f")[2] == "/c/own/etc"
    assert records.mount(bind, "/c") == "bind\x1f/y\x1f/x\x1f5000\x1f104000\x1f"


def tar_of(files: dict[str, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return output.getvalue()


ONE_OF_EACH = """\
kernel: {image: debian, cmdline: console=ttyS0 quiet panic=-1}
init: [./own]
onboot: [{name: a, build: {parts: [debian:busybox-static]}}]
services: [{name: b, build: {parts: [debian:busybox-static]}}]
onshutdown: [{name: c, build: {parts: [debian:nginx]}}]
volumes: [{name: d, image: ./own}]
"""


def test_all_of_a_machine_is_for_its_architecture(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/file").write_text("a")
    (tmp_path / "machine.yml").write_text(ONE_OF_EACH)
    spec = load_machine(tmp_path / "machine.yml").built_for("arm64")
    found = [source.build and source.build.architecture for _, source in settling.sources(spec)]
    assert found == ["arm64"] * 5
    assert all(name.endswith("-arm64") for name in settling.built(spec).values())


def test_a_kernel_for_arm64_is_told_the_console_of_its_board() -> None:
    assert link.cmdline_for("console=tty0 console=ttyS0 quiet", "arm64") == "console=tty0 console=ttyAMA0 quiet"
    assert link.cmdline_for("console=ttyS0  x", "amd64") == "console=ttyS0  x"


async def test_a_kernel_out_of_an_image(tmp_path: Path) -> None:
    tar = tar_of({"lib/modules/6.6/modules.builtin": b"", "etc/marker": b"m"})
    files = {"kernel": b"K", "kernel.tar": tar, "boot/ucode": b"U"}
    root = Root("k", "", tuple(Entry(name, content=data) for name, data in files.items()))
    found = await kernels.of_image(KernelSpec(ucode="/boot/ucode"), root, ("virtio_net",), tmp_path)
    assert (found.linux.release, found.linux.image.read_bytes(), found.microcode) == ("6.6", b"K", b"U")
    assert "etc/marker" in [entry.path for entry in found.tree]
    assert await kernel.modules(found.linux, ["virtio_net", "dm_verity"]) == [], "what is no module is built in"
    plain = await kernels.of_image(KernelSpec(tar="none"), root, (), tmp_path)
    assert plain.tree == ()
    assert await kernel.modules(plain.linux, ["overlay"]) == []
    for spec, code in (
        (KernelSpec(binary="bzImage"), "machine-kernel-binary"),
        (KernelSpec(tar="x.tar"), "machine-kernel-tar"),
        (KernelSpec(ucode="x"), "machine-kernel-ucode"),
    ):
        with pytest.raises(InputError) as caught:
            await kernels.of_image(spec, root, (), tmp_path)
        assert caught.value.code == code


async def test_microcode_stands_before_the_root(linked: Link, tmp_path: Path) -> None:
    found = linked("services: [{name: a, image: a}]")
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/vmlinuz-6").write_bytes(b"k")
    early = replace(found, kernel=Kernel(Linux("6", tmp_path), microcode=b"070701 early")).bootable()
    (tmp_path / "made").mkdir()
    await first_root(early, ("root=memory",), (), tmp_path / "made/initrd")
    assert (tmp_path / "made/initrd").read_bytes().startswith(b"070701 early\x28\xb5\x2f\xfd")
    assert early.kept == ("/var",)


def test_what_a_first_boot_is_told() -> None:
    spec = FirstBootSpec(hostname="box", files=(WrittenFile(path="/a", contents=b"x\0y", mode=0o600),))
    said = first_boot.disk(spec)
    assert len(said) % 512 == 0
    assert said.startswith(
        b"whit-first-boot 1\nhostname=box\0\0"
        b"kind=file\0path=/a\0mode=600\0uid=0\0gid=0\0size=3\0overwrite=1\0\0x\0yend=1\0\0"
    )
