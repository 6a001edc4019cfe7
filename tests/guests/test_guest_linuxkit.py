"""A machine of the shape of LinuxKit's examples, from local parts: every key that a container may have does its work in
a guest, and so do files and volumes. One boot shows all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.guests import HAS_QEMU
from support.images import image_layout
from support.machines import booted, busybox_root, linked

from whit.tools import qemu

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
]

MACHINE = """
kernel: {image: debian, cmdline: "console=ttyS0 quiet panic=-1", modules: [dummy]}
init:
  - linuxkit/init:v1.0
  - ./extra
onboot:
  - name: caps
    image: ./box
    capabilities: [CAP_NET_ADMIN, CAP_KILL]
    ambient: [CAP_KILL]
    noNewPrivileges: true
    command: [grep, -E, "Cap(Prm|Bnd|Amb)|NoNewPrivs", /proc/self/status]
  - name: all
    image: ./box
    capabilities: [all]
    command: [grep, CapEff, /proc/self/status]
  - name: user
    image: ./box
    uid: 1000
    gid: worker
    additionalGids: [7]
    cwd: /etc
    env: ["COLOR=blue", "PATH=/bin"]
    command: [sh, -c, 'echo "$(id -u):$(id -g):$(id -G) $PWD $COLOR"']
  - name: limits
    image: ./box
    rlimits: ["nofile,100,200", "core,0,unlimited"]
    oomScoreAdj: -500
    resources: {memory: {limit: 33554432}, pids: {limit: 64}, cpu: {shares: 512}}
    cgroupsPath: /own/limits
    command:
      - sh
      - -c
      - >-
        ulimit -n; ulimit -H -n; ulimit -c; cat /proc/self/oom_score_adj;
        cat /sys/fs/cgroup/memory.max /cg/own/limits/pids.max
    binds: ["/sys/fs/cgroup:/cg:ro"]
  - name: resources
    image: ./box
    resources:
      memory: {limit: 33554432, reservation: 16777216, swap: 67108864}
      cpu: {shares: 512, quota: 50000, period: 200000, cpus: "0", mems: "0"}
      pids: {limit: 50}
      hugepageLimits: [{pageSize: 2097152, limit: 4194304}]
      blockio: {weight: 200, throttleReadBpsDevice: [{major: 254, minor: 0, rate: 1000000}]}
      devices: [{allow: false, access: rwm}, {allow: true, type: c, major: 1, minor: 3, access: rwm}]
    devices: [{path: /dev/kept, type: c, major: 1, minor: 11, mode: "0600"}]
    command:
      - sh
      - -c
      - >-
        cd /sys/fs/cgroup; cat memory.max memory.low memory.swap.max cpu.weight cpu.max cpuset.cpus cpuset.mems
        pids.max hugetlb.2MB.max io.weight io.max; echo x >/dev/null && echo written; echo x >/dev/kept; true
  - name: readonly
    image: ./box
    readonly: true
    tmpfs: ["/scratch:size=64k,mode=700"]
    maskedPaths: [/proc/version]
    readonlyPaths: [/proc/sys]
    command:
      - sh
      - -c
      - >-
        touch /x; touch /scratch/y && ls /scratch; wc -c </proc/version;
        grep " /proc/sys " /proc/mounts | cut -d" " -f4; df -k /scratch | tail -n1
  - name: binds
    image: ./box
    binds: ["/etc/own:/host:ro", "/var/shared:/shared"]
    mounts: [{type: tmpfs, source: tmpfs, destination: /mnt, options: [rw, size=128k]}]
    runtime:
      mkdir: [/var/shared, /var/memory/made]
      cgroups: [kubepods/x]
      mounts:
        - {type: tmpfs, source: tmpfs, destination: /var/memory, options: [size=64k, nosuid, mode=711]}
        - {type: overlay, destination: own-etc, options: [lowerdir=/etc, upperdir=/run/own/up, workdir=/run/own/work]}
    command: [sh, -c, "cat /host/note; touch /host/x; echo shared >/shared/f; df -k /mnt | tail -n1"]
  - name: after-binds
    image: ./box
    binds: ["/var:/var", "/sys/fs/cgroup:/cg", "/containers/onboot:/onboot", "/run/own:/own"]
    command:
      - sh
      - -c
      - >-
        ls -d /var/memory/made; echo x >$(echo /onboot/*-binds/own-etc)/x; ls /own/up;
        cat /var/shared/f; ls -ld /var/memory | cut -c1-10; test -d /cg/kubepods/x && echo made
  - name: sysctl
    image: ./box
    sysctl: {net.ipv4.ip_forward: "1", kernel.panic: "7"}
    command: [cat, /proc/sys/net/ipv4/ip_forward, /proc/sys/kernel/panic]
  - name: own-net
    image: ./box
    net: new
    ipc: new
    uts: new
    hostname: inner
    sysctl: {net.ipv4.ip_forward: "0"}
    command: [sh, -c, "hostname; ls /sys/class/net; cat /proc/sys/net/ipv4/ip_forward"]
  - name: devices
    image: ./box
    devices: [{path: /dev/own, type: c, major: 1, minor: 5, mode: "0640"}, {path: all, type: b}]
    command: [sh, -c, "ls -l /dev/own | cut -c1-10; head -c 4 /dev/own | wc -c; test -e /dev/kmsg || echo no kmsg"]
  - name: keeper
    image: ./box
    net: new
    capabilities: [CAP_NET_ADMIN]
    runtime:
      bindNS: {net: /run/netns/kept}
      interfaces: [{name: inside, add: veth, peer: outside}, {name: spare, add: dummy}]
    command: [sh, -c, "ip link set inside up; ip addr add 10.9.0.2/24 dev inside; ls /sys/class/net"]
  - name: joiner
    image: ./box
    net: /run/netns/kept
    command: [sh, -c, "ip -4 addr show dev inside | grep -o 10.9.0.2/24"]
  - name: peer
    image: ./box
    command: [ls, /sys/class/net]
  - name: holder
    image: ./box
    ipc: new
    uts: new
    hostname: held
    net: none
    annotations: {org.example: said}
    runtime:
      bindNS: {ipc: /run/ns/ipc, uts: /run/ns/uts, mnt: /run/ns/mnt, cgroup: /run/ns/cgroup, pid: /run/ns/pid}
      interfaces: [{name: rooted, add: dummy, createInRoot: true}]
    command: [sh, -c, "ls /sys/class/net; readlink /proc/self/ns/ipc"]
  - name: shares
    image: ./box
    ipc: /run/ns/ipc
    uts: /run/ns/uts
    binds: ["/run/ns:/ns"]
    command: [sh, -c, "hostname; readlink /proc/self/ns/ipc; echo $(ls /ns)"]
  - name: host-pid
    image: ./box
    pid: host
    command: [sh, -c, "tr '\\\\0' ' ' </proc/1/cmdline"]
  - name: mapped
    image: ./box
    userns: new
    readonly: true
    uidMappings: [{containerID: 0, hostID: 5000, size: 100}]
    gidMappings: [{containerID: 0, hostID: 5000, size: 100}]
    command: [sh, -c, "id -u; cat /proc/self/uid_map"]
  - name: mounter
    image: ./box
    capabilities: [all]
    rootfsPropagation: shared
    binds: ["/var:/var:rshared"]
    command: [sh, -c, "mkdir /var/disk; mount -t tmpfs none /var/disk; echo on-disk >/var/disk/f"]
  - name: sees-disk
    image: ./box
    binds: ["/var:/var"]
    command: [cat, /var/disk/f]
  - name: volume-rw
    image: ./box
    binds: ["data:/data", "blank:/blank", "conf:/conf:ro"]
    command:
      - sh
      - -c
      - "cat /data/seed; echo more >/data/more; echo b >/blank/b; cat /conf/setting; touch /conf/x || true"
  - name: volume-again
    image: ./box
    binds: ["data:/data", "blank:/blank:ro", "packed:/packed"]
    command: [sh, -c, "cat /data/more /blank/b; cat /packed/oci-layout; ls /packed/blobs/sha256 | wc -l"]
  - name: labelled
    image: oci:layout:labelled
    binds.add: ["/etc/own:/own"]
    command: [sh, -c, "cat /own/note; cat /from-label/note; echo $SAID"]
  - name: files
    image: ./box
    binds: ["/etc:/machine", "/opt:/opt"]
    command:
      - sh
      - -c
      - >-
        cd /machine; stat -c '%a %u:%g %n' own own/note plain dir owned tool; readlink link; cat tool;
        grep -c metadata machine.yml; ls tree; cat /machine/from-init; ls -d gone || true
services:
  - name: worker
    image: ./box
    command: [sh, -c, "echo working; sleep 100"]
    ready: {path: /etc/own/note}
    stop_grace_period: 0s
files:
  - {path: etc/own/note, contents: "a note\\n", mode: "0640"}
  - {path: etc/plain, contents: "", optional: false}
  - {path: etc/dir, directory: true, mode: "0711"}
  - {path: /etc/owned, contents: x, uid: worker, gid: 44, mode: "0604"}
  - {path: etc/tool, source: tool.sh, mode: "0755"}
  - {path: etc/tree, source: tree}
  - {path: etc/link, symlink: own/note}
  - {path: etc/gone, source: nowhere, optional: true}
  - {path: etc/machine.yml, metadata: yaml}
  - {path: opt/x, contents: x}
volumes:
  - {name: data, image: ./seed}
  - {name: blank}
  - {name: packed, image: oci:layout:labelled, format: oci}
  - {name: conf, image: ./conf, readonly: true}
"""

EXPECTED = {
    "caps": ["CapPrm:\t0000000000001020", "CapBnd:\t0000000000001020", "CapAmb:\t0000000000000020", "NoNewPrivs:\t1"],
    "all": ["CapEff:\t000001ffffffffff"],
    "user": ["1000:WORKER:WORKER 7 /etc blue"],
    "limits": ["100", "200", "0", "-500", "33554432", "64"],
    "resources": [
        *("33554432", "16777216", "33554432"),
        *("20", "50000 200000", "0", "0", "50"),
        *("4194304", "default 1920", "rbps=1000000"),
        *("written", "/dev/kept: Operation not permitted"),
    ],
    "readonly": ["touch: /x: Read-only file system", "y", "0", "ro,", "tmpfs", "64"],
    "binds": ["a note", "touch: /host/x: Read-only file system", "128"],
    "after-binds": ["/var/memory/made", "x", "shared", "drwx--x--x", "made"],
    "sysctl": ["1", "7"],
    "own-net": ["inner", "lo", "0"],
    "devices": ["crw-r-----", "4", "no kmsg"],
    "keeper": ["inside", "lo", "spare"],
    "joiner": ["10.9.0.2/24"],
    "peer": ["lo", "outside"],
    "holder": ["lo", "rooted", "ipc:["],
    "shares": ["held", "ipc:[", "cgroup ipc mnt pid uts"],
    "host-pid": ["/init"],
    "mapped": ["0", "5000"],
    "sees-disk": ["on-disk"],
    "volume-rw": ["seed", "a setting", "touch: /conf/x: Read-only file system"],
    "volume-again": ["more", "b", "imageLayoutVersion", "3"],
    "labelled": ["a note", "a note", "by-the-label"],
    "files": [
        "750 0:0 own",
        "640 0:0 own/note",
        "600 0:0 plain",
        "711 0:0 dir",
        "604 WORKER:44 owned",
        "755 0:0 tool",
        "own/note",
        "#!/bin/tool",
        "2",
        "leaf",
        "from the init image",
        "ls: gone: No such file or directory",
    ],
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    busybox_root(tmp_path / "box")
    for name, content in {
        "extra/etc/from-init": "from the init image\n",
        "seed/seed": "seed\n",
        "conf/setting": "a setting\n",
        "tool.sh": "#!/bin/tool\n",
        "tree/leaf": "x",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    label = {"binds": ["/etc/own:/from-label"], "env": ["SAID=by-the-label"]}
    image_layout(tmp_path / "layout", "labelled", tmp_path / "box", {"org.mobyproject.config": json.dumps(label)})
    return tmp_path


async def test_every_key_does_its_work(place: Path) -> None:
    (place / "disk").write_bytes(bytes(1 << 20))
    disk = qemu.Disk(place / "disk", "limited")
    async with linked(MACHINE, place) as machine, booted(machine, place, others=[disk]) as guest:
        last = await guest.until(lambda one: one["event"] in ("failed", "ready"))
        await guest.tell("poweroff")
        await guest.ended()
        console = guest.console
    assert last["name"] == "worker", console
    worker = str(100 + MACHINE[: MACHINE.index("services:")].count("\n  - name:"))
    for name, lines in EXPECTED.items():
        printed = "\n".join(line for line in console.splitlines() if line.startswith(f"{name}: "))
        at = 0
        for line in lines:
            at = printed.find(line.replace("WORKER", worker), at)
            assert at >= 0, f"{name} did not print {line!r} in order:\n{printed}"
