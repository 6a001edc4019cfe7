"""What bringing an app up would do, as far as it can be known without building anything. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from whit.control.desired import Wanted
from whit.control.plan import Action, Remove, Seen, Start
from whit.model.app import AppSpec
from whit.model.image import Image, ImageConfig
from whit.model.release import Release


def known_images(spec: AppSpec, before: Release | None) -> tuple[dict[str, Image], list[str]]:
    """The image of each service, a stand-in where it has yet to be made, and a line for each of those."""
    found: dict[str, Image] = {}
    lines: list[str] = []
    for name, service in spec.services.items():
        if service.is_elsewhere:
            continue
        known = before.spec.services.get(name) if before else None
        if before and known and name in before.images and (known.image, known.build) == (service.image, service.build):
            found[name] = before.images[name]
            continue
        lines.append(f"build the image of {name}" if service.build else f"obtain the image {service.image} for {name}")
        found[name] = _stand_in(f"{spec.name}-{name}")
    return found, lines


def _stand_in(name: str) -> Image:
    """Runs `the image's command` where the app file says nothing."""
    return Image(name=name, digest="", config=ImageConfig(command=("the image's command",)), layers=(), size=0)


def actions(app: str, wanted: Mapping[str, Wanted], seen: Mapping[str, Seen]) -> list[Action]:
    """Everything that would be done in the end, in an order that is possible."""
    there = {name: one.status for name, one in seen.items() if one.status.app == app}
    changed = [name for name, one in wanted.items() if name in there and there[name].revision != one.spec.revision]
    gone = [name for name in there if name not in wanted]
    new = [name for name in wanted if name not in there]
    removals: list[Action] = [Remove(name, "changed") for name in changed]
    removals += [Remove(name, "not wanted") for name in gone]
    return [*removals, *(Start(name) for name in (*changed, *new))]
