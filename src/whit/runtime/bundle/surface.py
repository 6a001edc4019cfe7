"""The surface of a running instance, read from the bundle that it was started from.

Owns what stands between its processes and this machine: kernel, capabilities, system calls, devices, writable places.
Whom it can talk to is the mesh's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whit.base.errors import NotFound
from whit.model.instance import InstanceSpec
from whit.model.service import Isolation
from whit.model.surface import KernelOwner, Surface
from whit.runtime.bundle import oci_config
from whit.runtime.layout import Layout

DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx")
"""runtime-spec 1.0, "Default devices"; behind gVisor and in a guest they are of that kernel."""
KERNELS: Mapping[Isolation, KernelOwner] = {"container": "host", "sandbox": "gVisor", "microvm": "own"}
FILTERS: Mapping[Isolation, str] = {
    "container": "the host's kernel",
    "sandbox": "gVisor's kernel, which has one of its own before the host's",
    "microvm": "the host's kernel, for QEMU and virtiofsd; none inside",
}
GVISOR_DEVICES = ("/dev/fuse", "/dev/net/tun")
_ALLOW = "SCMP_ACT_ALLOW"


def surface_of(spec: InstanceSpec, layout: Layout, runtime: str) -> Surface:
    """Raises NotFound: nothing was started yet."""
    config = _config(layout)
    own = tuple(one["path"] for one in config["linux"].get("devices", ()))
    machine = spec.isolation == "microvm"
    return Surface(
        instance=spec.name,
        isolation=spec.isolation,
        runtime=runtime,
        kernel=KERNELS[spec.isolation],
        kernel_version=_kernel(spec, config, runtime),
        user=_user(spec, layout, config),
        capabilities=tuple(sorted(spec.capabilities)),
        filter=FILTERS[spec.isolation],
        system_calls=allowed_calls(config["linux"].get("seccomp", {})),
        devices=(*DEVICES, *(GVISOR_DEVICES if spec.isolation == "sandbox" else ()), *(() if machine else own)),
        machine_devices=own if machine else (),
        writable=tuple(writable_places(spec, oci_config.mounts(spec, layout))),
    )


def _config(layout: Layout) -> Mapping[str, Any]:
    try:
        document: Mapping[str, Any] = json.loads(layout.config.read_text())
    except FileNotFoundError:
        raise NotFound(f"instance {layout.name} was never started", hint="`whit ps` says how it is") from None
    return document


def allowed_calls(profile: Mapping[str, Any]) -> tuple[str, ...]:
    """Names that an OCI filter lets through, if only under conditions."""
    rules = profile.get("syscalls", ())
    return tuple(sorted({name for rule in rules if rule["action"] == _ALLOW for name in rule["names"]}))


def writable_places(spec: InstanceSpec, mounts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each with what lies behind it, the root first."""
    if not spec.read_only:
        yield "/ (its own layer)"
    for mount in mounts:
        options = mount["options"]
        if "ro" in options or mount["type"] in ("proc", "sysfs", "cgroup", "devpts"):
            continue
        yield f"{mount['destination']} ({'memory' if mount['type'] == 'tmpfs' else mount['source']})"


def _user(spec: InstanceSpec, layout: Layout, config: Mapping[str, Any]) -> str:
    """As it was looked up in the image; a machine's bundle speaks of the machine."""
    if spec.isolation == "microvm":
        return _of_records(layout.bundle / "guest.process")
    user = config["process"]["user"]
    return f"{user['uid']}:{user['gid']}"


def _of_records(path: Path) -> str:
    records = dict(word.partition("=")[::2] for word in path.read_text().split("\0"))
    return f"{records.get('uid', '0')}:{records.get('gid', '0')}"


def _kernel(spec: InstanceSpec, config: Mapping[str, Any], runtime: str) -> str:
    if spec.isolation == "container":
        return os.uname().release
    if spec.isolation == "sandbox":
        return runtime
    images = (Path(one["source"]).name for one in config["mounts"] if one["destination"] == "/guest/kernel")
    return next(images, runtime).removeprefix("vmlinuz-")
