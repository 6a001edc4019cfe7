"""Where the files of one instance are: pure names, but for one that is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from whit.base.settings import Settings
from whit.tools.conmon import Monitored

TWIN = "twin"
"""Stands in `asleep` while a machine begins from the file of another, and does not know yet that it is not that one."""
LOG_FILE_LIMIT = 16 << 20
"""Bytes of one log file."""


@dataclass(frozen=True)
class Layout:
    """The paths and names of the instance called `name`."""

    settings: Settings
    name: str

    @property
    def bundle(self) -> Path:
        """The OCI bundle, and everything that a reboot may take: removed last, it is the proof that there was one."""
        return self.settings.instances_dir / self.name

    @property
    def spec(self) -> Path:
        """The InstanceSpec as JSON, for an agent that comes later."""
        return self.bundle / "instance.json"

    @property
    def start(self) -> Path:
        """How often and with which runtime it was started."""
        return self.bundle / "start.json"

    @property
    def asleep(self) -> Path:
        """There while it has no running process because nobody asks for it."""
        return self.bundle / "asleep"

    def sleeps_as(self) -> str:
        """The level that `asleep` says; empty if it is not there. Reads the disk, unlike all else here."""
        return self.asleep.read_text() if self.asleep.exists() else ""

    @property
    def config(self) -> Path:
        return self.bundle / "config.json"

    @property
    def rootfs(self) -> Path:
        return self.bundle / "rootfs"

    @property
    def hosts(self) -> Path:
        return self.bundle / "hosts"

    @property
    def resolv_conf(self) -> Path:
        return self.bundle / "resolv.conf"

    @property
    def hostname(self) -> Path:
        return self.bundle / "hostname"

    @property
    def exits(self) -> Path:
        return self.bundle / "exits"

    @property
    def execs(self) -> Path:
        """Descriptions and pid files of processes that were added later."""
        return self.bundle / "exec"

    @property
    def gate(self) -> Path:
        """Of a sandbox whose program waits: see sleeping/gate.py."""
        return self.bundle / "gate"

    @property
    def guest_memory(self) -> Path:
        """Of a microVM: not empty once the guest's kernel has killed for memory."""
        return self.bundle / "guest.memory"

    @property
    def disk(self) -> Path:
        """The writable layer's place."""
        return self.settings.state_dir / "instances" / self.name

    @property
    def upper(self) -> Path:
        return self.disk / "upper"

    @property
    def work(self) -> Path:
        return self.disk / "work"

    @property
    def root_disk(self) -> Path:
        """Of a microVM whose root is its own: an ext4."""
        return self.disk / "root"

    @property
    def snapshot(self) -> Path:
        """A microVM that sleeps in a file. It holds all that is in its memory."""
        return self.disk / "snapshot"

    @property
    def snapshot_facts(self) -> Path:
        """How long the file is, of which machine, and a checksum."""
        return self.disk / "snapshot.json"

    @property
    def logs(self) -> Path:
        return self.settings.logs_dir / self.name

    @property
    def netns(self) -> Path:
        return self.settings.netns_dir / self.name

    @property
    def cgroup(self) -> str:
        """Relative to the root of every hierarchy."""
        return f"{self.settings.cgroup}/{self.name}"

    @property
    def monitored(self) -> Monitored:
        return Monitored(self.name, self.bundle, self.exits, self.bundle, self.logs / "log", LOG_FILE_LIMIT)
