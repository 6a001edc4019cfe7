"""A machine that has nothing: a minimal Debian 12 root in mount, pid and network namespaces of its own.

Its network is a veth pair; the host masquerades it, so that it reaches the package mirrors and nothing reaches it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from support.whit import ROOT

# What makes the mirrors reachable at all differs from place to place and is handed on as it is.
HANDED_ON = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf")
# Installing ca-certificates makes that file anew, from the distribution's certificates and those in here.
OWN_CERTIFICATES = "usr/local/share/ca-certificates/host.crt"

# A root of its own, not a chroot: container runtimes change the propagation of `/`, which must be a mount for that.
INIT = """
mount --bind {root} {root}
mount -t proc proc {root}/proc
mount -t sysfs sysfs {root}/sys
mount --rbind /sys/fs/cgroup {root}/sys/fs/cgroup
mount --make-rslave {root}/sys/fs/cgroup
mount -t bpf bpf {root}/sys/fs/bpf
mount --rbind /dev {root}/dev
mount --make-rslave {root}/dev
mount -t tmpfs -o mode=755 tmpfs {root}/run
mount -t tmpfs tmpfs {root}/tmp
ip link set lo up
cd {root}
mkdir -p old
pivot_root . old
umount --lazy old
exec chroot . /bin/sh -c 'trap : CHLD; echo ready; while :; do sleep 1; done'
"""


def sh(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True)


class BareMachine:
    """Made by `with`; everything of it is gone afterwards."""

    def __init__(self, directory: Path, tag: str) -> None:
        self.root = directory / "root"
        self.name = f"bare-{tag}"
        self.host_link, self.guest_link = f"b{tag}h", f"b{tag}g"
        self.init: subprocess.Popen[str] | None = None
        self.pid = 0

    def __enter__(self) -> BareMachine:
        try:
            self._install()
            self._connect()
            self._boot()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.init is not None:
            self.init.kill()
            self.init.communicate()
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self.host_link], capture_output=True, check=False)
        subprocess.run(["nft", "delete", "table", "ip", f"test_{self.host_link}"], capture_output=True, check=False)
        shutil.rmtree(self.root, ignore_errors=True)

    def run(self, command: str, *, timeout: float = 900, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command of the machine's shell, in the checkout."""
        argv = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--pid", "--root", "--wd"]
        kept = {name: value for name, value in os.environ.items() if "CERT" in name or "CA_BUNDLE" in name}
        environment = {**kept, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        done = subprocess.run(
            [*argv, "/bin/sh", "-c", f"cd /checkout && {command}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, (
            f"{command}: {done.returncode}\n{done.stdout[-6000:]}{done.stderr[-6000:]}"
        )
        return done

    def _install(self) -> None:
        sources = Path("/etc/apt/sources.list.d/debian.sources")
        mirror = [str(sources)] if sources.exists() else []
        sh("mmdebstrap", "--quiet", "--variant=minbase", "bookworm", str(self.root), *mirror)
        for name in HANDED_ON:
            if Path(name).exists():
                (self.root / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(name, self.root / name.lstrip("/"))
        (self.root / OWN_CERTIFICATES).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/etc/ssl/certs/ca-certificates.crt", self.root / OWN_CERTIFICATES)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).exists():
                (self.root / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / "checkout" / name)

    def _connect(self) -> None:
        sh("ip", "netns", "add", self.name)
        sh("ip", "link", "add", self.host_link, "type", "veth", "peer", self.guest_link, "netns", self.name)
        sh("ip", "address", "add", "198.18.77.1/30", "dev", self.host_link)
        sh("ip", "link", "set", self.host_link, "up")
        sh("ip", "-n", self.name, "address", "add", "198.18.77.2/30", "dev", self.guest_link)
        sh("ip", "-n", self.name, "link", "set", self.guest_link, "up")
        sh("ip", "-n", self.name, "route", "add", "default", "via", "198.18.77.1")
        outside = subprocess.run(["ip", "-o", "route", "get", "1.1.1.1"], check=True, capture_output=True, text=True)
        for link in (self.host_link, outside.stdout.split(" dev ")[1].split()[0]):
            Path(f"/proc/sys/net/ipv4/conf/{link}/forwarding").write_text("1")
        table = f"test_{self.host_link}"
        sh("nft", "add", "table", "ip", table)
        sh("nft", "add", "chain", "ip", table, "nat", "{ type nat hook postrouting priority 100 ; }")
        sh("nft", "add", "rule", "ip", table, "nat", "ip", "saddr", "198.18.77.2", "masquerade")

    def _boot(self) -> None:
        script = INIT.format(root=self.root)
        argv = ["nsenter", f"--net=/run/netns/{self.name}", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
        self.init = subprocess.Popen([*argv, "sh", "-ec", script], stdout=subprocess.PIPE, text=True)
        assert self.init.stdout is not None
        assert self.init.stdout.readline().strip() == "ready"
        children = Path(f"/proc/{self.init.pid}/task/{self.init.pid}/children").read_text().split()
        self.pid = int(children[0])
