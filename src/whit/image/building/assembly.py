"""Assembly: what an image is before it has a manifest: layers, configuration, labels, and how it is linked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whit.image.building.plan import Plan, Step
from whit.image.building.records import StepResult
from whit.image.linking.link import Order
from whit.image.oci import manifest
from whit.image.oci.manifest import Layer
from whit.image.provenance.bill import Bill
from whit.model.image import ImageConfig

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Made:
    """The layers of an image before it has a manifest."""

    layers: list[Layer]
    titles: list[str]
    bill: Bill


def order(planned: Plan, steps: Sequence[Step], config: ImageConfig) -> Order:
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
        frozenset(planned.observed),
    )


def config_of(planned: Plan, results: Sequence[StepResult]) -> ImageConfig:
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


def labels(results: Sequence[StepResult]) -> dict[str, str]:
    packages = [one.pinned for result in results for one in result.packages if one.kind == "deb"]
    skipped = [name for result in results for name in result.skipped_scripts]
    labels = {"whit.packages": " ".join(packages), "whit.skipped-scripts": " ".join(skipped)}
    return {name: value for name, value in labels.items() if value}
