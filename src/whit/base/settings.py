"""Where one agent keeps its things. Every name that Whit leaves on a machine carries the agent's id."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import InputError

DEFAULT_ID = "whit"
TRUST = Path("/etc/whit/trust.yaml")
_ID = re.compile(r"[a-z][a-z0-9]{0,6}")


@dataclass(frozen=True)
class Settings:
    """The agent's id and the paths and names that follow from it.

    An id has at most 7 characters, so that a link's name `w-<id>-<number>` stays within the kernel's 15.
    """

    id: str = DEFAULT_ID
    run_root: Path = Path("/run/whit")
    state_root: Path = Path("/var/lib/whit")
    flows_mib: int = 64
    """How much disk the record of flows may take; 0 keeps none."""
    warm_mib: int = 0
    """MiB that frozen instances may hold together; 0 is no limit."""
    metrics_listen: str = ""
    """A loopback address and port on which /metrics is served besides; empty is none."""
    otlp_endpoint: str = ""
    """The base address of an OTLP collector, as http://127.0.0.1:4318; empty is none."""

    trust: Path | None = None
    """The file that says which images have to be signed, by whom; None: no image."""
    runsc: Path | None = None
    """The gVisor program to use; None: whatever works, fetched if there is none."""

    def __post_init__(self) -> None:
        if not _ID.fullmatch(self.id):
            raise InputError(
                f"agent id {self.id!r} is not a letter followed by at most six letters or digits (lower case)",
                hint="choose another with --id or WHIT_ID",
            )

    @classmethod
    def from_environment(cls) -> Settings:
        return cls(
            id=os.environ.get("WHIT_ID", DEFAULT_ID),
            run_root=Path(os.environ.get("WHIT_RUN_ROOT", "/run/whit")),
            state_root=Path(os.environ.get("WHIT_STATE_ROOT", "/var/lib/whit")),
            trust=_trust(os.environ.get("WHIT_TRUST")),
            runsc=Path(path) if (path := os.environ.get("WHIT_RUNSC")) else None,
            flows_mib=_number("WHIT_FLOWS_MIB", 64),
            warm_mib=_number("WHIT_WARM_MIB", 0),
            otlp_endpoint=os.environ.get("WHIT_OTLP_ENDPOINT", ""),
            metrics_listen=os.environ.get("WHIT_METRICS_LISTEN", ""),
        )

    @property
    def run_dir(self) -> Path:
        """Gone after a reboot: sockets, pid files, network namespaces, bundles."""
        return self.run_root / self.id

    @property
    def state_dir(self) -> Path:
        """Kept: the database, images, layers, volumes, logs."""
        return self.state_root / self.id

    @property
    def socket(self) -> Path:
        return self.run_dir / "api.sock"

    @property
    def database(self) -> Path:
        return self.state_dir / "state.db"

    @property
    def netns_dir(self) -> Path:
        return self.run_dir / "netns"

    @property
    def instances_dir(self) -> Path:
        return self.run_dir / "instances"

    @property
    def images_dir(self) -> Path:
        return self.state_dir / "images"

    @property
    def volumes_dir(self) -> Path:
        return self.state_dir / "volumes"

    @property
    def logs_dir(self) -> Path:
        return self.state_dir / "logs"

    @property
    def flows_dir(self) -> Path:
        return self.state_dir / "flows"

    @property
    def programs_dir(self) -> Path:
        """Programs that the agent fetched for itself."""
        return self.state_dir / "programs"

    @property
    def resolver_dir(self) -> Path:
        return self.run_dir / "resolver"

    @property
    def bpf_dir(self) -> Path:
        return Path("/sys/fs/bpf/whit") / self.id

    @property
    def cgroup(self) -> str:
        """Relative to the root of every hierarchy."""
        return f"/whit/{self.id}"

    @property
    def nft_table(self) -> str:
        return f"whit_{self.id}"

    @property
    def host_link(self) -> str:
        """The dummy link that holds the node's own mesh addresses."""
        return f"w-{self.id}-host"

    def link(self, number: int) -> str:
        """The host side of the link of the instance with this endpoint number."""
        return f"w-{self.id}-{number}"

    @property
    def link_prefix(self) -> str:
        return f"w-{self.id}-"


def _trust(named: str | None) -> Path | None:
    """The file of this name, which has to be there then, or the machine's own, if there is one."""
    if named is not None:
        return Path(named) if named else None
    return TRUST if TRUST.exists() else None


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise InputError(f"{variable} is {text!r}, which is no number", hint=f"the default is {default}")
    return int(text)
