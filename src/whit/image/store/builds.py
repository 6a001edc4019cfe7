"""Builds: from a plan to an image of the store, or to the one that the same plan was made into before.

What a plan says is building/plan.py's, how a step is carried out building/steps.py's; what else there is to do with
images, images.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from whit.image.building.assembly import Made, config_of, labels, order
from whit.image.building.plan import Plan, Step
from whit.image.building.records import Records, StepResult
from whit.image.building.steps import Say, Steps
from whit.image.linking import prove
from whit.image.oci import manifest
from whit.image.oci.layout import Layout
from whit.image.oci.manifest import Descriptor
from whit.image.provenance import merged
from whit.image.provenance.bill import Bill
from whit.image.sandbox.workshop import Workshop
from whit.image.store.layers import Layers
from whit.image.store.turns import Turns, together
from whit.model.build import BuildSpec
from whit.model.image import Image, ImageConfig


class Builds:
    """One object serves many at the same time."""

    def __init__(self, layout: Layout, layers: Layers, workshop: Workshop, records: Records, turns: Turns) -> None:
        self.layout = layout
        self._layers = layers
        self._workshop = workshop
        self._records = records
        self._turns = turns
        self._steps = Steps(layout, workshop, records)

    def known(self, name: str, key: str) -> Image | None:
        """What a plan with this key was made into, if all of it is here; it has this name from now on."""
        descriptor = self._records.image(key)
        image = self._layers.here(name, descriptor)
        if descriptor and image:
            self.layout.tag(name, descriptor)
        return image

    async def build(self, name: str, planned: Plan, say: Say, *, refresh: bool, fetch: bool, observe: bool) -> Image:
        """As ImageStore.build has it."""
        async with self._turns.alone(planned.key), self._workshop.busy():
            known = None if refresh or observe else await asyncio.to_thread(self.known, name, planned.key)
            if known:
                return known
            results = await together(self._settle(step, planned, say, refresh, fetch) for step in planned.steps)
            config = config_of(planned, results)
            if observe:
                seen = await self._observe(name, planned, results, say)
                planned = replace(planned, observed=seen.opened, calls=seen.calls)
            made = await self._link(planned, results, config, say)
            descriptor = await asyncio.to_thread(
                self._assemble, made, config, labels(results), planned.spec.architecture
            )
            _say_skipped(results, say)
            image = await self._layers.unpacked(name, descriptor, say)
            proof = await self._prove(image, planned.spec, say)
            self._records.keep_bill(descriptor.digest, replace(made.bill, checks=proof.checks, calls=planned.calls))
            self.layout.tag(name, descriptor)
            self._records.keep_image(planned.key, descriptor)
            return image

    async def _settle(self, step: Step, planned: Plan, say: Say, refresh: bool, fetch: bool) -> StepResult:
        """The step's result, remembered if its layers are still there."""
        async with self._turns.alone(step.key):
            known = None if refresh else self._records.step(step.key)
            if known and all(self.layout.has(item.descriptor.digest) for item in known.layers):
                return known
            async with self._turns.heavy:
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
        image = await self._layers.unpacked(name, descriptor, say)
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


def _say_skipped(results: Sequence[StepResult], say: Say) -> None:
    skipped = [script for result in results for script in result.skipped_scripts]
    if skipped:
        say(f"{len(skipped)} maintainer scripts were not run (image label whit.skipped-scripts)")
