"""Machines of the shape of LinuxKit's examples (its directory examples/), with images of our own in place of theirs:
they boot, and each of their services sees what it was promised."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.guests import HAS_QEMU
from support.machines import PATIENCE, booted, busybox_root, linked

pytestmark = [
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.full,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
]

_HEAD = """
kernel:
  image: linuxkit/kernel:6.6.71
  cmdline: "console=tty0 console=ttyS0 quiet panic=-1"
init:
  - linuxkit/init:8eea386739975a43af558eec757a7dcb3a3d2e7b
  - linuxkit/runc:667e7ea2c426a2460ca21e3da065a57dbb3369c9
  - linuxkit/containerd:a988a1a8bcbacc2c0390ca0c08f949e2b4b5915d
  - ./certificates
"""

REDIS = (
    _HEAD
    + """
onboot:
  - name: dhcpcd
    image: linuxkit/dhcpcd:157df9ef45a035f1542ec2270e374f18efef98a5
    command: ["/sbin/dhcpcd", "--nobackground", "-f", "/dhcpcd.conf", "-1"]
onshutdown:
  - {name: shutdown, image: ./box, command: [echo, "so long"]}
services:
  - name: redis
    image: ./box
    capabilities: [CAP_NET_BIND_SERVICE, CAP_CHOWN, CAP_SETUID, CAP_SETGID, CAP_DAC_OVERRIDE]
    binds: ["/etc/resolv.conf:/etc/resolv.conf"]
    net: host
    ready: {tcp: 639}
    command: [sh, -c, "test -e /etc/resolv.conf && echo serves; exec nc -ll -p 639 -e cat"]
  - name: client
    image: ./box
    after: [redis]
    command: [sh, -c, "echo PING | nc 127.0.0.1 639; exec sleep 1000"]
"""
)

SSHD = (
    _HEAD
    + """
onboot:
  - {name: sysctl, image: ./box, binds: ["/etc/sysctl.d:/etc/sysctl.d"], readonly: true, capabilities: [CAP_SYS_ADMIN],
     sysctl: {net.ipv4.ip_forward: 1}, command: [cat, /etc/sysctl.d/01-own.conf]}
  - name: rngd1
    image: ./box
    command: [head, -c, "0", /dev/urandom]
services:
  - name: getty
    image: ./box
    env: [INSECURE=true]
    pid: host
    capabilities: [all]
    binds: ["/etc/resolv.conf:/etc/resolv.conf", "/run:/run", "/tmp:/tmp", "/etc:/hostroot/etc", "/dev:/dev"]
    command: [sh, -c, "echo $INSECURE $(cat /hostroot/etc/os-release); test -c /dev/console && echo console; sleep 99"]
  - name: sshd
    image: ./box
    pid: host
    binds.add: ["/root/.ssh:/root/.ssh"]
    command: [sh, -c, "cd /root/.ssh; stat -c '%a %u' . authorized_keys; cat authorized_keys; sleep 99"]
  - name: exporter
    image: ./box
    pid: host
    net: host
    binds: ["/proc:/host/proc:ro", "/sys:/host/sys:ro", "/:/rootfs:ro"]
    command: [sh, -c, "cat /host/proc/1/comm /host/proc/sys/net/ipv4/ip_forward; ls /rootfs/containers; sleep 99"]
files:
  - {path: root/.ssh/authorized_keys, source: key.pub, mode: "0600", optional: true}
  - {path: etc/os-release, contents: "own"}
  - {path: etc/sysctl.d/01-own.conf, contents: "a setting"}
"""
)

WIREGUARD = (
    _HEAD
    + """
onboot:
  - name: wg
    image: ./box
    net: new
    binds: ["/etc/wireguard:/etc/wireguard"]
    capabilities: [CAP_NET_ADMIN]
    command: [sh, -c, "ip link set wg0 up; ip addr add 192.168.2.1/24 dev wg0; cat /etc/wireguard/wg.conf"]
    runtime:
      interfaces: [{name: wg0, add: dummy, createInRoot: true}]
      bindNS: {net: /run/netns/wg}
services:
  - name: nginx
    image: ./box
    net: /run/netns/wg
    capabilities: [CAP_NET_BIND_SERVICE]
    command: [sh, -c, "echo inside >/x; ls /sys/class/net; httpd -p 80 -h /; wget -qO- 192.168.2.1/x; sleep 99"]
  - name: outside
    image: ./box
    command: [sh, -c, "test -e /sys/class/net/wg0 || echo unseen; sleep 99"]
files:
  - {path: etc/wireguard/wg.conf, contents: "ListenPort = 51820", mode: "0600"}
"""
)

DOCKER = (
    _HEAD
    + """
onboot:
  - name: format
    image: ./box
    capabilities: [all]
    binds: ["/dev:/dev"]
    command: [sh, -c, "mke2fs -q /dev/ram0 2>/dev/null || echo formats"]
  - name: mount
    image: ./box
    capabilities: [all]
    rootfsPropagation: shared
    binds: ["/dev:/dev", "/var:/var:rshared,rbind"]
    runtime: {mkdir: [/var/lib/docker]}
    command: [sh, -c, "mount -t tmpfs none /var/lib/docker && echo mounted"]
services:
  - name: docker
    image: ./box
    capabilities: [all]
    net: host
    mounts:
      - {type: cgroup, options: [rw, nosuid, noexec, nodev, relatime]}
    binds:
      - /etc/resolv.conf:/etc/resolv.conf
      - /var/lib/docker:/var/lib/docker
      - /lib/modules:/lib/modules
      - /etc/docker/daemon.json:/etc/docker/daemon.json
      - images:/images
    rlimits: ["nofile,4096,8192", "memlock,unlimited,unlimited"]
    resources: {memory: {limit: 104857600}, pids: {limit: 500}, devices: [{allow: true, type: a, access: rwm}]}
    oomScoreAdj: -100
    command:
      - sh
      - -c
      - >-
        cat /etc/docker/daemon.json; grep -c /var/lib/docker /proc/mounts; ulimit -n; ls /images; touch /images/more;
        mkdir /sys/fs/cgroup/inner && echo delegates; sleep 1000
volumes:
  - {name: images, image: ./seed}
files:
  - {path: var/lib/docker, directory: true}
  - {path: etc/docker/daemon.json, contents: '{"debug": true}'}
"""
)

LAST = "shutdown"
EXAMPLES = {
    "redis-os": (REDIS, {"redis": ["serves"], "client": ["PING"], LAST: ["so long"]}),
    "sshd": (
        SSHD,
        {
            "sysctl": ["a setting"],
            "getty": ["true own", "console"],
            "sshd": ["700 0", "600 0", "ssh-ed25519 AAAA me"],
            "exporter": ["init", "1", "onboot", "services"],
        },
    ),
    "wireguard": (WIREGUARD, {"wg": ["ListenPort"], "nginx": ["lo", "wg0", "inside"], "outside": ["unseen"]}),
    "docker": (DOCKER, {"mount": ["mounted"], "docker": ['{"debug": true}', "1", "4096", "seed", "delegates"]}),
}


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_boots(name: str, tmp_path: Path) -> None:
    text, expected = EXAMPLES[name]
    busybox_root(tmp_path / "box")
    (tmp_path / "certificates/etc/ssl").mkdir(parents=True)
    (tmp_path / "seed").mkdir()
    (tmp_path / "seed/seed").write_text("seed")
    (tmp_path / "key.pub").write_text("ssh-ed25519 AAAA me\n")
    async with linked(text, tmp_path) as machine, booted(machine, tmp_path) as guest:
        await guest.until(lambda one: one["event"] in ("failed", "up"))
        async with asyncio.timeout(PATIENCE):
            while any(lines[-1] not in printed(guest.console, one) for one, lines in expected.items() if one != LAST):
                await asyncio.sleep(0.2)
        await guest.tell("poweroff")
        await guest.ended()
        console = guest.console
    for service, lines in expected.items():
        at, said = 0, printed(console, service)
        for line in lines:
            at = said.find(line, at)
            assert at >= 0, f"{service} did not print {line!r} in order:\n{console[-4000:]}"


def printed(console: str, name: str) -> str:
    return "\n".join(line for line in console.splitlines() if line.startswith(f"{name}: "))
