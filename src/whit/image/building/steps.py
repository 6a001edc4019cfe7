"""Steps: carries out one step of a plan, and leaves its layers in the layout."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whit.base.errors import DigestMismatch
from whit.image.building import worker
from whit.image.building.plan import Plan, Step
from whit.image.building.records import Records, StepResult, write_whole
from whit.image.linking import scans
from whit.image.linking.link import Order
from whit.image.oci import archive, manifest
from whit.image.oci.layout import Layout
from whit.image.oci.manifest import Descriptor, Layer
from whit.image.provenance.bill import Bill, Package
from whit.image.rootfs import layer
from whit.image.rootfs.tree import MERGED_USR, Tree
from whit.image.sandbox.workshop import Bench, Workshop
from whit.image.sources import directory, project
from whit.model.lock import Locked, LockedPackage, LockedWheel, not_locked
from whit.tools import apt_sources, pip

Say = Callable[[str], None]


@dataclass(frozen=True)
class Steps:
    layout: Layout
    workshop: Workshop
    records: Records

    async def carry_out(self, step: Step, plan: Plan, say: Say, *, refresh: bool, fetch: bool = True) -> StepResult:
        """Make the layers of one step; without `fetch` from what is here.

        Raises:
            NotLocked: something would have to be fetched.
            WhitError: what the worker failed with.
        """
        if step.kind == "directory":
            return await asyncio.to_thread(self._directory, step)
        if step.kind == "layout":
            return await asyncio.to_thread(self._layout, step)
        async with self.workshop.bench(debian=step.kind == "debian") as bench:
            request = await asyncio.to_thread(_request, step, plan, bench, refresh)
            request |= {"locked": step.locked.document() if step.locked else None, "fetch": fetch}
            await asyncio.to_thread(self._give_wheels, step, bench, fetch)
            answer = await self.workshop.run(worker.__name__, bench, request, say)
            return await asyncio.to_thread(self._take, step, bench, answer)

    def _give_wheels(self, step: Step, bench: Bench, fetch: bool) -> None:
        """Those of the lock file that are here. Raises NotLocked for others that may not be fetched."""
        if step.kind == "debian" or step.locked is None:
            return
        missing = []
        for kind, group in ((worker.WHEELS, step.locked.wheels), (worker.BUILDERS, step.locked.builders)):
            for wheel in group:
                data = self._kept_wheel(wheel)
                if data:
                    bench.give(f"{kind}-{wheel.file}", data)
                else:
                    missing.append(f"{wheel.file} (sha256:{wheel.sha256[:12]})")
        if missing and not fetch:
            raise not_locked(missing)

    def _kept_wheel(self, wheel: LockedWheel) -> bytes:
        """Empty if it is not here, or not what it was."""
        kept = self.workshop.wheel(wheel.sha256)
        data = kept.read_bytes() if kept.exists() else b""
        return data if hashlib.sha256(data).hexdigest() == wheel.sha256 else b""

    def _locked(self, bench: Bench, answer: Mapping[str, Any]) -> Locked:
        """What the step was made of, for a lock file; its wheels are kept."""
        packages = [one for one in answer.get("packages", ()) if one["kind"] == "deb"]
        rows = (LockedPackage(one["name"], one["version"], one["architecture"], one["sha256"]) for one in packages)
        wheels, builders = (
            self._keep_wheels(bench, name, answer.get(name, {})) for name in (worker.WHEELS, worker.BUILDERS)
        )
        return Locked(tuple(rows), wheels, builders)

    def _keep_wheels(self, bench: Bench, directory: str, named: Mapping[str, str]) -> tuple[LockedWheel, ...]:
        found = []
        for file, expected in sorted(named.items()):
            with bench.output(file, directory) as source:
                data = source.read()
            if hashlib.sha256(data).hexdigest() != expected:
                raise DigestMismatch(f"the build left another {file} than it says", hint="build again")
            kept = self.workshop.wheel(expected)
            write_whole(kept, data)
            found.append(LockedWheel(file, expected))
        return tuple(found)

    async def link(self, plan: Plan, results: Sequence[StepResult], order: Order, say: Say) -> Linked:
        """Leave out of the layers of all steps what `order` says."""
        async with self.workshop.bench() as bench:
            layers: list[dict[str, Any]] = []
            for step, result in zip(plan.steps, results, strict=True):
                for item in result.layers:
                    bench.give(f"origins-{len(layers)}.json", json.dumps(self.records.origins(step.key)).encode())
                    layers.append(_described(item, step, result))
            request: dict[str, Any] = {
                "job": "link",
                "layers": layers,
                "graph": plan.graph.document(),
                "order": order.document(),
            }
            request["fetch"] = False
            same = _same(plan)
            bench.give(worker.SCANS, self.records.scans(same))
            blobs = self.layout.path("sha256:" + "0" * 64).parent
            answer = await self.workshop.run(worker.__name__, bench, request, say, shared=blobs)
            await asyncio.to_thread(self._take_scans, bench, same)
            return await asyncio.to_thread(self._take_linked, bench, answer)

    def _take_scans(self, bench: Bench, same: str) -> None:
        with bench.output(worker.SCANS) as file:
            data = file.read(scans.LARGEST + 1)
        if len(data) <= scans.LARGEST:
            self.records.keep_scans(same, data)

    def _take_linked(self, bench: Bench, answer: Mapping[str, Any]) -> Linked:
        layers = {}
        for number, expected in answer["layers"].items():
            with bench.output(f"layer-{int(number)}.tar") as file:
                layers[int(number)] = _plain(*self.layout.put(file, expected))
        with bench.output(worker.BILL) as file:
            return Linked(layers, Bill.parse(json.load(file)))

    def _directory(self, step: Step) -> StepResult:
        """Made by this process, since the files may be readable to it alone; nothing in them is interpreted."""
        tree = Tree(MERGED_USR if step.merged_usr else None)
        for entry in directory.take(step.path, step.target, step.ignored):
            tree.add(entry)
        with self.layout.scratch() as path:
            written = layer.write(tree, path)
            self.layout.adopt(path, written.digest)
        return StepResult((_plain(written.digest, written.size),))

    def _layout(self, step: Step) -> StepResult:
        origin = archive.source(step.path)
        imported = archive.bring(origin, archive.choose(origin, step.reference), self.layout)
        return StepResult(imported.layers, base=imported.config.get("config") or {})

    def _take(self, step: Step, bench: Bench, answer: Mapping[str, Any]) -> StepResult:
        with bench.output(worker.LAYER) as file:
            digest, size = self.layout.put(file, answer["digest"])
        with bench.output(worker.ORIGINS) as file:
            origins = {str(path): str(name) for path, name in json.load(file).items()}
        self.records.keep_origins(step.key, origins)
        return StepResult(
            (_plain(digest, size),),
            env=answer.get("env", {}),
            packages=tuple(map(Package.parse, answer.get("packages", ()))),
            skipped_scripts=tuple(answer.get("skipped_scripts", ())),
            locked=self._locked(bench, answer),
        )


@dataclass(frozen=True)
class Linked:
    """Layers by the number of the layer of the steps that they are of."""

    layers: dict[int, Layer]
    bill: Bill


def _described(item: Layer, step: Step, result: StepResult) -> dict[str, Any]:
    return {
        "digest": item.descriptor.digest,
        "compression": manifest.LAYERS[item.descriptor.media_type],
        "parts": step.parts,
        "packages": [asdict(package) for package in result.packages],
    }


def _same(plan: Plan) -> str:
    """Equal for builds that differ in nothing but the contents of their parts."""
    facts = [(step.kind, step.title, str(step.path), step.architecture) for step in plan.steps]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _plain(digest: str, size: int) -> Layer:
    return Layer(Descriptor(manifest.LAYER, digest, size), digest)


def _request(step: Step, plan: Plan, bench: Bench, refresh: bool) -> dict[str, Any]:
    """What the worker is told; what it must read is put into its directory."""
    if step.kind == "debian":
        return {
            "job": "debian",
            "architecture": step.architecture or manifest.architecture(),
            "names": step.names,
            "sources": plan.sources,
            "auth": apt_sources.host_credentials(),
            "refresh": refresh,
        }
    assert step.project is not None
    settings = pip.settings(os.environ)
    if configuration := _pip_configuration(settings):
        bench.give("pip.conf", configuration)
    architecture = step.architecture or manifest.architecture()
    common = {"job": step.kind, "python": plan.python, "architecture": architecture, "pip": settings}
    if step.kind == "requirements":
        return common | {"requirements": step.project.requirements}
    context = bench.path / "in" / worker.CONTEXT
    layer.write(directory.scan(step.path, project.IGNORED).entries(), context)
    bench.own(context)
    facts = {"installed": step.project.installed, "dynamic": step.project.dynamic, "builders": step.project.builders}
    return common | facts


def _pip_configuration(settings: dict[str, str]) -> bytes:
    """The user's pip.conf, which the worker cannot read; the host's and the environment's it reads itself."""
    home = Path.home()
    named = settings.pop("PIP_CONFIG_FILE", "")
    candidates = [Path(named)] if named else [home / ".config/pip/pip.conf", home / ".pip/pip.conf"]
    return next((path.read_bytes() for path in candidates if path.is_file()), b"")
