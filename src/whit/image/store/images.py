"""Images: those of a node, built, imported or pulled, and unpacked for the runtime.

How one is built is builds.py's, where its layers lie layers.py's, what others get of it export.py's, and what nobody
needs any more garbage.py's. One object serves many at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from whit.base.errors import Conflict, NotFound, system_failure
from whit.base.settings import Settings
from whit.image.building import plan, worker
from whit.image.building.plan import Plan
from whit.image.building.records import Records
from whit.image.building.steps import Say
from whit.image.linking.closure import OBSERVED
from whit.image.oci import archive, manifest, reference
from whit.image.oci.layout import Layout
from whit.image.oci.manifest import Descriptor
from whit.image.oci.reference import PathReference, RegistryReference
from whit.image.provenance.bill import Bill
from whit.image.rootfs.tree import Entry
from whit.image.sandbox.workshop import Workshop
from whit.image.store import export, garbage
from whit.image.store.builds import Builds
from whit.image.store.export import Exported, Target
from whit.image.store.garbage import Collected
from whit.image.store.layers import Layers
from whit.image.store.leases import Leases
from whit.image.store.turns import Turns
from whit.image.trust import signing
from whit.image.trust.keys import PrivateKey, PublicKey
from whit.model.build import BuildSpec
from whit.model.image import Image
from whit.model.lock import Lock, Locked, asked_run, not_locked
from whit.model.progress import Progress, Report


@dataclass(frozen=True)
class Stored:
    """A line of the list of images."""

    name: str
    digest: str
    size: int


class ImageStore:
    """Implements model.image.Images."""

    def __init__(self, settings: Settings) -> None:
        self.layout = Layout(settings.images_dir)
        self.layers_dir = settings.images_dir.parent / "layers"
        self._turns = Turns()
        self._layers = Layers(self.layout, self.layers_dir, self._turns)
        self._workshop = Workshop(settings.state_dir / "builds")
        self._records = Records(settings.state_dir / "builds" / "records")
        self._leases = Leases(self._records.root / "leases")
        self._builds = Builds(self.layout, self._layers, self._workshop, self._records, self._turns)
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
            say = _sayer(name, report)
            return await self._builds.build(name, planned, say, refresh=refresh, fetch=fetch, observe=observe)

    async def built(self, name: str, spec: BuildSpec, lock: Lock | None = None) -> Image | None:
        """What `build` has made of the same parts, if all of it is here.

        Raises:
            InputError: a part does not exist.
            DiskFull: there is no space for its name.
        """
        with _told():
            planned = await self._plan(name, spec, lock, fetch=True)
            async with self._workshop.busy():
                return await asyncio.to_thread(self._builds.known, name, planned.key)

    async def _plan(self, name: str, spec: BuildSpec, lock: Lock | None, *, fetch: bool) -> Plan:
        self.prepare()
        planned = await asyncio.to_thread(plan.make, spec, lock)
        if not fetch:
            plan.require_locked(planned)
        seen = lock.find(asked_run(name)) if lock else None
        return replace(planned, observed=seen.files, calls=seen.calls) if seen else planned

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
        async with self._turns.alone(text), self._workshop.busy():
            stored = self.layout.find(text)
            if stored:
                return await self._layers.unpacked(text, stored, say)
            wanted = reference.parse(text)
            if isinstance(wanted, PathReference):
                return await self._import(text, archive.source(wanted.path), wanted.name, say)
            stored = self.layout.find(str(wanted))
            if stored is None and not fetch:
                raise not_locked([str(wanted)])
            return await (self._layers.unpacked(str(wanted), stored, say) if stored else self._pull(wanted, say))

    async def obtained(self, text: str) -> Image | None:
        """What `obtain` would find without importing, pulling or unpacking anything."""
        with _told():
            self.prepare()
            return await asyncio.to_thread(lambda: self._layers.here(text, self.layout.find(text)))

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
        self._leases.lease(holder, [path.name for path in image.layers])

    def release(self, holder: str) -> None:
        """Safe to repeat."""
        self.prepare()
        self._leases.release(holder)

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
        self._leases.prepare()
        self._workshop.prepare()
        with contextlib.suppress(BlockingIOError), self._workshop.all_quiet():
            garbage.remove_leftovers(self.layout, self.layers_dir)
        self._prepared = True

    async def _import(self, name: str, origin: archive.Source, wanted: str | None, say: Say) -> Image:
        chosen = await asyncio.to_thread(archive.choose, origin, wanted)
        imported = await asyncio.to_thread(archive.bring, origin, chosen, self.layout)
        await asyncio.to_thread(signing.bring, origin, self.layout, chosen.digest)
        image = await self._layers.unpacked(name, imported.descriptor, say)
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

    def _collect(self) -> Collected:
        try:
            with self._workshop.all_quiet():
                garbage.remove_leftovers(self.layout, self.layers_dir)
                return garbage.collect(self.layout, self.layers_dir, self._records, self._leases)
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
