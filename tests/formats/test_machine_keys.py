"""Every key of LinuxKit's schema is read as it is, or refused by name with the place and a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from whit.formats.app.capabilities import KNOWN
from whit.formats.machine import container as machine_container
from whit.formats.machine import document as machine
from whit.formats.machine import files as machine_files
from whit.formats.machine.keys import UNSUPPORTED
from whit.formats.problems import InvalidApp
from whit.model.machine import ContainerSpec, MachineSpec
from whit.model.machine_container import ContainerMount, DeviceSpec, IdMapping, InterfaceSpec, Limit, RuntimeSpec

# schema.go of LinuxKit, and what its documentation has beside it.
_IMAGE_KEYS = """
name image capabilities ambient mounts binds tmpfs command env cwd net pid ipc uts userns readonly maskedPaths
readonlyPaths uid gid additionalGids noNewPrivileges hostname oomScoreAdj rootfsPropagation cgroupsPath resources
sysctl rlimits uidMappings gidMappings annotations runtime devices capabilities.add binds.add
"""
_IMAGE = _IMAGE_KEYS.split()
_TOP = ["kernel", "init", "onboot", "onshutdown", "services", "trust", "files", "volumes"]
_KERNEL = ["image", "cmdline", "binary", "tar", "ucode"]
_FILE = ["path", "directory", "symlink", "contents", "source", "metadata", "optional", "mode", "uid", "gid"]
_VOLUME = ["name", "image", "readonly", "format", "platforms"]
_NESTED = {
    "mounts": "type source destination options",
    "devices": "path type major minor mode",
    "uidMappings": "containerID hostID size",
    "gidMappings": "containerID hostID size",
    "runtime": "cgroups mounts mkdir interfaces bindNS namespace noRestart",
    "runtime.mounts": "type destination",
    "runtime.interfaces": "name add peer createInRoot",
    "runtime.bindNS": "cgroup ipc mnt net pid user uts",
    "resources": "devices memory cpu pids blockio hugepageLimits network",
    "resources.memory": "limit reservation swap kernel kernelTCP swappiness disableOOMKiller",
    "resources.cpu": "shares quota period realtimeRuntime realtimePeriod cpus mems",
    "resources.pids": "limit",
    "resources.devices": "allow type major minor access",
    "resources.hugepageLimits": "pageSize limit",
    "resources.network": "classID priorities",
    "resources.blockio": "weight leafWeight weightDevice throttleReadBpsDevice throttleWriteBpsDevice "
    "throttleReadIOPSDevice throttleWriteIOPSDevice",
    "resources.blockio.weightDevice": "major minor weight leafWeight",
    "resources.blockio.throttleReadBpsDevice": "major minor rate",
}

READ: list[tuple[str, str, Any]] = [
    ("capabilities: [CAP_NET_ADMIN, kill]", "capabilities", ("CAP_NET_ADMIN", "CAP_KILL")),
    ("capabilities: [all]", "capabilities", tuple(sorted(KNOWN))),
    ("capabilities: [none]", "capabilities", ()),
    ("capabilities.add: [CAP_CHOWN]", "capabilities_add", ("CAP_CHOWN",)),
    ("ambient: [CAP_KILL]", "ambient", ("CAP_KILL",)),
    ("binds: ['/a:/b', '/c:/d:ro,rslave']", "binds", ("/a:/b", "/c:/d:ro,rslave")),
    ("binds.add: ['/a:/b']", "binds_add", ("/a:/b",)),
    (
        "mounts: [{type: tmpfs, source: tmpfs, destination: /x, options: [rw]}]",
        "mounts",
        (ContainerMount(destination="/x", type="tmpfs", source="tmpfs", options=("rw",)),),
    ),
    (
        "mounts: [{type: cgroup, options: [rw]}, {source: proc}]",
        "mounts",
        (
            ContainerMount(destination="/sys/fs/cgroup", type="cgroup", options=("rw",)),
            ContainerMount(destination="/proc", type="proc", source="proc"),
        ),
    ),
    ("tmpfs: ['/tmp', '/run:size=1m']", "tmpfs", ("/tmp", "/run:size=1m")),
    (
        "devices: [{path: /dev/x, type: c, major: 10, minor: 2, mode: '0600'}]",
        "devices",
        (DeviceSpec(path="/dev/x", type="c", major=10, minor=2, mode=0o600),),
    ),
    ("devices: [{path: all, type: b}]", "devices", (DeviceSpec(path="all", type="b"),)),
    ("command: [/bin/x, '']", "command", ("/bin/x", "")),
    ("env: ['A=b', 'C=']", "env", ("A=b", "C=")),
    ("cwd: /srv", "cwd", "/srv"),
    ("net: new", "net", "new"),
    ("net: none", "net", "none"),
    ("net: /run/netns/x", "net", "/run/netns/x"),
    ("net: ''", "net", "host"),
    ("pid: host", "pid", "host"),
    ("ipc: new", "ipc", "new"),
    ("uts: new", "uts", "new"),
    ("userns: new", "userns", "new"),
    (
        "uidMappings: [{containerID: 0, hostID: 1000, size: 10}]",
        "uid_mappings",
        (IdMapping(container_id=0, host_id=1000, size=10),),
    ),
    (
        "gidMappings: [{containerID: 0, hostID: 1000, size: 10}]",
        "gid_mappings",
        (IdMapping(container_id=0, host_id=1000, size=10),),
    ),
    ("uid: 33", "uid", 33),
    ("gid: web", "gid", "web"),
    ("additionalGids: [5, web]", "additional_gids", (5, "web")),
    ("readonly: true", "readonly", True),
    ("maskedPaths: [/proc/kcore]", "masked_paths", ("/proc/kcore",)),
    ("readonlyPaths: [/proc/sys]", "readonly_paths", ("/proc/sys",)),
    ("noNewPrivileges: true", "no_new_privileges", True),
    ("hostname: box", "hostname", "box"),
    ("oomScoreAdj: -800", "oom_score_adj", -800),
    ("rootfsPropagation: shared", "rootfs_propagation", "shared"),
    ("cgroupsPath: /x", "cgroups_path", "/x"),
    ("annotations: {a: b}", "annotations", {"a": "b"}),
    ("sysctl: {net.ipv4.ip_forward: 1}", "sysctl", {"net.ipv4.ip_forward": "1"}),
    (
        "rlimits: ['nofile,1024,4096', 'RLIMIT_CORE,0,unlimited']",
        "rlimits",
        (Limit(name="RLIMIT_NOFILE", soft=1024, hard=4096), Limit(name="RLIMIT_CORE", soft=0, hard=None)),
    ),
    (
        "resources: {memory: {limit: 1, reservation: 2, swap: 3}}",
        "resources",
        {"memory": {"limit": 1, "reservation": 2, "swap": 3}},
    ),
    (
        "resources: {cpu: {shares: 1, quota: 2, period: 3, cpus: '0-1', mems: '0'}, pids: {limit: 9}}",
        "resources",
        {"cpu": {"shares": 1, "quota": 2, "period": 3, "cpus": "0-1", "mems": "0"}, "pids": {"limit": 9}},
    ),
    (
        "resources: {devices: [{allow: true, type: c, major: 1, minor: 3, access: rwm}]}",
        "resources",
        {"devices": [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]},
    ),
    (
        "resources: {blockio: {weight: 100, weightDevice: [{major: 8, minor: 0, weight: 20}], "
        "throttleReadBpsDevice: [{major: 8, minor: 0, rate: 7}], throttleWriteBpsDevice: [], "
        "throttleReadIOPSDevice: [], throttleWriteIOPSDevice: []}}",
        "resources",
        {
            "blockIO": {
                "weight": 100,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 20}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}],
                "throttleWriteBpsDevice": [],
                "throttleReadIOPSDevice": [],
                "throttleWriteIOPSDevice": [],
            }
        },
    ),
    (
        "resources: {hugepageLimits: [{pageSize: 2097152, limit: 4}]}",
        "resources",
        {"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]},
    ),
    ("runtime: {cgroups: [x]}", "runtime", RuntimeSpec(cgroups=("x",))),
    (
        "runtime: {mounts: [{type: tmpfs, destination: /x}, {type: tmpfs, destination: own/x}], mkdir: [/y]}",
        "runtime",
        RuntimeSpec(mounts=tuple(ContainerMount(destination=x, type="tmpfs") for x in ("/x", "own/x")), mkdir=("/y",)),
    ),
    (
        "runtime: {interfaces: [{name: e0, add: veth, peer: v0}, {name: e1, createInRoot: true}]}",
        "runtime",
        RuntimeSpec(
            interfaces=(InterfaceSpec(name="e0", add="veth", peer="v0"), InterfaceSpec(name="e1", create_in_root=True))
        ),
    ),
    (
        "runtime: {bindNS: {cgroup: /1, ipc: /2, mnt: /3, net: /4, pid: /5, user: /6, uts: /7}}",
        "runtime",
        RuntimeSpec(
            bind_ns={"cgroup": "/1", "ipc": "/2", "mnt": "/3", "net": "/4", "pid": "/5", "user": "/6", "uts": "/7"}
        ),
    ),
    ("runtime: {noRestart: true}", "restart", "no"),
    ("restart: always", "restart", "always"),
]


def load(tmp_path: Path, text: str) -> MachineSpec:
    file = tmp_path / "machine.yml"
    file.write_text(text)
    return machine.load_machine(file)


def service(tmp_path: Path, line: str) -> ContainerSpec:
    return load(tmp_path, f"services:\n  - name: web\n    image: web\n    {line}\n").services[0]


@pytest.mark.parametrize(("line", "field", "expected"), READ, ids=[line.replace("/", "-") for line, _, _ in READ])
def test_a_key_of_a_container(tmp_path: Path, line: str, field: str, expected: object) -> None:
    assert getattr(service(tmp_path, line), field) == expected


def test_what_is_not_said_stays_so(tmp_path: Path) -> None:
    found = service(tmp_path, "x-note: free")
    said = {name for name, value in found if value is not None}
    assert said == {"name", "source", "restart", "after", "ready", "stop_grace_period", "timeout"}


def test_each_key_of_the_schema_has_a_reader_or_a_remedy() -> None:
    container = {"name", "image", *machine_container.KEYS}
    tables = [
        ("container", _IMAGE, container),
        ("", _TOP, set(machine.KEYS)),
        ("kernel", _KERNEL, set(machine.KERNEL_KEYS)),
        ("files[]", _FILE, set(machine_files.FILE_KEYS)),
        ("volumes[]", _VOLUME, set(machine_files.VOLUME_KEYS)),
    ]
    for parent, keys, honoured in tables:
        for key in keys:
            path = f"{parent}.{key}" if parent else key
            assert (key in honoured) != (path in UNSUPPORTED), path


def refused(path: str) -> bool:
    """By itself, or with all of the table that it is in."""
    return any(path == one or path.startswith(f"{one}.") for one in (key.replace("[]", "") for key in UNSUPPORTED))


def test_each_key_that_is_honoured_is_tested_above() -> None:
    lines = [line for line, _, _ in READ]
    assert [key for key in machine_container.KEYS if not any(line.startswith(f"{key}:") for line in lines)] == []
    for parent, keys in _NESTED.items():
        first, *others = parent.split(".")
        places = [line for line in lines if line.startswith(f"{first}:") and all(f"{one}:" in line for one in others)]
        for key in keys.split():
            assert any(f"{key}:" in line for line in places) or refused(f"container.{parent}.{key}"), (parent, key)


def test_each_key_outside_of_containers_is_tested_below() -> None:
    for parent, keys in {"": _TOP, "kernel.": _KERNEL, "files.": _FILE, "volumes.": _VOLUME}.items():
        assert [key for key in keys if f"{key}:" not in WHOLE and not refused(f"{parent}{key}")] == []


@pytest.mark.parametrize("path", sorted(UNSUPPORTED))
def test_a_key_is_refused_by_name(tmp_path: Path, path: str) -> None:
    words = path.replace("container", "services[]", 1).split(".")
    lines: list[str] = []
    indent = 0
    for word in words:
        lines.append(f"{'  ' * indent}{word.removesuffix('[]')}:")
        indent += 1
        if word.endswith("[]"):
            lines += [f"{'  ' * indent}- name: x", f"{'  ' * indent}  image: x"][: 1 if "weight" in word else 2]
            indent += 1
    file = tmp_path / "machine.yml"
    file.write_text("\n".join(lines) + " 1\n")
    with pytest.raises(InvalidApp) as caught:
        machine.load_machine(file)
    problem = next(one for one in caught.value.problems if "is not honoured" in one.message)
    assert problem.code == "unknown-key"
    assert problem.hint == UNSUPPORTED[path]
    assert problem.place.line == len(lines)
    assert problem.place.key.endswith(words[-1])


WHOLE = """
kernel: {image: kernels/own:6, cmdline: "console=ttyS0 a=b", binary: bzImage, tar: none, ucode: intel.cpio}
init: [base:1]
onboot:
  - {name: dhcpcd, image: dhcpcd, command: [/sbin/dhcpcd, "-1"], timeout: 30s}
onshutdown:
  - {name: bye, image: bye}
services:
  - {name: db, image: db, binds: ["data:/var/lib/db", "conf:/etc/db:ro"], ready: {tcp: 5432, timeout: 5s}}
  - {name: web, build: {parts: [debian:nginx]}, after: [db], stop_grace_period: 1m, uid: db}
files:
  - {path: etc/motd, source: motd, mode: "0644", uid: 5, gid: web}
  - {path: /etc/empty, contents: ""}
  - {path: etc/conf.d, directory: true, mode: "0700"}
  - {path: etc/link, symlink: motd}
  - {path: etc/gone, source: gone, optional: true}
  - {path: etc/machine.yml, metadata: yaml}
volumes:
  - {name: data}
  - {name: conf, image: conf, readonly: true, format: filesystem}
"""


def test_the_rest_of_a_machine(tmp_path: Path) -> None:
    (tmp_path / "motd").write_text("hello\n")
    found = load(tmp_path, WHOLE)
    assert found.kernel is not None
    assert (found.kernel.image, found.kernel.debian) != (None, "")
    assert (found.kernel.cmdline, found.kernel.binary) == ("console=ttyS0 a=b", "bzImage")
    assert (found.kernel.tar, found.kernel.ucode) == ("none", "intel.cpio")
    assert found.init[0].reference == "base:1"
    assert (found.onboot[0].command, found.onboot[0].timeout) == (("/sbin/dhcpcd", "-1"), 30.0)
    assert found.onshutdown[0].name == "bye"
    db, web = found.services
    assert (db.ready.tcp, db.ready.timeout) == (5432, 5.0)
    assert (web.after, web.stop_grace_period, web.uid) == (("db",), 60.0, "db")
    assert web.source.build is not None
    motd, empty, directory, link, gone, metadata = found.files
    assert (motd.path, motd.source, motd.mode, motd.uid, motd.gid) == ("etc/motd", tmp_path / "motd", 0o644, 5, "web")
    assert (empty.path, empty.contents, directory.directory, directory.mode) == ("etc/empty", "", True, 0o700)
    assert (link.symlink, gone.optional, metadata.metadata) == ("motd", True, "yaml")
    assert "metadata: yaml" in found.text
    assert [(one.name, one.readonly) for one in found.volumes] == [("data", False), ("conf", True)]


def test_what_init_does_beside_linuxkits_keys(tmp_path: Path) -> None:
    found = load(tmp_path, "network: dhcp\nrest: 9100\nfirst_boot: nocloud\n")
    assert (found.network, found.rest, found.first_boot) == ("dhcp", 9100, "nocloud")
    assert load(tmp_path, "services: []\n").rest == 0
    for text in ("rest: 0", "rest: 65536", "rest: yes", "first_boot: ec2", "network: static"):
        with pytest.raises(InvalidApp) as caught:
            load(tmp_path, text)
        key = text.partition(":")[0].replace("_", "-")
        assert caught.value.problems[0].code == f"machine-{key}"


def test_linuxkits_own_parts_are_stood_in_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = load(
        tmp_path,
        """
kernel: {image: "linuxkit/kernel:6.6.71", cmdline: "console=tty0 console=ttyS0"}
init: ["linuxkit/init:8eea386739975a43af558eec757a7dcb3a3d2e7b", "r.example:5000/linuxkit/runc:x@sha256:y", my/ca:1]
services: [{name: nginx, image: "nginx:1.19"}]
""",
    )
    assert found.kernel is not None
    assert found.kernel.debian == "backports"
    assert [one.reference for one in found.init] == ["my/ca:1"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert all("is not linked" in text and "machine.yml:" in text for text in told)


def test_what_an_image_says_of_itself() -> None:
    said = machine_container.read_label('{"binds": ["/a:/a"], "capabilities": ["CAP_KILL"], "net": "new"}', "x:1")
    own = ContainerSpec(name="x", source={"reference": "x:1"}, net="host", binds_add=("/b:/b",))  # type: ignore[arg-type]
    found = own.merged(said)
    assert (found.net, found.binds, found.capabilities) == ("host", ("/a:/a", "/b:/b"), ("CAP_KILL",))
    with pytest.raises(InvalidApp, match=r"x:1, label org.mobyproject.config:1:2: bind: is not a known key"):
        machine_container.read_label('{"bind": []}', "x:1")


def test_several_files_are_merged(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yml", tmp_path / "b.yml"
    first.write_text("kernel: {image: debian, cmdline: a}\nservices: [{name: a, image: a}]\n")
    second.write_text("kernel: {cmdline: b}\nservices: [{name: b, image: b}]\nvolumes: [{name: v}]\n")
    found = machine.load_machine(first, second)
    assert found.kernel is not None
    assert (found.kernel.debian, found.kernel.cmdline) == ("stable", "b")
    assert [one.name for one in found.services] == ["a", "b"]
    with pytest.raises(InvalidApp, match="the service a is there twice"):
        machine.load_machine(first, first)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("services: [{name: a, image: a}]", True),
        ("kernel: {image: debian}", True),
        ("services: {web: {image: a}}", False),
        ("[]", False),
        ("{", False),
    ],
)
def test_machine_files_are_told_from_app_files(tmp_path: Path, text: str, is_one: bool) -> None:
    (tmp_path / "x.yml").write_text(text)
    assert machine.is_machine_file(tmp_path / "x.yml") is is_one
    assert not machine.is_machine_file(tmp_path)


@pytest.mark.parametrize("name", ["minimal.yml", "web.yml"])
def test_examples(name: str) -> None:
    found = machine.load_machine(Path(__file__).parents[2] / "examples/machine" / name)
    assert found.kernel is not None
    assert found.services
