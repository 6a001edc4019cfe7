"""The same image, app file and commands: one word more puts a service of the shop behind gVisor."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.whit import SHOP, Whit

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2); print('connected')"
KERNEL = "print(open('/proc/version').read())"


@pytest.fixture(scope="module")
def sandboxed(shop: Whit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whit]:
    """The shop with `isolation: sandbox` added to its API."""
    directory = tmp_path_factory.mktemp("sandboxed") / "shop"
    shutil.copytree(SHOP, directory)
    app = directory / "whit.yaml"
    before = app.read_text()
    app.write_text(before.replace("  api:\n", "  api:\n    isolation: sandbox\n", 1))
    assert len(app.read_text().splitlines()) == len(before.splitlines()) + 1
    try:
        shop("up", str(directory))
        yield shop
    finally:
        shop("up", str(SHOP))


def orders(shop: Whit, order: dict[str, Any] | None = None, number: int | None = None) -> Any:
    path = "/orders" if number is None else f"/orders/{number}"
    data = json.dumps(order).encode() if order else None
    address = f"http://127.0.0.1:{shop.environment['SHOP_PORT']}{path}"
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        return json.load(reply)


def connects(shop: Whit, service: str, port: int) -> bool:
    return shop("exec", "api", "python3", "-c", CONNECT, service, str(port), check=False).returncode == 0


def test_one_word_puts_it_behind_gvisor(sandboxed: Whit) -> None:
    (api,) = [one for one in sandboxed.json("ps", "shop") if one["service"] == "api"]
    assert (api["isolation"], api["state"], api["health"]) == ("sandbox", "running", "healthy")
    assert api["runtime"].startswith("runsc 20")
    assert "Linux version 4.4.0" in sandboxed("exec", "api", "python3", "-c", KERNEL).stdout
    assert Path(f"/proc/{api['pid']}/cmdline").read_bytes().startswith(b"runsc-sandbox")


def test_what_it_can_get_at(sandboxed: Whit) -> None:
    found = {service: sandboxed.json("inspect", service, "--surface") for service in ("api", "db")}
    assert (found["api"]["kernel"], found["db"]["kernel"]) == ("gVisor", "host")
    assert {one["peer"]: one["ports"] for one in found["api"]["reaches"]} == {
        "shop/cache": ["tcp/6379"],
        "shop/db": ["tcp/5432"],
        "resolver": ["tcp/53", "udp/53"],
    }
    assert {one["peer"] for one in found["db"]["reached_by"]} == {"shop/api"}
    text = sandboxed("inspect", "api", "--surface").stdout
    assert "reaches" in text
    assert len(text.splitlines()) < 40


def test_orders_land_in_postgresql(sandboxed: Whit) -> None:
    placed = orders(sandboxed, {"item": "sandbox", "quantity": 3})
    assert orders(sandboxed, number=placed["id"]) == {"id": placed["id"], "item": "sandbox", "quantity": 3}
    query = f"SELECT item FROM orders WHERE id = {placed['id']}"
    psql = ["/usr/lib/postgresql/15/bin/psql", "-h", "127.0.0.1", "-U", "postgres", "-Atc", query, "postgres"]
    assert sandboxed("exec", "-e", "PGPASSWORD=shop", "db", *psql).stdout.strip() == "sandbox"


def test_what_it_uses_is_all_that_it_reaches(sandboxed: Whit) -> None:
    assert connects(sandboxed, "db", 5432)
    assert connects(sandboxed, "cache", 6379)
    assert not connects(sandboxed, "web", 8080)
    assert not connects(sandboxed, "1.1.1.1", 53)
    drops = [
        flow
        for flow in sandboxed.lines("flows", "--verdict", "deny")
        if flow["source"]["name"] == "shop/api" and flow["destination"]["name"] == "shop/web"
    ]
    assert drops
    assert drops[-1]["rule"] == sandboxed.json("explain", "api", "web", "8080")["rule"] != 0


def test_names_resolve_inside(sandboxed: Whit) -> None:
    """By the hosts file, and by the node's resolver for what does not stand in it."""
    script = "import socket; print(socket.gethostbyname('db')); print(socket.gethostbyname('db.shop.whit'))"
    first, second = sandboxed("exec", "api", "python3", "-c", script).stdout.split()
    assert first == second


def test_a_killed_sandbox_is_restarted_with_its_network(sandboxed: Whit) -> None:
    (api,) = [one for one in sandboxed.json("ps", "shop") if one["service"] == "api"]
    Path(f"/proc/{api['pid']}").stat()
    sandboxed("exec", "api", "python3", "-c", "import os; os.kill(1, 9)", check=False)
    until = time.monotonic() + 30
    while True:
        (now,) = [one for one in sandboxed.json("ps", "shop") if one["service"] == "api"]
        if now["restarts"] == api["restarts"] + 1 and now["health"] == "healthy":
            break
        assert time.monotonic() < until, now
        time.sleep(0.2)
    assert now["addresses"] == api["addresses"]
    assert connects(sandboxed, "db", 5432)


def test_a_new_agent_adopts_it(sandboxed: Whit) -> None:
    before = {one["instance"]: one["pid"] for one in sandboxed.json("ps", "shop")}
    sandboxed.kill_agent()
    sandboxed.start_agent()
    after = {one["instance"]: (one["pid"], one["isolation"]) for one in sandboxed.json("ps", "shop")}
    assert {name: pid for name, (pid, _) in after.items()} == before
    assert after["shop-api-1"][1] == "sandbox"
    assert orders(sandboxed, {"item": "adopted", "quantity": 1})["id"] > 0
