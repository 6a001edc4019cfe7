"""Images: those of a node, built, imported or pulled, and unpacked for the runtime.

What an image is made of is plan.py's, how a layer is made steps.py's; here is what is known already, what is
unpacked, and what is garbage. One object serves many concurrent builds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from whit.base.errors import Conflict, NotFound, WhitError, system_failure
from whit.base.settings import Settings
from whit.image.building import plan, worker
from whit.image.building.assembly import Made, config_of, labels, order
from whit.image.building.plan import Plan, Step
from whit.image.building.records import Records, StepResult
from whit.image.building.steps import Say, Steps
from whit.image.linking import prove
from whit.image.linking.closure import OBSERVED
from whit.image.oci import archive, manifest, reference
from whit.image.oci.layout import Layout
from whit.image.oci.manifest import Descriptor, Layer
from whit.image.oci.reference import PathReference, RegistryReference
from whit.image.provenance import merged
from whit.image.provenance.bill import Bill
from whit.image.rootfs.tree import Entry
from whit.image.sandbox.workshop import Workshop
from whit.image.store import export, garbage
from whit.image.store.export import Exported, Target
from whit.image.store.garbage import Collected
from whit.image.store.layers import Layers
from whit.image.trust import signing
from whit.image.trust.keys import PrivateKey, PublicKey
from whit.model.build import BuildSpec
from whit.model.image import Image, ImageConfig
from whit.model.lock import Lock, Locked, asked_run, not_locked
from whit.model.progress import Progress, Report

_AT_ONCE = 2
"""Layers unpacked and steps carried out at the same time: both keep a CPU busy."""

T = TypeVar("T")


@dataclass(frozen=True)
class Stored:
    """A line of the list of images."""

    name: str
    digest: str
    size: int


@dataclass
class _Turn:
    """Who works on a key, and how many want to."""

    lock: asyncio.Lock
    users: int = 0


class ImageStore:
    """Implements model.image.Images."""

    def __init__(self, settings: Settings) -> None:
        self.layout = Layout(settings.images_dir)
        self.layers_dir = settings.images_dir.parent / "layers"
        self._layers = Layers(self.layout, self.layers_dir)
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
        observe: bool = False,
    ) -> Image:
        """Link the parts, or find the result of the same parts, and unpack it.

        What `lock` has is taken as it says. Without `fetch` everything must be in it, and here. With `observe` the
        checks are run in the whole image first, and what is opened meanwhile stays in closures.

        Raises:
            InputError: a part does not exist or cannot be linked, or the image fails its own checks.
            NotLocked: something would have to be fetched and may not.
            DiskFull: there is no space for it; what was begun is not visible.
            Unavailable, Permanent, Unreachable: the package sources cannot be used.
        """
        with _told():
            planned = await self._plan(name, spec, lock, fetch=fetch)
            return await self._build(name, planned, report, refresh=refresh, fetch=fetch, observe=observe)

    async def built(self, name: str, spec: BuildSpec, lock: Lock | None = None) -> Image | None:
        """What `build` has made of the same parts, if all of it is here.

        Raises:
            InputError: a part does not exist.
            DiskFull: there is no space for its name.
        """
        with _told():
            planned = await self._plan(name, spec, lock, fetch=True)
            async with self._workshop.busy():
                return await asyncio.to_thread(self._known, name, planned.key)

    async def _plan(self, name: str, spec: BuildSpec, lock: Lock | None, *, fetch: bool) -> Plan:
        self.prepare()
        planned = await asyncio.to_thread(plan.make, spec, lock)
        if not fetch:
            plan.require_locked(planned)
        seen = lock.find(asked_run(name)) if lock else None
        return replace(planned, observed=seen.files, calls=seen.calls) if seen else planned

    async def _build(
        self, name: str, planned: Plan, report: Report, *, refresh: bool, fetch: bool, observe: bool
    ) -> Image:
        async with self._alone(planned.key), self._workshop.busy():
            known = None if refresh or observe else await asyncio.to_thread(self._known, name, planned.key)
            if known:
                return known
            say = _sayer(name, report)
            results = await _together(self._settle(step, planned, say, refresh, fetch) for step in planned.steps)
            config = config_of(planned, results)
            if observe:
                seen = await self._observe(name, planned, results, say)
                planned = replace(planned, observed=seen.opened, calls=seen.calls)
            made = await self._link(planned, results, config, say)
            descriptor = await asyncio.to_thread(
                self._assemble, made, config, labels(results), planned.spec.architecture
            )
            _say_skipped(results, say)
            image = await self._unpacked(name, descriptor, say)
            proof = await self._prove(image, planned.spec, say)
            self._records.keep_bill(descriptor.digest, replace(made.bill, checks=proof.checks, calls=planned.calls))
            self.layout.tag(name, descriptor)
            self._records.keep_image(planned.key, descriptor)
            return image

    def locked(self, spec: BuildSpec, lock: Lock | None = None) -> Lock:
        """What a build of these parts, which was done, was made of."""
        steps = [step for step in plan.make(spec, lock).steps if step.asked]
        results = ((step.asked, self._records.step(step.key)) for step in steps)
        return Lock({asked: result.locked for asked, result in results if result})

    def observed(self, name: str) -> Lock:
        """What only an observed run has found of an image, if any: files, and system calls."""
        bill = self.bill(name)
        files = tuple(file.path for file in bill.files if file.reason == OBSERVED)
        return Lock({asked_run(name): Locked(files=files, calls=bill.calls)} if files or bill.calls else {})

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

    async def obtained(self, text: str) -> Image | None:
        """What `obtain` would find without importing, pulling or unpacking anything."""
        with _told():
            self.prepare()
            return await asyncio.to_thread(lambda: self._here(text, self.layout.find(text)))

    def image(self, name: str) -> Image:
        """A stored image, by its name. Raises NotFound."""
        self.prepare()
        return self._layers.image(name, self._found(name), cached=True)

    def export(self, name: str, target: Target, output: Path) -> Exported:
        """Write a stored image in the form that others take. See export.export."""
        self.prepare()
        return export.export(self.layout, name, self._found(name), target, output)

    def files(self, name: str, scratch: Path) -> list[Entry]:
        """What is in a stored image, sorted. Layers that others packed are unpacked to `scratch`, and stay there."""
        self.prepare()
        return list(export.root(self.layout, self._found(name), scratch))

    def labels(self, name: str) -> dict[str, str]:
        """The labels of a stored image's configuration. Raises NotFound."""
        self.prepare()
        document = manifest.parse_manifest(self.layout.read(self._found(name).digest))
        run = self.layout.read(document.config.digest).get("config") or {}
        return {str(key): str(value) for key, value in (run.get("Labels") or {}).items()}

    def images(self) -> list[Stored]:
        """What is stored under a name, sorted by name."""
        self.prepare()
        found = sorted(self.layout.names().items())
        return [
            Stored(name, item.digest, self._layers.size(item))
            for name, item in found
            if not manifest.is_signature(name)
        ]

    def sign(self, name: str, key: PrivateKey) -> str:
        """Add a signature to the image with this name; the name of the signatures. Raises NotFound."""
        self.prepare()
        return signing.sign(self.layout, self._found(name), name, key).annotations[manifest.REF_NAME]

    def verify(self, name: str, wanted: Sequence[PublicKey], *, digest: str = "", deep: bool = False) -> PublicKey:
        """Which of the keys vouches for the image with this name, or of this digest, whoever has the name by now.

        With `deep` the blobs are read too. Raises NotFound, DigestMismatch, Untrusted.
        """
        self.prepare()
        descriptor = Descriptor(manifest.MANIFEST, digest, 0) if digest else self._found(name)
        if deep:
            signing.verify_blobs(self.layout, descriptor)
        return signing.verify(self.layout, descriptor, name, wanted)

    def remove(self, *names: str) -> None:
        """Take all these names away, or none; `collect` frees what nothing else needs. Raises NotFound."""
        self.prepare()
        for name in names:
            self._found(name)
        for name in names:
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
            garbage.remove_leftovers(self.layout, self.layers_dir)
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
        image = self._here(name, descriptor)
        if descriptor and image:
            self.layout.tag(name, descriptor)
        return image

    def _here(self, name: str, descriptor: Descriptor | None) -> Image | None:
        """The image, if it is stored and unpacked."""
        if descriptor is None or not self.layout.has(descriptor.digest):
            return None
        image = self._layers.image(name, descriptor, cached=True)
        return image if all(path.exists() for path in image.layers) else None

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

    async def _link(self, planned: Plan, results: Sequence[StepResult], config: ImageConfig, say: Say) -> Made:
        """The layers with their titles: those of the steps as they are, or what linking leaves of them."""
        pairs = [(step, item) for step, result in zip(planned.steps, results, strict=True) for item in result.layers]
        if not planned.linked:
            bill = await asyncio.to_thread(self._bill, planned, results)
            return Made([item for _, item in pairs], [step.title for step, _ in pairs], bill)
        linked = await self._steps.link(planned, results, order(planned, [step for step, _ in pairs], config), say)
        numbers = sorted(linked.layers)
        return Made([linked.layers[one] for one in numbers], [pairs[one][0].title for one in numbers], linked.bill)

    async def _observe(self, name: str, planned: Plan, results: Sequence[StepResult], say: Say) -> prove.Proof:
        """What the checks do in the whole image: files and system calls. It has no name, and is garbage afterwards."""
        config = config_of(planned, results)
        whole = await self._link(replace(planned, rules={}), results, config, say)
        descriptor = await asyncio.to_thread(self._assemble, whole, config, {})
        image = await self._unpacked(name, descriptor, say)
        return await self._prove(image, planned.spec, say, observe=True)

    async def _prove(self, image: Image, spec: BuildSpec, say: Say, *, observe: bool = False) -> prove.Proof:
        async with self._workshop.bench() as bench:
            scratch = bench.path / "scratch"
            scratch.mkdir()
            return await prove.prove(image, spec, scratch, say, observe=observe)

    def _assemble(self, made: Made, config: ImageConfig, labels: dict[str, str], architecture: str = "") -> Descriptor:
        """Write configuration and manifest."""
        document = manifest.config_document(config, made.layers, made.titles, labels, architecture)
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
        await asyncio.to_thread(signing.bring, origin, self.layout, chosen.digest)
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
                "repository": f"{wanted.host}/{wanted.name}",
                "architecture": manifest.architecture(),
                "verify_tls": not wanted.loopback,
            }
            await self._workshop.run(worker.__name__, bench, request, say)
            layout = bench.path / "out" / worker.LAYOUT
            image = await self._import(str(wanted), archive.DirectorySource(layout), None, say)
            return image.model_copy(update={"cached": False})

    async def _unpacked(self, name: str, descriptor: Descriptor, say: Say) -> Image:
        """Unpack the layers that are not there yet."""
        layers = self._layers.of(descriptor)
        missing = [item for item in layers if not self._layers.directory(item).exists()]
        if missing:
            say(f"unpack {len(missing)} of {len(layers)} layers")
            await _together(self._unpack(item) for item in missing)
        return self._layers.image(name, descriptor, cached=not missing)

    async def _unpack(self, item: Layer) -> None:
        async with self._gate:
            await self._layers.unpack(item)

    def _collect(self) -> Collected:
        try:
            with self._workshop.all_quiet():
                garbage.remove_leftovers(self.layout, self.layers_dir)
                return garbage.collect(self.layout, self.layers_dir, self._records)
        except BlockingIOError as error:
            raise Conflict("images are being built", hint="collect garbage when they are done") from error


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """A system call that failed is told as such; a full disk is an error of its own."""
    try:
        yield
    except OSError as error:
        raise system_failure("write", error) from error


def _sayer(subject: str, report: Report) -> Say:
    return lambda step: report(Progress(subject=subject, step=step))


def _say_skipped(results: Sequence[StepResult], say: Say) -> None:
    skipped = [script for result in results for script in result.skipped_scripts]
    if skipped:
        say(f"{len(skipped)} maintainer scripts were not run (image label whit.skipped-scripts)")


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
