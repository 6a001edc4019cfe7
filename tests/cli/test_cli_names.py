"""What a typed name means, with one app and with several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from whit.base.errors import Conflict, InputError, NotFound
from whit.cli import names
from whit.cli.names import Selection
from whit.model.status import AppStatus


def app(name: str, **services: list[str]) -> AppStatus:
    """`app("shop", api=["running", "exited"])`: services with the states of their instances."""
    instances: list[dict[str, Any]] = [
        {"name": f"{name}-{service}-{index}", "app": name, "service": service, "state": state}
        for service, states in services.items()
        for index, state in enumerate(states, 1)
    ]
    listed = [{"app": name, "name": each, "state": "running", "wanted": 1, "running": 1} for each in services]
    return AppStatus.model_validate(
        {"name": name, "mode": "declared", "state": "running", "services": listed, "instances": instances}
    )


SHOP = app("shop", web=["running"], api=["exited", "running", "running"], db=["exited"])
BLOG = app("blog", web=["running"], pages=["running"])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ([], Selection("shop")),
        (["shop"], Selection("shop")),
        (["shop", "api", "db"], Selection("shop", ("api", "db"))),
        (["api"], Selection("shop", ("api",))),
        (["shop/api"], Selection("shop", ("api",))),
        (["shop-api-1"], Selection("shop", ("shop-api-1",))),
        (["shop", "shop-api-1"], Selection("shop", ("shop-api-1",))),
        (["pages"], Selection("blog", ("pages",))),
        (["web"], Selection("shop", ("web",))),
    ],
)
def test_names_with_an_app_file_at_hand(given: list[str], meant: Selection) -> None:
    assert names.select(given, [SHOP, BLOG], "shop") == meant


def test_the_only_app_is_meant() -> None:
    assert names.select([], [SHOP], "") == Selection("shop")


@pytest.mark.parametrize(
    ("attempt", "error", "said"),
    [
        (lambda: names.choose_app([], ""), NotFound, "no app is up"),
        (lambda: names.choose_app([SHOP, BLOG], ""), InputError, "blog, shop"),
        (lambda: names.choose_app([BLOG], "shop"), NotFound, "blog"),
        (lambda: names.select(["web"], [SHOP, BLOG], ""), InputError, "shop/web, blog/web"),
        (lambda: names.select(["api", "pages"], [SHOP, BLOG], ""), InputError, "blog, shop"),
        (lambda: names.select(["shop", "pages"], [SHOP, BLOG], ""), NotFound, "shop/api, shop/db, shop/web"),
        (lambda: names.select(["nothing"], [SHOP], ""), NotFound, "shop/api"),
        (lambda: names.find_instance("db", [SHOP], ""), Conflict, "shop/db"),
    ],
)
def test_errors_name_what_there_is(attempt: Callable[[], object], error: type[Exception], said: str) -> None:
    with pytest.raises(error) as caught:
        attempt()
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "instance"),
    [
        ("api", "shop-api-2"),
        ("shop/api", "shop-api-2"),
        ("shop-api-3", "shop-api-3"),
        ("shop-db-1", "shop-db-1"),
    ],
)
def test_a_service_is_its_first_running_instance(given: str, instance: str) -> None:
    assert names.find_instance(given, [SHOP, BLOG], "").name == instance


@pytest.mark.parametrize(
    ("given", "party"),
    [("api", "shop/api"), ("shop-api-1", "shop-api-1"), ("world", "world"), ("203.0.113.7", "203.0.113.7")],
)
def test_parties_of_flows(given: str, party: str) -> None:
    assert names.peer(given, [SHOP, BLOG], "") == party
