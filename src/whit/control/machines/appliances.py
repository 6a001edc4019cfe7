"""Makes of a service and its image a machine that boots by itself: what an instance would be told, its init is told.

Linking is image/'s, records are the driver's: here the one is handed to the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from whit.base.errors import CommandError, Conflict, DiskFull, InputError, Place, system_failure
from whit.control.machines.guests import KERNELS
from whit.image.forms import disk, iso, microvm
from whit.image.forms.bootable import Bootable, file
from whit.image.oci import manifest
from whit.image.provenance.bill import Bill, BilledFile, BilledPackage, BilledPart, Package
from whit.image.rootfs.tree import Entry
from whit.image.sources import boot_loader, kernel, plain_kernel, specialised
from whit.image.sources.calls import Seen
from whit.image.sources.kernel import Kernel
from whit.image.store.export import Exported
from whit.image.store.images import ImageStore
from whit.model.image import Image
from whit.model.service import ServiceSpec
from whit.runtime import programs
from whit.runtime.bundle import oci_config, users
from whit.runtime.bundle.capabilities import effective_set
from whit.runtime.microvm import records
from whit.tools import qemu_img

APPEND = "console={} quiet loglevel=3 panic=-1 random.trust_cpu=on no_timer_check"
FAST_BOOT = (
    "initcall_blacklist=load_system_certificate_list,bpf_dummy_struct_ops_init,jent_mod_init,bpf_tcp_ca_kfunc_init,"
    "trace_eval_init,tracer_init_tracefs,crypto_kdf108_init cryptomgr.notests"
)
"""What a kernel does at every boot that no application needs: tests of its ciphers, files for tracing itself, and keys
of signatures (which Secure Boot needs for modules). Names that a kernel does not have are passed over."""
CONSOLES = {"amd64": "ttyS0", "arm64": "ttyAMA0"}
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""As the kernel names them."""
MICROVMS = ("microvm", "microvm-archive")
SETS = {"CAP_BPF": ("bpf",), "CAP_NET_ADMIN": ("containers",), "CAP_SYS_ADMIN": ("bpf", "containers")}
"""What a specialised kernel has for an image that holds a capability, beside the usual."""
TARGETS = (*MICROVMS, "disk", "disk-qcow2", "iso")


async def write(
    store: ImageStore,
    target: str,
    name: str,
    service: ServiceSpec,
    image: Image,
    output: Path,
    *,
    fast: bool = False,
    small: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write the service's machine to `output` in a form of TARGETS.

    `fast` is with FAST_BOOT, `small` well compressed; `say` hears how it goes.

    Raises:
        InputError: the service asks for what only a node has.
        Unavailable, Permanent: the kernel cannot be had.
    """
    if not output.absolute().parent.is_dir():
        raise InputError(
            f"there is no directory {output.absolute().parent}",
            hint="make it, or choose another --output",
            code="output-no-place",
        )
    seen = {f"service {name}": store.bill(image.name).calls} if service.build else {}
    linux = await _kernel(service, seen, say)
    with told(output), tempfile.TemporaryDirectory(prefix=".new-", dir=output.absolute().parent) as scratch:
        machine = await asyncio.to_thread(bootable, store, name, service, image, linux, Path(scratch))
        machine = replace(machine, small=small)
        if fast:
            machine = replace(machine, append=f"{machine.append} {FAST_BOOT}")
            if target in MICROVMS:
                machine = replace(machine, kernel=file(await plain_kernel.obtain(linux)))
        return await write_form(target, machine, linux, Path(scratch), output)


@contextlib.contextmanager
def told(output: Path) -> Iterator[None]:
    """A disk that is full is an error of its own, also where a program finds out."""
    hint = "free some space there, or choose another --output"
    try:
        yield
    except CommandError as error:
        if os.strerror(errno.ENOSPC) in error.stderr:
            raise DiskFull("write", str(output), hint=hint) from error
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("write", str(output), hint=hint) from error
        raise system_failure("write", error) from error


async def _kernel(service: ServiceSpec, seen: Seen, say: Callable[[str], None]) -> Kernel:
    if service.build is None or service.build.kernel == "debian":
        return await kernel.obtain(KERNELS, architecture_of(service))
    held = effective_set(service.cap_add, service.cap_drop)
    sets = {one for capability, needed in SETS.items() if capability in held for one in needed}
    return await specialised.obtain(KERNELS, architecture_of(service), sorted(sets), seen=seen, say=say)


def bill_of(image: Bill, service: ServiceSpec) -> Bill:
    """What a machine of the image is made of: Debian's kernel comes to it, and Whit's init."""
    architecture = architecture_of(service)
    ours = (BilledPart("kernel", "machine", "kernel"), BilledPart("init", "machine", "every machine has it"))
    files = (
        BilledFile("init", "file", programs.path("appliance", machine=MACHINES[architecture]).stat().st_size, "init"),
    )
    package = _kernel_package(service, architecture)
    kernels = (BilledPackage(package, "kernel"),) if package else ()
    return replace(
        image, parts=(*ours, *image.parts), packages=(*kernels, *image.packages), files=(*image.files, *files)
    )


def _kernel_package(service: ServiceSpec, architecture: str) -> Package | None:
    """Debian's kernel, or the source of the one that was built; None if it was never needed."""
    if service.build is None or service.build.kernel == "debian":
        current = KERNELS / f"stable-{architecture}" / "current"
        return kernel.package_of(kernel.unpacked(current.resolve())) if current.exists() else None
    linux = specialised.newest(KERNELS, architecture)
    return specialised.source_of(linux) if linux else None


def architecture_of(service: ServiceSpec) -> str:
    """Which machines the service's image is for."""
    return (service.build.architecture if service.build else "") or manifest.architecture()


async def write_form(target: str, machine: Bootable, linux: Kernel, scratch: Path, output: Path) -> Exported:
    """Write what boots to `output` in a form of TARGETS. It is made in `scratch`, on the same file system."""
    work = scratch / "work"
    work.mkdir()
    if target in MICROVMS:
        await microvm.write(machine, linux, work)
        return await asyncio.to_thread(_publish_microvm, target, work, output)
    machine = replace(machine, boot_programs=await boot_loader.obtain(KERNELS, machine.architecture))
    made = scratch / "made"
    await (iso if target == "iso" else disk).write(machine, linux, made, work)
    if target == "disk-qcow2":
        raw, made = made, scratch / "qcow2"
        await qemu_img.to_qcow2(raw, made)
    return await asyncio.to_thread(_publish, made, output)


def _publish_microvm(target: str, made: Path, output: Path) -> Exported:
    if target == "microvm":
        digest, size = microvm.digest(made), sum(path.stat().st_size for path in made.iterdir())
        microvm.publish(made, output)
        return Exported(output, digest, size)
    microvm.archive(made, made.parent / "archive")
    return _publish(made.parent / "archive", output)


def _publish(made: Path, output: Path) -> Exported:
    if output.is_dir():
        raise Conflict(f"{output} is a directory", hint="name a file with --output", code="output-directory")
    with made.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    made.chmod(0o644)
    made.rename(output)
    return Exported(output, f"sha256:{digest}", output.stat().st_size)


def bootable(
    store: ImageStore, name: str, service: ServiceSpec, image: Image, linux: Kernel, scratch: Path
) -> Bootable:
    """What boots as the service would run. Layers that others packed are unpacked to `scratch`, and stay there."""
    files = store.files(image.name, scratch)
    volumes = (mount.target for mount in service.mounts if mount.kind == "volume")
    kept = tuple(sorted({*volumes, *image.config.volumes}))
    architecture = architecture_of(service)
    program = programs.path("appliance", machine=MACHINES[architecture])
    return Bootable(
        name=name,
        architecture=architecture,
        kernel=file(linux.image),
        init=Entry("init", mode=0o755, content=program.read_bytes()),
        append=APPEND.format(CONSOLES[architecture]),
        root=tuple(files),
        kept=kept,
        system=(*_system(name, service), *(f"keep={place}={_folder(place)}" for place in kept)),
        process=tuple(process := _process(name, service, image, files)),
        check=tuple(_check(service, process)),
    )


def _folder(place: str) -> str:
    """The name of a kept directory on the disk, as systemd-escape(1) --path gives it."""
    return place.strip("/").replace("-", "\\x2d").replace("/", "-") or "-"


def _system(name: str, service: ServiceSpec) -> list[str]:
    found = [f"hostname={name}", "dhcp=eth0"]
    found += [f"sysctl={path.replace('.', '/')}={value}" for path, value in oci_config.SYSCTLS.items()]
    found += ["readonly=1"] if service.read_only else []
    found += [f"port={number}" for number in sorted({one.target for one in service.ports if one.protocol == "tcp"})]
    for mount in service.mounts:
        if mount.kind == "bind":
            hint = "put the files into the image, or keep them in a volume"
            raise InputError(
                f"{mount.source} is a directory of a node",
                place=Place(key=f"services.{name}"),
                hint=hint,
                code="machine-of-node",
            )
        if mount.kind == "tmpfs":
            found.append(f"tmpfs={mount.target}=mode=1777")
    return found


def _check(service: ServiceSpec, process: Sequence[str]) -> Iterator[str]:
    """The service's health check, which runs as its process does."""
    if service.healthcheck is not None:
        yield from (f"arg={word}" for word in service.healthcheck.test)
        yield from (one for one in process if not one.startswith("arg="))


def _process(name: str, service: ServiceSpec, image: Image, files: Sequence[Entry]) -> list[str]:
    config = image.config
    texts = {one.path: one.data().decode(errors="replace") for one in files if one.path in ("etc/passwd", "etc/group")}
    user = service.user if service.user is not None else config.user
    owner = users.resolve(user, texts.get("etc/passwd", ""), texts.get("etc/group", ""), name)
    words = oci_config.command_line(name, service.entrypoint, service.command, config.entrypoint, config.command)
    env = oci_config.environment(config.env | service.environment, owner)
    capabilities = effective_set(service.cap_add, service.cap_drop)
    hard = oci_config.OPEN_FILES[1]
    process = {
        "user": {"uid": owner.uid, "gid": owner.gid, "additionalGids": list(owner.groups)},
        "args": list(words),
        "env": [f"{key}={value}" for key, value in sorted(env.items())],
        "cwd": service.working_dir or config.working_dir or "/",
        "capabilities": oci_config.capability_sets(capabilities, root=owner.uid == 0),
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": oci_config.OPEN_FILES[0], "hard": hard}],
    }
    number = signal.Signals[service.stop_signal or config.stop_signal].value
    return [*records.of_process(process), "console=1", f"stop={number}"]
