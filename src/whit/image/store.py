"""Store: the images of a node, built, imported or pulled, and unpacked for the runtime.

What an image is made of is plan.py's, how a layer is made steps.py's; here is what is known already, what is
unpacked, and what is garbage. One object serves many concurrent builds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from whit.base.errors import Conflict, NotFound, Permanent, WhitError, system_failure
from whit.base.settings import Settings
from whit.image import archive, export, manifest, merged, plan, prove, reference, unpack, worker
from whit.image.bill import Bill
from whit.image.export import Exported, Target
from whit.image.layout import Layout
from whit.image.linking import Order
from whit.image.manifest import Descriptor, Layer
from whit.image.plan import Plan, Step
from whit.image.records import Records, StepResult
from whit.image.reference import PathReference, RegistryReference
from whit.image.steps import Say, Steps
from whit.image.workshop import Workshop, failure, module_environment
from whit.model.build import BuildSpec
from whit.model.image import Image, ImageConfig
from whit.model.lock import Lock, not_locked
from whit.model.progress import Progress, Report
from whit.tools import process

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNPACK_TIMEOUT = 1800.0
_AT_ONCE = 2
"""Layers unpacked and steps carried out at the same time: both keep a CPU busy."""

T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """A line of the list of images."""

    name: str
    digest: str
    size: int


@dataclass(frozen=True)
class Collected:
    """What garbage collection removed."""

    blobs: int
    layers: int
    bytes: int


@dataclass
class _Turn:
    """Who works on a key, and how many want to."""

    lock: asyncio.Lock
    users: int = 0


@dataclass(frozen=True)
class _Made:
    """The layers of an image before it has a manifest."""

    layers: list[Layer]
    titles: list[str]
    bill: Bill


class ImageStore:
    """Implements model.image.Images."""

    def __init__(self, settings: Settings) -> None:
        self.layout = Layout(settings.images_dir)
        self.layers_dir = settings.images_dir.parent / "layers"
        self._workshop = Workshop(settings.state_dir / "builds")
        self._records = Records(settings.state_dir / "builds" / "records")
        self._steps = Steps(self.layout, self._workshop, self._records)
        self._turns: dict[str, _Turn] = {}
        self._gate = asyncio.Semaphore(_AT_ONCE)
        self._prepared = False

    async def build(
        self,
        name: str,
        spec: BuildSpec,
        report: Report,
        *,
        refresh: bool = False,
        lock: Lock | None = None,
        fetch: bool = True,
    ) -> Image:
        """Link the parts, or find the result of the same parts, and unpack it.

        What `lock` has is taken as it says. Without `fetch` everything must be in it, and here.

        Raises:
            InputError: a part does not exist or cannot be linked, or the image fails its own checks.
            NotLocked: something would have to be fetched and may not.
            DiskFull: there is no space for it; what was begun is not visible.
            Unavailable, Permanent, Unreachable: the package sources cannot be used.
        """
        with _told():
            return await self._build(name, spec, report, refresh=refresh, lock=lock, fetch=fetch)

    async def _build(
        self, name: str, spec: BuildSpec, report: Report, *, refresh: bool, lock: Lock | None, fetch: bool
    ) -> Image:
        self.prepare()
        planned = await asyncio.to_thread(plan.make, spec, lock)
        if not fetch:
            plan.require_locked(planned)
        async with self._alone(planned.key), self._workshop.busy():
            known = None if refresh else await asyncio.to_thread(self._known, name, planned.key)
            if known:
                return known
            say = _sayer(name, report)
            results = await _together(self._settle(step, planned, say, refresh, fetch) for step in planned.steps)
            config = _config(planned, results)
            made = await self._link(planned, results, config, say)
            descriptor = await asyncio.to_thread(self._assemble, made, config, _labels(results))
            _say_skipped(results, say)
            image = await self._unpacked(name, descriptor, say)
            checks = await self._prove(image, spec, say)
            self._records.keep_bill(descriptor.digest, replace(made.bill, checks=checks))
            self.layout.tag(name, descriptor)
            self._records.keep_image(planned.key, descriptor)
            return image

    def locked(self, spec: BuildSpec, lock: Lock | None = None) -> Lock:
        """What a build of these parts, which was done, was made of."""
        steps = [step for step in plan.make(spec, lock).steps if step.asked]
        results = ((step.asked, self._records.step(step.key)) for step in steps)
        return Lock({asked: result.locked for asked, result in results if result})

    def bill(self, name: str) -> Bill:
        """What the image with this name is made of, and why. Raises NotFound."""
        self.prepare()
        bill = self._records.bill(self._found(name).digest)
        if bill is None:
            raise NotFound(f"nobody knows what {name} is made of: it was not built here", hint="whit build builds it")
        return bill

    async def obtain(self, text: str, report: Report, *, fetch: bool = True) -> Image:
        """Find an image in the store, import it from oci:PATH[:NAME] or oci-archive:PATH[:NAME], or pull it.

        Raises:
            NotFound: nobody has it.
            NotLocked: it would have to be pulled, and `fetch` is not set.
            InputError: it is damaged, or in a form that is not supported.
            Unreachable: the registry does not answer.
            DiskFull: there is no space for it.
        """
        with _told():
            return await self._obtain(text, report, fetch=fetch)

    async def _obtain(self, text: str, report: Report, *, fetch: bool) -> Image:
        self.prepare()
        say = _sayer(text, report)
        async with self._alone(text), self._workshop.busy():
            stored = self.layout.find(text)
            if stored:
                return await self._unpacked(text, stored, say)
            wanted = reference.parse(text)
            if isinstance(wanted, PathReference):
                return await self._import(text, archive.source(wanted.path), wanted.name, say)
            stored = self.layout.find(str(wanted))
            if stored is None and not fetch:
                raise not_locked([str(wanted)])
            return await (self._unpacked(str(wanted), stored, say) if stored else self._pull(wanted, say))

    def image(self, name: str) -> Image:
        """A stored image, by its name. Raises NotFound."""
        self.prepare()
        return self._image(name, self._found(name), cached=True)

    def export(self, name: str, target: Target, output: Path) -> Exported:
        """Write a stored image in the form that others take. See export.export."""
        self.prepare()
        return export.export(self.layout, name, self._found(name), target, output)

    def images(self) -> list[Stored]:
        """What is stored under a name, sorted by name."""
        self.prepare()
        return [Stored(name, item.digest, self._size(item)) for name, item in sorted(self.layout.names().items())]

    def remove(self, name: str) -> None:
        """Take the name away; `collect` frees what nothing else needs. Raises NotFound."""
        self.prepare()
        self.layout.untag(name)

    def hold(self, holder: str, image: Image) -> None:
        """Keep the image's layers until `release(holder)`, whatever happens to its name. Survives restarts."""
        self.prepare()
        self._records.lease(holder, [path.name for path in image.layers])

    def release(self, holder: str) -> None:
        """Safe to repeat."""
        self.prepare()
        self._records.release(holder)

    async def collect(self) -> Collected:
        """Remove blobs that no name leads to, and unpacked layers that moreover nobody holds.

        Raises:
            Conflict: something is being built.
        """
        self.prepare()
        return await asyncio.to_thread(self._collect)

    def _found(self, name: str) -> Descriptor:
        descriptor = self.layout.find(name)
        if descriptor is None:
            raise NotFound(f"there is no image {name}", hint="`whit image ls` lists what is stored")
        return descriptor

    def prepare(self) -> None:
        """Make the directories, and remove what a killed process left half done."""
        if self._prepared:
            return
        self.layout.create()
        self.layers_dir.mkdir(exist_ok=True)
        self._records.prepare()
        self._workshop.prepare()
        with contextlib.suppress(BlockingIOError), self._workshop.all_quiet():
            self._remove_leftovers()
        self._prepared = True

    @contextlib.asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        """The same work twice waits for one."""
        turn = self._turns.setdefault(key, _Turn(asyncio.Lock()))
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

    def _known(self, name: str, key: str) -> Image | None:
        descriptor = self._records.image(key)
        if descriptor is None or not self.layout.has(descriptor.digest):
            return None
        image = self._image(name, descriptor, cached=True)
        if not all(path.exists() for path in image.layers):
            return None
        self.layout.tag(name, descriptor)
        return image

    async def _settle(self, step: Step, planned: Plan, say: Say, refresh: bool, fetch: bool) -> StepResult:
        """The step's result, remembered if its layers are still there."""
        async with self._alone(step.key):
            known = None if refresh else self._records.step(step.key)
            if known and all(self.layout.has(item.descriptor.digest) for item in known.layers):
                return known
            async with self._gate:
                result = await self._steps.carry_out(step, planned, say, refresh=refresh, fetch=fetch)
            self._records.keep_step(step.key, result)
            return result

    async def _link(self, planned: Plan, results: Sequence[StepResult], config: ImageConfig, say: Say) -> _Made:
        """The layers with their titles: those of the steps as they are, or what linking leaves of them."""
        pairs = [(step, item) for step, result in zip(planned.steps, results, strict=True) for item in result.layers]
        if not planned.linked:
            bill = await asyncio.to_thread(self._bill, planned, results)
            return _Made([item for _, item in pairs], [step.title for step, _ in pairs], bill)
        linked = await self._steps.link(planned, results, _order(planned, [step for step, _ in pairs], config), say)
        numbers = sorted(linked.layers)
        return _Made([linked.layers[one] for one in numbers], [pairs[one][0].title for one in numbers], linked.bill)

    async def _prove(self, image: Image, spec: BuildSpec, say: Say) -> tuple[str, ...]:
        async with self._workshop.bench() as bench:
            scratch = bench.path / "scratch"
            scratch.mkdir()
            return await prove.prove(image, spec, scratch, say)

    def _assemble(self, made: _Made, config: ImageConfig, labels: dict[str, str]) -> Descriptor:
        """Write configuration and manifest."""
        document = manifest.config_document(config, made.layers, made.titles, labels)
        written = manifest.manifest_document(
            self.layout.put_document(manifest.CONFIG, document), [item.descriptor for item in made.layers], {}
        )
        return self.layout.put_document(manifest.MANIFEST, written)

    def _bill(self, planned: Plan, results: Sequence[StepResult]) -> Bill:
        """Layers that others packed are left out of it: they are opened by nobody but the unpacker."""
        sources = []
        for step, result in zip(planned.steps, results, strict=True):
            origins = self._records.origins(step.key)
            for item in result.layers:
                if not manifest.LAYERS[item.descriptor.media_type]:
                    blob = self.layout.path(item.descriptor.digest)
                    sources.append(merged.Source(blob, step.parts, origins, result.packages))
        found = merged.merge(sources, planned.graph)
        return Bill(found.parts, found.packages, found.billed(list(found.tree), {}))

    async def _import(self, name: str, origin: archive.Source, wanted: str | None, say: Say) -> Image:
        chosen = await asyncio.to_thread(archive.choose, origin, wanted)
        imported = await asyncio.to_thread(archive.bring, origin, chosen, self.layout)
        image = await self._unpacked(name, imported.descriptor, say)
        self.layout.tag(name, Descriptor(manifest.MANIFEST, imported.descriptor.digest, imported.descriptor.size))
        return image.model_copy(update={"cached": image.cached and not imported.fresh})

    async def _pull(self, wanted: RegistryReference, say: Say) -> Image:
        async with self._workshop.bench() as bench:
            if auth := _registry_credentials():
                bench.give(worker.AUTH, auth)
            request = {
                "job": "registry",
                "reference": str(wanted),
                "architecture": manifest.architecture(),
                "verify_tls": not wanted.loopback,
            }
            await self._workshop.run(bench, request, say)
            layout = bench.path / "out" / worker.LAYOUT
            image = await self._import(str(wanted), archive.DirectorySource(layout), None, say)
            return image.model_copy(update={"cached": False})

    async def _unpacked(self, name: str, descriptor: Descriptor, say: Say) -> Image:
        """Unpack the layers that are not there yet."""
        layers = self._layers(descriptor)
        missing = [item for item in layers if not self._directory(item).exists()]
        if missing:
            say(f"unpack {len(missing)} of {len(layers)} layers")
            await _together(self._unpack(item) for item in missing)
        return self._image(name, descriptor, cached=not missing)

    async def _unpack(self, item: Layer) -> None:
        request = {
            "blob": str(self.layout.path(item.descriptor.digest)),
            "compression": manifest.LAYERS[item.descriptor.media_type],
            "diff_id": item.diff_id,
            "destination": str(self._directory(item)),
        }
        async with self._gate:
            ended = await process.run(
                [sys.executable, "-m", unpack.__name__],
                stdin=json.dumps(request).encode(),
                env=module_environment(),
                timeout=_UNPACK_TIMEOUT,
                check=False,
            )
        if ended.returncode == 1 and ended.stdout:
            raise failure(json.loads(ended.stdout))
        if ended.returncode != 0:
            raise Permanent(f"unpacking {item.diff_id} ended with {ended.returncode}: {ended.stderr[-2000:]}")

    def _layers(self, descriptor: Descriptor) -> list[Layer]:
        document = manifest.parse_manifest(self.layout.read(descriptor.digest))
        ids = manifest.parse_diff_ids(self.layout.read(document.config.digest))
        return [Layer(blob, diff_id) for blob, diff_id in zip(document.layers, ids, strict=True)]

    def _directory(self, item: Layer) -> Path:
        return self.layers_dir / item.diff_id.removeprefix("sha256:")

    def _image(self, name: str, descriptor: Descriptor, *, cached: bool) -> Image:
        document = manifest.parse_manifest(self.layout.read(descriptor.digest))
        config = manifest.parse_config(self.layout.read(document.config.digest))
        layers = tuple(self._directory(item) for item in self._layers(descriptor))
        size = sum(item.size for item in document.layers)
        return Image(name=name, digest=descriptor.digest, config=config, layers=layers, size=size, cached=cached)

    def _size(self, descriptor: Descriptor) -> int:
        return sum(item.descriptor.size for item in self._layers(descriptor))

    def _collect(self) -> Collected:
        try:
            with self._workshop.all_quiet():
                self._remove_leftovers()
                return self._remove_unreferenced()
        except BlockingIOError as error:
            raise Conflict("images are being built", hint="collect garbage when they are done") from error

    def _remove_unreferenced(self) -> Collected:
        blobs, layers = self._referenced()
        gone = set(self.layout.digests()) - blobs
        freed = sum(self.layout.path(digest).stat().st_size for digest in gone)
        self._records.forget(gone)
        for digest in gone:
            self.layout.remove_blob(digest)
        unused = [path for path in self.layers_dir.iterdir() if path.name not in layers | self._records.leased()]
        for path in unused:
            _remove_directory(path)
        return Collected(len(gone), len(unused), freed)

    def _referenced(self) -> tuple[set[str], set[str]]:
        """Digests of blobs, and names of unpacked layers, that a name leads to."""
        blobs: set[str] = set()
        layers: set[str] = set()
        for descriptor in self.layout.descriptors():
            document = manifest.parse_manifest(self.layout.read(descriptor.digest))
            blobs |= {descriptor.digest, document.config.digest, *(item.digest for item in document.layers)}
            layers |= {self._directory(item).name for item in self._layers(descriptor)}
        return blobs, layers

    def _remove_leftovers(self) -> None:
        self.layout.remove_leftovers()
        for pattern in (".new-*", ".gone-*"):
            for path in self.layers_dir.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)


def _order(planned: Plan, steps: Sequence[Step], config: ImageConfig) -> Order:
    """What linking starts from: how the service runs the image, and how the checks do. `steps` are by layer."""
    spec = planned.spec
    commands = [*spec.run.commands, *(command for check in spec.check for command in (check.run, check.start))]
    own = (*config.entrypoint, *config.command)
    search = (config.env | spec.run.environment).get("PATH", _PATH).split(":")
    return Order(
        planned.rules,
        tuple(dict.fromkeys(command for command in (*commands, *([] if spec.run.commands else [own])) if command)),
        tuple(search),
        spec.run.working_dir or config.working_dir,
        frozenset(number for number, step in enumerate(steps) if step.kind == "project"),
    )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A system call that failed is told as such; a full disk is an error of its own."""
    try:
        yield
    except OSError as error:
        raise system_failure("write", error) from error


def _remove_directory(path: Path) -> None:
    """Renamed first: a layer is there whole or not at all, also after a crash."""
    gone = path.with_name(f".gone-{path.name}")
    path.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _sayer(subject: str, report: Report) -> Say:
    return lambda step: report(Progress(subject=subject, step=step))


def _say_skipped(results: Sequence[StepResult], say: Say) -> None:
    skipped = [script for result in results for script in result.skipped_scripts]
    if skipped:
        say(f"{len(skipped)} maintainer scripts were not run (image label whit.skipped-scripts)")


def _config(planned: Plan, results: Sequence[StepResult]) -> ImageConfig:
    """Defaults of the parts: a plain Python project works in /app, one with a single command runs it."""
    config = ImageConfig()
    for result in results:
        if result.base:
            config = manifest.parse_config({"config": result.base})
    env = {"PATH": _PATH} | config.env
    for result in results:
        env |= result.env
    update: dict[str, Any] = {}
    for project in planned.projects:
        env |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        if project.command:
            update["command"] = project.command
        if not project.installed:
            update["working_dir"] = "/app"
    return config.model_copy(update={**update, "env": env})


def _labels(results: Sequence[StepResult]) -> dict[str, str]:
    packages = [one.pinned for result in results for one in result.packages if one.kind == "deb"]
    skipped = [name for result in results for name in result.skipped_scripts]
    labels = {"whit.packages": " ".join(packages), "whit.skipped-scripts": " ".join(skipped)}
    return {name: value for name, value in labels.items() if value}


def _registry_credentials() -> bytes:
    """The file that skopeo would use for this user (containers-auth.json(5)); the worker is another user."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", f"/run/containers/{os.geteuid()}")
    candidates = [
        Path(os.environ.get("REGISTRY_AUTH_FILE", "/nonexistent")),
        Path(runtime) / "auth.json",
        Path(runtime) / "containers/auth.json",
        Path.home() / ".config/containers/auth.json",
        Path.home() / ".docker/config.json",
    ]
    return next((path.read_bytes() for path in candidates if path.is_file()), b"")


async def _together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once. The first failure stops the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            started = [tasks.create_task(item) for item in work]
    except ExceptionGroup as group:  # Python 3.11.2 wraps what `except*` raises in a group
        first = next((error for error in group.exceptions if isinstance(error, WhitError | OSError)), group)
        raise first from None
    return [task.result() for task in started]
