"""Images of instances are held while these are there: garbage collection passes them by."""

from __future__ import annotations

from pathlib import Path

from whit.base.settings import Settings
from whit.control.images import HoldImage, ReleaseImage
from whit.image.store.images import ImageStore
from whit.model.build import BuildSpec, DirectoryPart
from whit.model.operation import carry_out, take_back


async def test_held_layers_outlive_their_name(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index").write_text("hello")
    store = ImageStore(settings)
    image = await store.build("web", BuildSpec(parts=(DirectoryPart(path=tmp_path / "site"),)), lambda progress: None)
    hold = HoldImage(store, "shop-web-1", image)
    await carry_out([hold, hold])
    store.remove("web")
    await store.collect()
    assert image.layers[0].exists()
    await carry_out([ReleaseImage(store, "shop-web-1"), ReleaseImage(store, "shop-web-1")])
    await store.collect()
    assert not image.layers[0].exists()


async def test_a_start_that_fails_lets_go(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    store = ImageStore(settings)
    image = await store.build("web", BuildSpec(parts=(DirectoryPart(path=tmp_path / "site"),)), lambda progress: None)
    hold = HoldImage(store, "shop-web-1", image)
    await hold.do()
    await take_back([hold, hold])
    store.remove("web")
    assert (await store.collect()).layers == 1
    assert hold.describe() == "hold image web for shop-web-1"
