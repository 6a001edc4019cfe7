"""What this machine's kernel can do, found by trying it, in threads and namespaces that end with the trial.

Programs (the OCI runtime, nft) and BPF are probed where they are used.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import IPv4Interface
from pathlib import Path

from whit.base.errors import SystemCallError, WhitError
from whit.base.settings import Settings
from whit.kernel import cgroup, freezer, libc, mount, sysctl
from whit.kernel.cgroup import Hierarchies
from whit.kernel.network import links, netns
from whit.kernel.network.links import CreateHostLink, End
from whit.kernel.network.listeners import Listeners
from whit.kernel.network.netlink import NetlinkSocket
from whit.kernel.thread import in_fresh_thread
from whit.model.feature import Feature

_NAMESPACES = {
    "cgroup": libc.CLONE_NEWCGROUP,
    "ipc": libc.CLONE_NEWIPC,
    "mount": libc.CLONE_NEWNS,
    "network": libc.CLONE_NEWNET,
    "pid": libc.CLONE_NEWPID,
    "uts": libc.CLONE_NEWUTS,
}
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_LANDLOCK_CREATE_RULESET_VERSION = 1
_PURE = "boot with systemd.unified_cgroup_hierarchy=1"
_AS_ROOT = "run it as root, on a machine or in a virtual machine, not inside a container"


def features(settings: Settings) -> list[Feature]:
    """All of them, in the order in which a person wants to read them. Takes some 50 ms."""
    hierarchies = cgroup.find()
    return [
        namespaces(),
        user_namespaces(),
        overlay(settings.state_dir),
        cgroups(hierarchies),
        *(limits(hierarchies, controller, settings) for controller in ("memory", "cpu", "pids")),
        cgroup_kill(hierarchies, settings),
        freezing(hierarchies, settings),
        network_namespaces(settings),
        network_links(),
        listening(),
        forwarding(),
        ipv6(),
        seccomp(),
        landlock(),
        pidfds(),
    ]


def namespaces() -> Feature:
    missing = [name for name, flag in _NAMESPACES.items() if _refusal(partial(libc.clone_and_exit, flag))]
    if missing:
        detail = f"refused: {', '.join(missing)}"
        return Feature(name="namespaces", state="missing", detail=detail, hint=_AS_ROOT, required=True)
    return Feature(name="namespaces", state="works", detail=", ".join(_NAMESPACES), required=True)


def user_namespaces() -> Feature:
    refusal = _refusal(partial(libc.clone_and_exit, libc.CLONE_NEWUSER))
    hint = "sysctl user.max_user_namespaces, and kernel.unprivileged_userns_clone on Debian"
    return _feature("user namespaces", refusal, hint=hint)


def overlay(directory: Path) -> Feature:
    """Tried on the file system that will hold the layers: not every one can."""
    refusal = _refusal(lambda: in_fresh_thread(lambda: _try_overlay(directory)))
    hint = f"keep {directory} on ext4, xfs or btrfs; the kernel needs CONFIG_OVERLAY_FS"
    return _feature("overlayfs", refusal, detail=f"on {directory}", hint=hint, required=True)


def _try_overlay(directory: Path) -> None:
    """In a mount namespace of this thread alone."""
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE, "")
    existing = next(parent for parent in [directory, *directory.parents] if parent.is_dir())
    with tempfile.TemporaryDirectory(prefix=".whit-probe-", dir=existing) as name:
        low, high, upper, work, target = (Path(name) / part for part in ("low", "high", "upper", "work", "target"))
        for path in (low, high, upper, work, target):
            path.mkdir()
        (low / "file").write_text("low")
        mount.overlay(target, [low, high], upper=upper, work=work)
        try:
            with libc.named("write", target / "file"):
                (target / "file").write_text("changed")
        finally:
            mount.unmount(target)


def cgroups(hierarchies: Hierarchies) -> Feature:
    name = "cgroups"
    if hierarchies.mode == "v2":
        return Feature(name=name, state="works", detail="v2", required=True)
    if hierarchies.mode == "hybrid":
        detail = "hybrid: limits by v1, BPF by v2; runc works, crun only if no controller is left on v2"
        return Feature(name=name, state="degraded", detail=detail, hint=_PURE, required=True)
    detail = "v1 only" if hierarchies.controllers else "none is mounted"
    return Feature(name=name, state="missing", detail=f"{detail}: BPF needs v2", hint=_PURE, required=True)


def limits(hierarchies: Hierarchies, controller: str, settings: Settings) -> Feature:
    """On v2, the groups above must hand a controller down: one is made to see."""
    name = f"{controller} limits"
    if controller in hierarchies.controllers:
        return Feature(name=name, state="works", detail="v1")
    if controller in hierarchies.left_on_v2:
        detail = "on v2, but with hybrid cgroups runtimes set limits by v1"
        return Feature(name=name, state="missing", detail=detail, hint=_PURE)

    def attempt() -> None:
        with _trial_group(hierarchies, settings) as group:
            if controller not in (group / "cgroup.controllers").read_text().split():
                raise SystemCallError("use", errno.ENOENT, f"controller {controller} in {group}")

    hint = "boot with cgroup_enable=memory" if controller == "memory" else "the kernel or a cgroup above withholds it"
    return _feature(name, _refusal(attempt), detail="v2", hint=hint)


def cgroup_kill(hierarchies: Hierarchies, settings: Settings) -> Feature:
    """Linux 5.14. The root has none, so a group is made to see."""

    def attempt() -> None:
        with _trial_group(hierarchies, settings) as group, libc.named("open", group / "cgroup.kill"):
            (group / "cgroup.kill").write_text("1")

    return _feature("cgroup.kill", _refusal(attempt), hint="Linux 5.14 and later have it; processes are frozen instead")


def freezing(hierarchies: Hierarchies, settings: Settings) -> Feature:
    """Whether processes can be made to stand still: a group with nobody in it stands still at once."""

    def attempt() -> None:
        with cgroup.lent(hierarchies, f"{settings.cgroup}-freeze-{os.getpid()}") as name:
            freezer.freeze(hierarchies, name, patience=1.0)
            freezer.thaw(hierarchies, name)

    kind = "v1 freezer" if "freezer" in hierarchies.controllers else "cgroup.freeze"
    hint = "mount the v1 freezer, or cgroup v2 (Linux 5.2); until then instances with `scale` stay awake"
    return _feature("freezing", _refusal(attempt), detail=kind, hint=hint)


@contextmanager
def _trial_group(hierarchies: Hierarchies, settings: Settings) -> Iterator[Path]:
    """An empty group of v2, beside the agent's."""
    root = hierarchies.bpf_root()
    with cgroup.lent(hierarchies, f"{settings.cgroup}-probe-{os.getpid()}") as name:
        yield root / name.lstrip("/")


def network_namespaces(settings: Settings) -> Feature:
    """Kept at a path, and with the cookie by which BPF programs know the host's own."""
    path = settings.netns_dir / f"probe-{os.getpid()}"

    def attempt() -> None:
        try:
            netns.create(path)
            netns.call_in(path, netns.cookie)
        finally:
            netns.remove(path)
            for directory in (settings.netns_dir, settings.run_dir, settings.run_root):
                with suppress(OSError):  # in use
                    directory.rmdir()

    return _feature("network namespaces", _refusal(attempt), hint=_AS_ROOT, required=True)


def network_links() -> Feature:
    kinds: list[str] = []

    def attempt() -> None:
        """In a network namespace of this thread alone."""
        libc.unshare(libc.CLONE_NEWNET)
        with NetlinkSocket() as netlink, netns.opened(Path("/proc/thread-self/ns/net")) as own:
            ends = End("a", "0a:58:00:00:00:01"), End("b", "0a:58:00:00:00:02")
            netlink.execute([links.create_veth(*ends, mtu=1500, netns=own)])
            links.create_host_link(CreateHostLink("c", "0a:58:00:00:00:03", (IPv4Interface("192.0.2.1/32"),)))
            kinds.extend(sorted({link.kind for link in links.all_links(netlink) if link.name in "abc"}))

    refusal = _refusal(lambda: in_fresh_thread(attempt))
    hint = "modprobe veth; the kernel needs CONFIG_VETH, and CONFIG_DUMMY or CONFIG_BRIDGE"
    return _feature("network links", refusal, detail=", ".join(kinds), hint=hint, required=True)


def listening() -> Feature:
    """By which an instance leaves its service when its server stops to listen."""

    def attempt() -> None:
        with Listeners() as own:
            own.ports()

    hint = "modprobe tcp_diag; else give servers that may stop to listen a health check"
    return _feature("inet_diag", _refusal(attempt), detail="who listens on which port is known", hint=hint)


def forwarding() -> Feature:
    """Whit turns it on for the links of instances; for what it means for others, the person decides."""
    refusal = _refusal(lambda: sysctl.read("net/ipv4/ip_forward"))
    if refusal:
        return _feature("IPv4 forwarding", refusal, hint="the kernel needs CONFIG_INET", required=True)
    on = sysctl.read("net/ipv4/ip_forward") == "1"
    return Feature(name="IPv4 forwarding", state="works", detail="on" if on else "off until an app is up")


def has_ipv6() -> bool:
    """Not where it was switched off, by the kernel's command line or for all links of the namespace."""
    settings = [f"net/ipv6/conf/{name}/disable_ipv6" for name in ("all", "default")]
    return all(sysctl.exists(name) and sysctl.read(name) == "0" for name in settings)


def ipv6() -> Feature:
    if has_ipv6():
        return Feature(name="IPv6", state="works", detail="instances have addresses of both families")
    hint = "sysctl net.ipv6.conf.all.disable_ipv6=0, then start the agent again"
    return Feature(name="IPv6", state="degraded", detail="switched off: instances have IPv4 addresses alone", hint=hint)


def seccomp() -> Feature:
    """A filter at address 0: EFAULT comes only from a kernel that would have read it."""
    try:
        libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, 0)
    except SystemCallError as error:
        refusal = "" if error.errno == errno.EFAULT else error.message
    return _feature("seccomp", refusal, detail="filters", hint="the kernel needs CONFIG_SECCOMP_FILTER")


def landlock() -> Feature:
    version, refusal = 0, ""
    number, flags = libc.SYS_LANDLOCK_CREATE_RULESET, _LANDLOCK_CREATE_RULESET_VERSION
    try:
        version = libc.system_call("landlock_create_ruleset", number, None, 0, flags)
    except SystemCallError as error:
        refusal = error.message
    return _feature("landlock", refusal, detail=f"ABI {version}", hint="boot with landlock in lsm=")


def pidfds() -> Feature:
    def attempt() -> None:
        with libc.named("pidfd_open"):
            os.close(os.pidfd_open(os.getpid()))

    return _feature("pidfd", _refusal(attempt), hint="needs Linux 5.3", required=True)


def _refusal(attempt: Callable[[], object]) -> str:
    """Why it failed; empty if it did not."""
    try:
        attempt()
    except WhitError as error:
        return error.message
    except OSError as error:
        return str(error)
    return ""


def _feature(name: str, refusal: str, *, detail: str = "", hint: str = "", required: bool = False) -> Feature:
    if refusal:
        return Feature(name=name, state="missing", detail=refusal, hint=hint, required=required)
    return Feature(name=name, state="works", detail=detail, required=required)
