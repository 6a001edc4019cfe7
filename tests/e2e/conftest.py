"""The shop, brought up once for all tests here by the command that a person types."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from support.leftovers import leftovers_after
from support.slowness import patient
from support.whit import SHOP, Whit, free_port

from whit.base.settings import Settings


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whit]:
    """The example, up and healthy, with a published port of its own in `environment["SHOP_PORT"]`."""
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("state"))
    whit = Whit(settings, {"SHOP_PORT": str(free_port())})
    try:
        whit("up", "--timeout", str(patient(300)), str(SHOP), timeout=600)
        yield whit
    finally:
        whit("down", "shop", check=False)
        whit.clean()
    assert not (left := leftovers_after(settings)), left
