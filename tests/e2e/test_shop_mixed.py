"""The same image, app file and commands: one line more puts a service behind gVisor, or into a virtual machine."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from support.guests import HAS_QEMU
from support.shop import call, query, rows
from support.whit import ROOT, SHOP, Whit

from whit.model.service import Isolation

pytestmark = [
    pytest.mark.machine,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not HAS_QEMU, reason="qemu-system-x86 is not installed"),
]

PAGE = ROOT / "docs" / "how-to" / "isolation.md"
SERVICES = ("web", "api", "db", "cache")
MIXED = ("container", "sandbox", "microvm", "container")
"""Of the services in order, as the page has it."""
CONNECT = "import socket, sys; socket.create_connection(sys.argv[1:3], timeout=int((sys.argv[3:] or [30])[0]))"
KERNEL = {"container": "host", "sandbox": "gVisor", "microvm": "own"}
FORBIDDEN = {
    ("web", "db", "5432"): ("busybox", "nc", "-w", "1", "db", "5432"),
    ("api", "web", "8080"): ("python3", "-c", CONNECT, "web", "8080", "2"),
    ("db", "api", "8000"): ("/usr/lib/postgresql/15/bin/pg_isready", "-q", "-t", "2", "-h", "api", "-p", "8000"),
}
"""Connections that no `uses` declares, and how to try them."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def changed_as_told(text: str) -> str:
    """The app file with the lines of the page added where it shows them."""
    for block in blocks("diff"):
        before = "".join(line[1:] for line in block.splitlines(keepends=True) if line[0] == " ")
        assert text.count(before) == 1, before
        text = text.replace(before, "".join(line[1:] for line in block.splitlines(keepends=True)))
    return text


def assigned(text: str, isolations: Mapping[str, str]) -> str:
    for service, isolation in isolations.items():
        text = text.replace(f"  {service}:\n", f"  {service}:\n    isolation: {isolation}\n", 1)
    return text


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mixed") / "shop"
    shutil.copytree(SHOP, directory)
    return directory


@pytest.fixture(scope="module")
def mixed(shop: Whit, directory: Path) -> Iterator[Whit]:
    """The shop with the two lines of the page."""
    app = directory / "whit.yaml"
    before = app.read_text()
    app.write_text(changed_as_told(before))
    assert len(app.read_text().splitlines()) == len(before.splitlines()) + 2
    try:
        shop("up", str(directory))
        yield shop
    finally:
        shop("up", str(SHOP))


def instances(shop: Whit) -> dict[str, Any]:
    return {one["service"]: one for one in shop.json("ps", "shop")}


def check_forbidden(shop: Whit, source: str, destination: str, port: str) -> None:
    """It is dropped, and the flow names the same reason and rule as the prediction."""
    tried = shop("exec", source, *FORBIDDEN[source, destination, port], check=False)
    assert tried.returncode != 0, (source, destination)
    drops = [
        flow
        for flow in shop.lines("flows", "--verdict", "deny")
        if (flow["source"]["name"], flow["destination"]["name"]) == (f"shop/{source}", f"shop/{destination}")
    ]
    assert drops, (source, destination)
    explanation = shop.json("explain", source, destination, port)
    assert (drops[-1]["reason"], drops[-1]["rule"]) == (explanation["reason"], explanation["rule"])
    assert (explanation["verdict"], explanation["rule"] != 0) == ("deny", True)


def test_one_line_changes_the_wall(mixed: Whit) -> None:
    found = instances(mixed)
    assert tuple(found[service]["isolation"] for service in SERVICES) == MIXED
    assert {(one["state"], one["health"]) for one in found.values()} == {("running", "healthy")}
    assert found["api"]["runtime"].startswith("runsc 20")
    assert Path(f"/proc/{found['api']['pid']}/cmdline").read_bytes().startswith(b"runsc-sandbox")
    version = "print(open('/proc/version').read())"
    assert "Linux version 4.4.0" in mixed("exec", "api", "python3", "-c", version).stdout


def test_the_commands_of_the_page(mixed: Whit, directory: Path) -> None:
    said = ""
    for command in blocks("sh")[0].splitlines():
        words = ["/bin/sh", "-c", command.replace("examples/shop", str(directory))]
        done = subprocess.run(words, cwd=ROOT, env=mixed.env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        said += done.stdout
    assert "ISOLATION" in said
    assert "database system is ready to accept connections" in said


def test_what_it_can_get_at(mixed: Whit) -> None:
    found = {service: mixed.json("inspect", service, "--surface") for service in SERVICES}
    assert tuple(found[service]["kernel"] for service in SERVICES) == tuple(KERNEL[one] for one in MIXED)
    assert {one["peer"]: one["ports"] for one in found["api"]["reaches"]} == {
        "shop/cache": ["tcp/6379"],
        "shop/db": ["tcp/5432"],
        "resolver": ["tcp/53", "udp/53"],
    }
    assert {one["peer"] for one in found["db"]["reached_by"]} == {"shop/api"}
    text = mixed("inspect", "api", "--surface").stdout
    assert "reaches" in text
    assert len(text.splitlines()) < 40


def test_orders_land_in_postgresql(mixed: Whit) -> None:
    placed = call(mixed, "/orders", {"item": "mixed", "quantity": 3})
    assert call(mixed, f"/orders/{placed['id']}") == {"id": placed["id"], "item": "mixed", "quantity": 3}
    assert query(mixed, f"SELECT item, quantity FROM orders WHERE id = {placed['id']}") == "mixed|3"


def test_what_it_uses_is_all_that_it_reaches(mixed: Whit) -> None:
    for peer, port in (("db", "5432"), ("cache", "6379")):
        assert mixed("exec", "api", "python3", "-c", CONNECT, peer, port).returncode == 0
    assert mixed("exec", "api", "python3", "-c", CONNECT, "1.1.1.1", "53", "2", check=False).returncode != 0
    for source, destination, port in FORBIDDEN:
        check_forbidden(mixed, source, destination, port)


def test_names_resolve_inside(mixed: Whit) -> None:
    """By the hosts file, and by the node's resolver for what does not stand in it."""
    script = "import socket; print(socket.gethostbyname('db')); print(socket.gethostbyname('db.shop.whit'))"
    first, second = mixed("exec", "api", "python3", "-c", script).stdout.split()
    assert first == second


def test_one_service_is_restarted(mixed: Whit) -> None:
    """The machine boots again with its address and its orders; nobody else is touched, and the next order lands."""
    before, orders = instances(mixed), rows(mixed)
    mixed("restart", "shop", "db")
    after = instances(mixed)
    assert after["db"]["pid"] != before["db"]["pid"]
    assert after["db"]["addresses"] == before["db"]["addresses"]
    assert {name: after[name]["pid"] for name in ("web", "api", "cache")} == {
        name: before[name]["pid"] for name in ("web", "api", "cache")
    }
    call(mixed, "/orders", {"item": "restarted", "quantity": 1})
    assert rows(mixed) == orders + 1


def test_a_killed_sandbox_is_restarted_with_its_network(mixed: Whit) -> None:
    before = instances(mixed)["api"]
    mixed("exec", "api", "python3", "-c", "import os; os.kill(1, 9)", check=False)
    until = time.monotonic() + 120
    while True:
        now = instances(mixed)["api"]
        if now["restarts"] == before["restarts"] + 1 and now["health"] == "healthy":
            break
        assert time.monotonic() < until, now
        time.sleep(0.2)
    assert now["addresses"] == before["addresses"]
    assert mixed("exec", "api", "python3", "-c", CONNECT, "db", "5432").returncode == 0


def test_a_new_agent_adopts_them(mixed: Whit) -> None:
    before = {name: (one["pid"], one["isolation"], one["restarts"]) for name, one in instances(mixed).items()}
    orders = rows(mixed)
    mixed.kill_agent()
    call(mixed, "/orders", {"item": "nobody watches", "quantity": 1})
    mixed.start_agent()
    assert {n: (one["pid"], one["isolation"], one["restarts"]) for n, one in instances(mixed).items()} == before
    call(mixed, "/orders", {"item": "adopted", "quantity": 1})
    assert rows(mixed) == orders + 2
    check_forbidden(mixed, "db", "api", "8000")


@pytest.mark.full
@pytest.mark.timeout(5400)
def test_any_assignment(mixed: Whit, directory: Path) -> None:
    """First the two that put every service where it has not been yet, then all of them."""
    turns = [tuple(turned[get_args(Isolation).index(one)] for one in MIXED) for turned in _turns()]
    every = list(itertools.product(get_args(Isolation), repeat=len(SERVICES)))
    plain = (SHOP / "whit.yaml").read_text()
    for isolations in [*turns, *(one for one in every if one not in turns)]:
        wanted = dict(zip(SERVICES, isolations, strict=True))
        (directory / "whit.yaml").write_text(assigned(plain, wanted))
        orders = rows(mixed)
        mixed("up", str(directory))
        found = instances(mixed)
        assert {name: (one["isolation"], one["health"]) for name, one in found.items()} == {
            name: (isolation, "healthy") for name, isolation in wanted.items()
        }
        placed = call(mixed, "/orders", {"item": "-".join(isolations), "quantity": 1})
        assert query(mixed, f"SELECT item FROM orders WHERE id = {placed['id']}") == "-".join(isolations)
        assert rows(mixed) == orders + 1
        check_forbidden(mixed, "web", "db", "5432")


def _turns() -> list[tuple[str, ...]]:
    """The isolations in turn, once and twice, so that with MIXED every service was in each."""
    first, second, third = get_args(Isolation)
    return [(second, third, first), (third, first, second)]
