"""One cluster for all tests of policy."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from support.cluster import Cluster
from support.leftovers import leftovers_after
from support.whit import Whit

from whit.base.settings import Settings


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=tmp_path_factory.mktemp("state"))
    whit = Whit(settings)
    made = Cluster(whit, tmp_path_factory.mktemp("responder"))
    try:
        made.start()
        yield made
    finally:
        whit.clean()
    assert not (left := leftovers_after(settings)), left
