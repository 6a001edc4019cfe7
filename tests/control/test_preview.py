"""What a dry run says: images that have to be made, and actions in a possible order."""

from __future__ import annotations

from pathlib import Path

from whit.control.plan import Remove, Seen, Start
from whit.control.preview import actions, known_images
from whit.model.app import AppSpec
from whit.model.image import Image, ImageConfig
from whit.model.instance import InstanceStatus
from whit.model.release import Release

IMAGE = Image(name="shop-a", digest="sha256:1", config=ImageConfig(), layers=(Path("/l"),), size=1)


def app(**images: str) -> AppSpec:
    services = {name: {"image": image} for name, image in images.items()}
    return AppSpec.model_validate({"name": "shop", "directory": "/", "services": services})


def status(service: str, revision: str) -> Seen:
    return Seen(InstanceStatus(name=f"shop-{service}-1", app="shop", service=service, revision=revision), {})


def test_only_images_that_are_not_known_have_a_line() -> None:
    before = Release(spec=app(a="one"), images={"a": IMAGE})
    found, lines = known_images(app(a="one", b="two"), before)
    assert found["a"] is IMAGE
    assert lines == ["obtain the image two for b"]


def test_a_changed_image_is_not_known() -> None:
    before = Release(spec=app(a="one"), images={"a": IMAGE})
    assert known_images(app(a="other"), before)[1] == ["obtain the image other for a"]


def test_what_is_not_wanted_goes() -> None:
    assert actions("shop", {}, {"shop-a-1": status("a", "r1")}) == [Remove("shop-a-1", "not wanted")]
    assert actions("other", {}, {"shop-a-1": status("a", "r1")}) == []
    assert not any(isinstance(action, Start) for action in actions("shop", {}, {}))
