"""Specialised kernels: Linux built from Debian's source with what is asked for and nothing else, for guests of QEMU.

What can be asked for are sets of options, one file each in options/; `base` and the architecture's are always in. A
kernel is kept under the digest of its source, its configuration, its compiler and the flags for that, so it is built
once. It has no modules: all is built in. With the usual sets it has a fifth of the size of Debian's cloud kernel.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from whit.base.errors import InputError, NotFound
from whit.image.oci import manifest
from whit.image.provenance.bill import Package
from whit.image.sandbox.workshop import Bench, Workshop
from whit.image.sources import calls, kernel
from whit.image.sources.kernel import LISTS_MAX_AGE, Kernel, Series
from whit.kernel.files import write_file
from whit.tools import apt, apt_sources, kbuild, modprobe, process

SETS = ("net", "disk", "containers", "bpf")
"""That a person may ask for."""
USUAL = ("net", "disk")
MODULES = {
    "base": ("virtio_pci", "virtio_console", "virtio_rng", "virtio_balloon", "evdev", "button"),
    "net": ("virtio_net",),
    "disk": ("virtio_blk", "overlay", "erofs", "dm_verity", "ext4", "vfat", "virtiofs", "isofs"),
    "containers": ("veth", "bridge", "tun", "macvlan", "dummy"),
    "bpf": (),
}
"""Modules of Debian's kernels that a set has built in."""
_SOURCE = "source.json"
"""In a kernel's directory: the package of its source, for bills."""
_LEFT_OUT = ("Documentation/*", "tools/testing/*", "tools/perf/*")
"""Of the source: a third of its files, and nothing that is compiled."""


def configuration(architecture: str, sets: Sequence[str] = USUAL) -> str:
    """The options, as a file for kconfig.

    Raises:
        InputError: there is no such set.
    """
    for name in sets:
        if name not in SETS:
            raise InputError(f"a specialised kernel has no set {name!r}", hint=f"there are: {', '.join(SETS)}")
    chosen = ("base", *sorted({*USUAL, *sets}, key=SETS.index), architecture)
    place = resources.files(__package__) / "options"
    return "".join((place / f"{name}.config").read_text() for name in chosen)


def sets_for(seen: Iterable[str], architecture: str, sets: Sequence[str] = USUAL) -> list[str]:
    """These sets, and those that bring the system calls that were seen."""
    place = resources.files(__package__) / "options"
    seen = tuple(seen)
    others = [(name, (place / f"{name}.config").read_text()) for name in SETS if name not in sets]
    return sorted({*sets, *calls.bringing(seen, configuration(architecture, sets), others)})


async def obtain(
    store: Path,
    architecture: str,
    sets: Sequence[str] = USUAL,
    series: Series = "stable",
    *,
    seen: calls.Seen,
    say: Callable[[str], None] = lambda _: None,
) -> Kernel:
    """The kernel that was built before, or a new one: that takes some minutes. It has the system calls `seen`.

    Which options bring others only the source tells, so it is unpacked and configured before a call is refused.

    Raises:
        InputError: there is no such set, or none brings a system call that was seen.
        Unavailable: the host is not Debian, or has no compiler.
        Permanent, CommandError: the source cannot be had or does not build.
    """
    sets = sets_for((call for made in seen.values() for call in made), architecture, sets)
    options = configuration(architecture, sets)
    kbuild.require(architecture)
    home = _home(store, architecture, series)
    home.mkdir(parents=True, exist_ok=True)
    source = await fetched(home, series)
    compiler = await process.run([kbuild.compiler_of(architecture), "--version"])
    facts = (source.name, options, compiler.text.splitlines()[0], kbuild.FLAGS.get(architecture, ""))
    key = hashlib.sha256("\n".join(facts).encode()).hexdigest()
    target = home / key
    if not target.exists():
        say("kernel: building a specialised one, which takes some minutes and is done once")
        workshop = Workshop(home / "builds")
        workshop.prepare()
        async with workshop.bench() as bench:
            say("kernel: unpacking its source")
            tree = await unpacked(bench, source)
            configured = await configure(bench, tree, architecture, options)
            calls.require(seen, configured.configuration.read_text())
            release = await configured.build(say)
            await _keep(configured, release, _modules(sets), target)
    found = kernel.unpacked(target)
    await _note(source, found)
    calls.require(seen, found.configuration.read_text())
    return found


def _home(store: Path, architecture: str, series: Series) -> Path:
    return store / f"specialised-{series}-{architecture}"


def newest(store: Path, architecture: str, series: Series = "stable") -> Kernel | None:
    """The kernel that was built last."""
    notes = _home(store, architecture, series).glob(f"*/{_SOURCE}")
    found = max(notes, key=lambda one: one.parent.stat().st_mtime_ns, default=None)
    return kernel.unpacked(found.parent) if found else None


def source_of(linux: Kernel) -> Package | None:
    """Debian's package of the source that the kernel was built from; None if it was not built here."""
    note = linux.root / _SOURCE
    return Package.parse(json.loads(note.read_text())) if note.is_file() else None


async def _note(source: Path, linux: Kernel) -> None:
    note = linux.root / _SOURCE
    if note.exists():
        return
    shape = "${Package}\n${Version}\n${Architecture}\n"
    shown = await process.run(["dpkg-deb", "--show", f"--showformat={shape}", str(source)])
    name, version, architecture = shown.text.splitlines()
    package = Package(name, version, architecture=architecture, sha256=source.stem)
    write_file(note, json.dumps(asdict(package)).encode())


def _modules(sets: Sequence[str]) -> list[str]:
    return [name for chosen in ("base", *sorted({*USUAL, *sets})) for name in MODULES[chosen]]


async def fetched(home: Path, series: Series) -> Path:
    """Debian's package of the source, whose name is its digest; the one that is in `home`, or the newest."""
    there = sorted(home.glob("*.deb"))
    if there:
        return there[0]
    codename = apt_sources.release()
    choose = apt_sources.host_sources if series == "stable" else apt_sources.backports
    own = manifest.architecture()
    with tempfile.TemporaryDirectory(prefix=".apt-", dir=home) as private:
        root = apt.Root(home / "apt", Path(private), own)
        await root.prepare(choose(codename, own), apt_sources.host_credentials(), ())
        await root.update(LISTS_MAX_AGE)
        package = await _newest(root)
        await root.download([package])
        found = home / f"{package.sha256}.deb"
        root.path(package).rename(found)
    return found


async def _newest(root: apt.Root) -> apt.Package:
    resolved = await root.resolve(["linux-source"])
    for package in resolved.packages:
        if package.name.startswith("linux-source-"):
            return package
    raise NotFound("linux-source depends on no source")


async def unpacked(bench: Bench, package: Path) -> Path:
    """The source, in the bench's directory."""
    tree = bench.path / "linux"
    tree.mkdir()
    bench.own(tree)
    await process.run(["dpkg-deb", "--extract", str(package), str(bench.path / "deb")], timeout=600)
    archive = next((bench.path / "deb/usr/src").glob("linux-source-*.tar.xz"))
    excluded = [f"--exclude=*/{name}" for name in _LEFT_OUT]
    unpack = ["tar", "--extract", f"--file={archive}", f"--directory={tree}", "--strip-components=1", "--no-same-owner"]
    await process.run([*_start(bench), *unpack, *excluded], timeout=1800)
    await asyncio.to_thread(_complete, bench, tree)
    return tree


async def configure(bench: Bench, tree: Path, architecture: str, options: str) -> kbuild.Source:
    """The source, configured: by the bench's user and without a network, as nobody has looked at what makefiles do.

    Raises:
        Permanent: this Linux does not take some of the options, or not without others.
    """
    bench.give("options", options.encode())
    source = kbuild.Source(tree, architecture, _start(bench))
    await source.configure(bench.path / "in" / "options")
    return source


def _start(bench: Bench) -> list[str]:
    if os.geteuid() != 0:
        return ["nice"]
    user = [f"--reuid={bench.uid}", f"--regid={bench.uid}", "--clear-groups", "--no-new-privs"]
    return ["unshare", "--net", "setpriv", "--pdeathsig=KILL", *user, "nice"]


def _complete(bench: Bench, tree: Path) -> None:
    """Kconfig reads one file of what was left out."""
    (tree / "Documentation").mkdir(exist_ok=True)
    (tree / "Documentation/Kconfig").touch()
    bench.own(tree / "Documentation")


async def _keep(source: kbuild.Source, release: str, modules: Sequence[str], target: Path) -> None:
    """As Debian's packages lay it out; appears whole or not at all."""
    made = Path(tempfile.mkdtemp(prefix=".made-", dir=target.parent))
    try:
        found = Kernel(release, made)
        for directory in (made / "boot", found.modules):
            directory.mkdir(parents=True)
        await asyncio.to_thread(shutil.copyfile, source.image, found.image)
        await asyncio.to_thread(shutil.copyfile, source.configuration, found.configuration)
        (found.modules / "modules.order").touch()
        (found.modules / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in modules))
        await modprobe.index(made, release)
        await asyncio.to_thread(kernel.publish, made, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)
