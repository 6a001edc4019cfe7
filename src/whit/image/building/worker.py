"""Worker: one build, in a process of its own without any rights (sandbox/confine.py).

`python -m whit.image.building.worker` takes a request as JSON on standard input. Each line of its output is a JSON
object with one key: `step` while it works, in the end `result` or `error`. Layers are left in `out` of its directory;
whoever takes them verifies their digests.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import json
import shutil
import sys
import tarfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from whit.base.errors import NotFound, WhitError, report_of, system_failure
from whit.image.linking import link as linking
from whit.image.linking.scans import Scans
from whit.image.oci import manifest
from whit.image.oci.layout import Layout
from whit.image.provenance import depends, merged
from whit.image.provenance.bill import Package
from whit.image.provenance.needs import Graph
from whit.image.rootfs import layer, unpack
from whit.image.rootfs.tree import Tree
from whit.image.sandbox import confine
from whit.image.sources import debian
from whit.image.sources.python import Installer, metadata
from whit.model.lock import Locked, LockedPackage, not_locked
from whit.tools import apt, pip, skopeo

CONTEXT = "context.tar"
LAYER = "layer.tar"
LAYOUT = "layout"
ORIGINS = "origins.json"
BILL = "bill.json"
SCANS = "scans.json"
WHEELS = "wheels"
BUILDERS = "builders"
AUTH = "auth.json"

Request = Mapping[str, Any]
Result = dict[str, Any]


def say(step: str) -> None:
    print(json.dumps({"step": step}), flush=True)


async def _debian(request: Request, work: Path) -> Result:
    root = apt.Root(work / "shared", work / "apt", request["architecture"])
    names = request["names"]
    await root.prepare(request["sources"], request["auth"], debian.left_out(names))
    if request["locked"] is None:
        say("look at the package lists")
        await root.update(0 if request["refresh"] else debian.LISTS_MAX_AGE)
        say("resolve packages")
        resolved = await root.resolve(names, debian.BASE)
        await debian.fetch(root, resolved.packages, say)
    else:
        resolved = await _locked(root, names, Locked.parse(request["locked"]).packages, fetch=request["fetch"])
    spool = work / "spool"
    spool.mkdir()
    linked = await debian.link(root, resolved, spool, say)
    env = {"LANG": "C.UTF-8"}
    if debian.CERTIFICATES in linked.tree:
        env["SSL_CERT_FILE"] = f"/{debian.CERTIFICATES}"
    packages = [dataclasses.asdict(package) for package in depends.of_debian(linked.packages)]
    facts = {"packages": packages, "skipped_scripts": linked.skipped_scripts, "env": env}
    return _written(linked.tree, work) | facts


async def _locked(
    root: apt.Root, names: Sequence[str], wanted: Sequence[LockedPackage], *, fetch: bool
) -> apt.Resolved:
    """The packages of the lock file. Their control files are in them, so no list is needed."""
    packages = [apt.Package(one.name, one.version, one.architecture, one.sha256, 0, "") for one in wanted]
    missing = [package for package in packages if not root.has(package)]
    if missing and not fetch:
        raise not_locked([f"{package.wanted} (sha256:{package.sha256[:12]})" for package in missing])
    if missing:
        await root.update(debian.LISTS_MAX_AGE)
        await debian.fetch(root, packages, say)
    return await debian.read_resolved(root, packages, names)


async def _requirements(request: Request, work: Path) -> Result:
    say("install requirements")
    installer = _installer(request, work)
    locked = Locked.parse(request["locked"] or {})
    return _python(await installer.requirements(request["requirements"], locked.wheels), work)


async def _project(request: Request, work: Path) -> Result:
    installer = _installer(request, work)
    source = work / "source"
    with tarfile.open(work / "in" / CONTEXT, "r:") as tar:
        tar.extractall(source)  # noqa: S202 - the agent made it, and this process has no rights
    if not request["installed"]:
        return _written(installer.files(source), work)
    say("build the project")
    locked = Locked.parse(request["locked"]) if request["locked"] is not None else None
    tree = await installer.project(source, request["builders"], locked, dependencies=request["dynamic"])
    return _python(tree, work)


async def _registry(request: Request, work: Path) -> Result:
    """The image, and its signatures if it is signed."""
    say(f"pull {request['reference']}")
    authfile, layout = work / "in" / AUTH, work / "out" / LAYOUT
    copy = functools.partial(
        skopeo.copy,
        layout=layout,
        architecture=request["architecture"],
        verify_tls=request["verify_tls"],
        authfile=authfile if authfile.exists() else None,
        env=_environment(work),
    )
    await copy(request["reference"])
    with contextlib.suppress(NotFound):
        name = manifest.signature_name(Layout(layout).descriptors()[0].digest)
        await copy(f"{request['repository']}:{name}", name=name)
    return {}


async def _link(request: Request, work: Path) -> Result:
    """The layers of all steps become one tree, and what stays of it layers again."""
    say("link the files")
    graph = Graph.parse(request["graph"])
    sources = [await _source(number, item, work) for number, item in enumerate(request["layers"])]
    scans = Scans.read(work / "in" / SCANS)
    linked = linking.link(merged.merge(sources, graph), linking.Order.parse(request["order"]), work / "out", scans)
    scans.write(work / "out" / SCANS)
    (work / "out" / BILL).write_text(json.dumps(linked.bill.document()))
    return {"layers": {str(number): written.digest for number, written in linked.layers.items()}}


async def _source(number: int, item: Mapping[str, Any], work: Path) -> merged.Source:
    tar = work / "shared" / item["digest"].removeprefix("sha256:")
    if item["compression"]:
        packed, tar = tar, work / f"plain-{number}.tar"
        await asyncio.to_thread(unpack.decompress, packed, item["compression"], tar)
    origins = json.loads((work / "in" / f"origins-{number}.json").read_bytes())
    return merged.Source(tar, tuple(item["parts"]), origins, tuple(map(Package.parse, item["packages"])))


JOBS: dict[str, Callable[[Request, Path], Coroutine[Any, Any, Result]]] = {
    "debian": _debian,
    "requirements": _requirements,
    "project": _project,
    "registry": _registry,
    "link": _link,
}


def _installer(request: Request, work: Path) -> Installer:
    env = _environment(work) | request["pip"]
    if "PIP_CONFIG_FILE" not in env and (work / "in" / "pip.conf").exists():
        env["PIP_CONFIG_FILE"] = str(work / "in" / "pip.conf")
    target = pip.Target(request["python"], request["architecture"])
    installer = Installer(target, env, work / "pip", work / "out" / WHEELS, work / "out" / BUILDERS)
    installer.check()
    installer.scratch.mkdir()
    (installer.scratch / "built").mkdir()
    for directory in (installer.wheels, installer.builders):
        directory.mkdir()
        for given in (work / "in").glob(f"{directory.name}-*"):
            shutil.copyfile(given, directory / given.name.removeprefix(f"{directory.name}-"))
    return installer


def _environment(work: Path) -> dict[str, str]:
    epoch = str(layer.timestamp() or 315532800)  # zip files, and so wheels, know no time before 1980
    return {"HOME": str(work / "home"), "TMPDIR": str(work / "tmp"), "SOURCE_DATE_EPOCH": epoch}


def _python(tree: Tree, work: Path) -> Result:
    wheels, builders = (_digests(work / "out" / name) for name in (WHEELS, BUILDERS))
    by_name = {depends.canonical(file.partition("-")[0]): digest for file, digest in wheels.items()}
    packages = [dataclasses.asdict(package) for package in depends.of_python(metadata(tree), by_name)]
    return _written(tree, work) | {"packages": packages, "wheels": wheels, "builders": builders}


def _digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.glob("*.whl"))}


def _written(tree: Tree, work: Path) -> Result:
    say("write the layer")
    written = layer.write(tree, work / "out" / LAYER)
    origins = {entry.path: entry.origin for entry in tree if entry.origin}
    (work / "out" / ORIGINS).write_text(json.dumps(origins))
    return {"digest": written.digest, "size": written.size, "files": written.files}


def main() -> int:
    request = json.load(sys.stdin)
    try:
        shared = Path(request["shared"]) if request["shared"] else None
        work = confine.confine(request["uid"], Path(request["work"]), shared)
        for name in ("out", "home", "tmp"):
            (work / name).mkdir()
        result = asyncio.run(JOBS[request["job"]](request, work))
    except WhitError as error:
        failure = error
    except OSError as error:
        failure = system_failure("build", error)
    else:
        print(json.dumps({"result": result}), flush=True)
        return 0
    print(json.dumps({"error": report_of(failure)}), flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
