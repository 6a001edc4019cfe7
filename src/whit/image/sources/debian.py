"""Debian: packages with what they depend on become one tree, without running any of their scripts.

A package's files come from the stream of `dpkg-deb --fsys-tarfile`. What its maintainer scripts would have done for a
plain server is supplied: base directories, merged /usr, accounts (accounts.py), nsswitch, certificates, byte code
(bytecode.py). Which scripts were left out is reported. Nothing is essential: /bin/sh is there if something depends on
it or asks for it. The control data is kept in /var/lib/dpkg/status.d, where scanners look for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import CommandError, HostileArchive
from whit.image.provenance import depends
from whit.image.rootfs.tree import MERGED_USR, Entry, Tree, read_tar
from whit.image.sources import accounts, bytecode
from whit.tools import apt, process
from whit.tools.apt import Package, Resolved

BASE = ("base-files", "base-passwd")
"""Their files are the skeleton of every Debian system; they come without what they depend on."""
SCRIPTS_ONLY = (
    "adduser",
    "debconf",
    "dpkg",
    "init-system-helpers",
    "lsb-base",
    "passwd",
    "sysvinit-utils",
    "ucf",
    "usr-is-merged",
    "usrmerge",
)
"""Servers depend on these for their maintainer scripts. Since no script runs, they are left out unless asked for."""
LISTS_MAX_AGE = 24 * 3600.0
"""Seconds after which the lists are fetched again."""
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

_AT_ONCE = 2
_SCRIPTS = {"preinst", "postinst", "config"}
_NSSWITCH = b"""passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
"""
_DIRECTORIES = (
    ("root", 0o700),
    ("tmp", 0o1777),
    ("run/lock", 0o1777),
    ("var/tmp", 0o1777),
    ("mnt", 0o755),
    ("opt", 0o755),
)


def left_out(names: Sequence[str]) -> tuple[str, ...]:
    """What apt is told to be there already, if these packages are wanted."""
    asked = {name.partition("=")[0] for name in names}
    return tuple(name for name in SCRIPTS_ONLY if name not in asked)


Say = Callable[[str], None]


@dataclass(frozen=True)
class Unpacked:
    """A package's files as a tar on disk, its control file, and the names of the scripts that it wanted to run."""

    package: Package
    files: Path
    scripts: tuple[str, ...]
    control: bytes


@dataclass(frozen=True)
class Linked:
    """A tree with the packages that it comes from, and PACKAGE.SCRIPT of what was not run."""

    tree: Tree
    packages: tuple[Package, ...]
    skipped_scripts: tuple[str, ...]


async def fetch(root: apt.Root, packages: Sequence[Package], say: Say) -> None:
    """Raises Permanent if one cannot be had, or is not what its digest says."""
    size = sum(package.size for package in packages)
    say(f"fetch {len(packages)} packages" + (f", {size / 1e6:.0f} MB" if size else ""))
    await root.download(packages)


async def read_resolved(root: apt.Root, packages: Sequence[Package], names: Sequence[str]) -> Resolved:
    """What resolving would say of packages that are here, from their own control files."""
    found = []
    for package in packages:
        shown = await process.run(["dpkg-deb", "--field", str(root.path(package))])
        found.append(dataclasses.replace(package, control=shown.text.rstrip("\n")))
    needs = {one.name: one.needs for one in depends.of_debian(found)}
    queue, chosen = [name.partition("=")[0] for name in names], set[str]()
    while queue:
        name = queue.pop()
        if name in needs and name not in chosen:
            chosen.add(name)
            queue += needs[name]
    return Resolved(tuple(sorted(found, key=lambda package: package.name)), frozenset(chosen))


async def link(root: apt.Root, resolved: Resolved, spool: Path, say: Say) -> Linked:
    """Merge packages that were downloaded. Raises HostileArchive, CommandError."""
    packages = resolved.packages
    say(f"link {len(packages)} packages")
    unpacked = await _unpack_all(root, packages, spool)
    tree = merge(unpacked, resolved.chosen)
    if bytecode.has_python(tree):
        say("compile the Python library")
        await asyncio.to_thread(bytecode.compile_library, tree)
    skipped = [f"{item.package.name}.{script}" for item in unpacked for script in item.scripts]
    return Linked(tree, packages, tuple(sorted(skipped)))


def merge(unpacked: Sequence[Unpacked], whole: frozenset[str]) -> Tree:
    """One tree of all packages, by name; of base-passwd the databases only, unless it is in `whole`."""
    tree = Tree()
    for name, target in MERGED_USR.items():
        tree.add(Entry(name, "symlink", 0o777, target=target, origin="base-files"))
    for item in sorted(unpacked, key=lambda item: (item.package.name not in BASE, item.package.name)):
        masters_only = item.package.name == "base-passwd" and item.package.name not in whole
        for entry in read_tar(item.files):
            if not masters_only or entry.path in (accounts.PASSWD_MASTER, accounts.GROUP_MASTER):
                tree.add(dataclasses.replace(entry, origin=item.package.name))
        name = item.package.name
        tree.add(Entry(f"var/lib/dpkg/status.d/{name}", content=item.control, origin=name))
    _furnish(tree, {item.package.name for item in unpacked})
    return tree


def _furnish(tree: Tree, packages: set[str]) -> None:
    for path, mode in _DIRECTORIES:
        tree.add(Entry(path, "directory", mode, origin="base-files"))
    for path, target in (("var/run", "/run"), ("var/lock", "/run/lock")):
        tree.remove(path)
        tree.add(Entry(path, "symlink", 0o777, target=target, origin="base-files"))
    if "etc/nsswitch.conf" not in tree:
        tree.add(Entry("etc/nsswitch.conf", content=_NSSWITCH, origin="base-files"))
    if "lib64" in tree and not tree.under("usr/lib64"):
        tree.remove("lib64")
    accounts.apply(tree, packages)
    _certificates(tree)


def _certificates(tree: Tree) -> None:
    """What update-ca-certificates does: every certificate that the package brings, one after the other."""
    found = [entry for entry in tree.under("usr/share/ca-certificates") if entry.path.endswith(".crt")]
    if found:
        bundle = b"".join(entry.data().rstrip(b"\n") + b"\n" for entry in found)
        tree.add(Entry(CERTIFICATES, content=bundle, origin="ca-certificates"))


async def _unpack_all(root: apt.Root, packages: Sequence[Package], spool: Path) -> list[Unpacked]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(package: Package) -> Unpacked:
        async with gate:
            return await _unpack(root.path(package), package, spool)

    try:
        async with asyncio.TaskGroup() as tasks:
            started = [tasks.create_task(one(package)) for package in packages]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in started]


async def _unpack(deb: Path, package: Package, spool: Path) -> Unpacked:
    files, control = spool / f"{package.name}.tar", spool / f"{package.name}.control.tar"
    for option, path in (("--fsys-tarfile", files), ("--ctrl-tarfile", control)):
        with path.open("wb") as output:
            try:
                await process.run(["dpkg-deb", option, str(deb)], stdout=output.fileno(), timeout=600)
            except CommandError as error:
                raise HostileArchive(
                    f"the package {package.wanted} cannot be unpacked: {error.stderr}", code="package-damaged"
                ) from error
    with tarfile.open(control, "r:") as tar:
        names = {name.removeprefix("./"): name for name in tar.getnames()}
        file = tar.extractfile(names["control"]) if "control" in names else None
        if file is None:
            raise HostileArchive(
                f"the package {package.wanted} has no control file", hint="fetch it again", code="package-no-control"
            )
        return Unpacked(package, files, tuple(sorted(_SCRIPTS & names.keys())), file.read())
