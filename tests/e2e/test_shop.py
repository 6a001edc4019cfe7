"""The spine, end to end: build, start, mesh, observe, and survive the agent's death."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from support.load import Load, Tally
from support.shop import call, rows
from support.slowness import patient
from support.whit import SHOP, Whit

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

LOAD_SHARE = 0.6
"""Of the measured saturation."""


def test_what_runs_is_told(shop: Whit) -> None:
    instances = shop.json("ps", "shop")
    assert {(i["service"], i["state"], i["health"]) for i in instances} == {
        (service, "running", "healthy") for service in ("web", "api", "db", "cache")
    }
    for instance in instances:
        assert {
            "app",
            "service",
            "instance",
            "state",
            "health",
            "isolation",
            "addresses",
            "ports",
            "pid",
            "image",
        } <= set(instance)


def test_second_up_changes_nothing(shop: Whit, record_number: Callable[[str, object], None]) -> None:
    before = {i["instance"]: i["pid"] for i in shop.json("ps", "shop")}
    began = time.monotonic()
    result = shop.json("up", str(SHOP))
    record_number("second up, seconds", round(time.monotonic() - began, 2))
    assert result["changed"] is False
    assert {i["instance"]: i["pid"] for i in shop.json("ps", "shop")} == before


def test_order_is_in_postgresql_also_after_down_and_up(shop: Whit) -> None:
    order = call(shop, "/orders", {"item": "teapot", "quantity": 2})
    before = rows(shop)
    assert before >= 1
    shop("down", "--timeout", str(patient(60)), "shop")
    assert shop.json("ps") == []
    shop("up", "--timeout", str(patient(300)), str(SHOP))
    assert rows(shop) == before
    assert call(shop, f"/orders/{order['id']}") == {"id": order["id"], "item": "teapot", "quantity": 2}


PROBE = "import socket; socket.create_connection(('db', 5432), timeout=30); print('connected')"


def test_undeclared_edge_is_dropped_named_and_predicted(shop: Whit) -> None:
    explanation = shop.json("explain", "web", "db", "5432")
    assert explanation["verdict"] == "deny"

    probe = shop("exec", "web", "busybox", "nc", "-w", "1", "db", "5432", check=False)
    assert probe.returncode != 0
    drops = [
        flow
        for flow in shop.lines("flows", "--verdict", "deny")
        if flow["source"]["name"] == "shop/web" and flow["destination"]["name"] == "shop/db"
    ]
    assert drops, "no flow event names the drop"
    assert drops[-1]["reason"] == explanation["reason"]
    assert drops[-1]["rule"] == explanation["rule"] != 0
    assert drops[-1]["rule_text"] == explanation["rule_text"] != ""


def test_declared_edge_is_open_and_predicted(shop: Whit) -> None:
    explanation = shop.json("explain", "api", "db", "5432")
    assert explanation["verdict"] == "allow"
    assert shop("exec", "api", "python3", "-c", PROBE).stdout.strip() == "connected"
    assert any(
        flow["verdict"] == "allow"
        for flow in shop.lines("flows", "--verdict", "allow")
        if flow["source"]["name"] == "shop/api" and flow["destination"]["name"] == "shop/db"
    )


def test_agent_killed_under_load(
    shop: Whit, sample: Callable[[int, int], int], record_number: Callable[[str, object], None]
) -> None:
    """kill -9 again and again at 60 % of saturation: no request fails, no order is lost, names resolve all the time."""
    rounds = sample(10, 200)
    host, port = "127.0.0.1", int(shop.environment["SHOP_PORT"])
    saturation = asyncio.run(Load(host, port).saturate(5))
    assert not saturation.failures, saturation.failures
    before = rows(shop)
    pids = {i["instance"]: i["pid"] for i in shop.json("ps", "shop")}
    tally, unresolved = asyncio.run(_kill_under_load(shop, host, port, saturation.rate * LOAD_SHARE, rounds))

    record_number("saturation, requests/s", round(saturation.rate))
    record_number("kill -9: rounds", rounds)
    record_number("kill -9: requests", tally.replies)
    record_number("kill -9: rate, requests/s", round(tally.rate))
    record_number("kill -9: failures", sum(tally.failures.values()))
    record_number("kill -9: latency p50/p99, ms", [round(tally.percentile(p) * 1000, 1) for p in (0.5, 0.99)])
    assert not tally.failures, tally.failures
    assert rows(shop) == before + tally.created
    assert unresolved == 0
    adopted = {i["instance"]: (i["pid"], i["health"]) for i in shop.json("ps", "shop")}
    assert adopted == {name: (pid, "healthy") for name, pid in pids.items()}


async def _kill_under_load(shop: Whit, host: str, port: int, rate: float, rounds: int) -> tuple[Tally, int]:
    done = False
    unresolved = 0

    async def killer() -> None:
        nonlocal done, unresolved
        try:
            for _ in range(rounds):
                await asyncio.to_thread(shop.kill_agent)
                unresolved += await asyncio.to_thread(_names_fail, shop)
                await asyncio.to_thread(shop.start_agent)
        finally:
            done = True

    load = Load(host, port)
    await load.one_order()
    tally, _ = await asyncio.gather(load.at_rate(rate, lambda: done), killer())
    return tally, unresolved


def _names_fail(shop: Whit) -> int:
    """Ask the resolver, not /etc/hosts, for a service's name from within an instance, while no agent lives."""
    return 0 if shop.resolves("shop-api-1", "db") else 1
