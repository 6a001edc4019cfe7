"""The example of the README is read as it is meant."""

from __future__ import annotations

from pathlib import Path

from whit.formats.app.appfile import load_app
from whit.model.build import DebianPart, PythonPart
from whit.model.service import PortSpec, UseSpec

SHOP = Path(__file__).parents[2] / "examples" / "shop"


def test_the_shop_is_read() -> None:
    app = load_app(SHOP, environment={})
    assert (app.name, app.mode, set(app.services)) == ("shop", "declared", {"web", "api", "db", "cache"})
    web, api = app.services["web"], app.services["api"]
    assert web.ports == (PortSpec(target=8080, published=8080),)
    assert web.uses == (UseSpec(service="api", port=8000, protocol="tcp"),)
    assert web.build
    assert web.build.parts[0] == DebianPart(name="nginx", label="debian:nginx")
    assert api.build
    assert api.build.parts == (PythonPart(path=SHOP / "api", label="./api"),)
    assert api.limits.memory == 512 << 20
    assert app.services["cache"].command == (
        *("redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no"),
    )
    assert app.services["db"].healthcheck
    assert app.services["db"].healthcheck.start_interval == 0.25


def test_the_port_comes_from_the_environment() -> None:
    app = load_app(SHOP / "whit.yaml", environment={"SHOP_PORT": "9000"})
    assert app.services["web"].ports[0].published == 9000
