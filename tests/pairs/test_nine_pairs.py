"""One mesh over three walls: every client asks every server, whatever isolation each of the two has.

Nine pairs and, for each isolation, an instance that asks its own service. All by service names over IPv4 and IPv6. The
run writes the table of them to results/.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from support.leftovers import leftovers_after
from support.whit import ROOT, Whit

from whit.base.settings import Settings

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
KINDS = ("container", "sandbox", "microvm")
PAIRS = list(product(KINDS, KINDS))
FAMILIES = ("IPv4", "IPv6")
WORKING = ("receives", "sends", "datagram", "fragments")
DENIED = ("stream", "datagram")

SERVICE = """
  {name}:
    isolation: {kind}
    build: {{parts: [debian:python3, ./site]}}
    command: [python3, -B, /srv/answer.py]
    uses: [{uses}]
    mem_limit: 256m
    stop_signal: SIGKILL
"""


def app_file() -> str:
    text = "name: pairs\nservices:"
    for kind in KINDS:
        text += SERVICE.format(name=f"near-{kind}", kind=kind, uses=uses(KINDS))
        text += SERVICE.format(name=f"far-{kind}", kind=kind, uses=uses((kind,)))
    return text


def uses(kinds: Sequence[str]) -> str:
    found = [f"{{service: far-{kind}, port: 8080, protocol: {name}}}" for kind in kinds for name in ("tcp", "udp")]
    return ", ".join(found)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whit]:
    directory = tmp_path_factory.mktemp("pairs")
    (directory / "whit.yaml").write_text(app_file())
    (directory / "site/srv").mkdir(parents=True)
    for file in ("answer.py", "ask.py"):
        shutil.copy(HERE / file, directory / "site/srv" / file)
    settings = Settings(id=f"t{secrets.token_hex(3)}", state_root=directory / "state")
    whit = Whit(settings)
    try:
        whit("up", str(directory), timeout=600)
        for service in [f"{side}-{kind}" for side in ("near", "far") for kind in KINDS]:
            wait_until_it_answers(whit, service)
        yield whit
    finally:
        whit("down", "pairs", check=False)
        whit.clean()
    assert not (left := leftovers_after(settings)), left


def wait_until_it_answers(whit: Whit, service: str) -> None:
    """Nothing is asked of a server before it listens."""
    until = time.monotonic() + 200
    while "answering" not in whit("logs", service).stdout:
        assert time.monotonic() < until, (service, whit("logs", service).stdout)
        time.sleep(0.3)


@pytest.fixture(scope="module")
def found(pairs: Whit) -> dict[tuple[str, str], dict[str, Any]]:
    """What each client saw of each server, and each server of itself, by the names of the two services."""
    seen = {}
    far = [f"far-{kind}" for kind in KINDS]
    for asking, servers in [(f"near-{kind}", far) for kind in KINDS] + [(service, [service]) for service in far]:
        done = pairs("exec", asking, "python3", "-B", "/srv/ask.py", *servers, timeout=600)
        for server, answer in json.loads(done.stdout.splitlines()[-1]).items():
            seen[asking, server] = answer
    write_table(seen)
    return seen


def write_table(seen: dict[tuple[str, str], dict[str, Any]]) -> None:
    machine = {"kernel": os.uname().release, "cpus": os.cpu_count()}
    rows = [{"client": client, "server": server, **answer} for (client, server), answer in seen.items()]
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    path = ROOT / "results" / "pairs.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"time": stamp, "machine": machine, "pairs": rows}, indent=1) + "\n")


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_a_pair(
    found: dict[tuple[str, str], dict[str, Any]],
    pairs: Whit,
    record_number: Callable[[str, object], None],
    client: str,
    server: str,
) -> None:
    answer = found[f"near-{client}", f"far-{server}"]
    (asking,) = [one for one in pairs.json("ps", "pairs") if one["service"] == f"near-{client}"]
    for family in FAMILIES:
        seen = answer[family]
        name, caller, peer = seen["who"]
        assert name == f"far-{server}-1"
        assert caller in asking["addresses"], "the server sees who asks, and no address between"
        assert peer == seen["address"], "and the client an answer from the address that it asked"
        assert {what: seen[what] for what in WORKING} == dict.fromkeys(WORKING, True), family
    assert answer["denied"] == {f"{family} {what}": True for family in FAMILIES for what in DENIED}
    record_number(f"pair {client} asks {server}, all of it, seconds", answer["seconds"])


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_what_is_denied_is_recorded_with_its_rule(
    found: dict[tuple[str, str], dict[str, Any]], pairs: Whit, client: str, server: str
) -> None:
    near, far = f"near-{client}", f"far-{server}"
    assert (near, far) in found
    expected = pairs.json("explain", near, far, "9090")
    drops = [
        flow
        for flow in pairs.lines("flows", "--verdict", "deny")
        if (flow["source"]["name"], flow["destination"]["name"]) == (f"pairs/{near}", f"pairs/{far}")
    ]
    kinds = {(ip_address(flow["destination"]["address"]).version, flow["protocol"]) for flow in drops}
    assert kinds == set(product((4, 6), ("tcp", "udp")))
    assert {flow["rule"] for flow in drops} == {expected["rule"]}
    assert {flow["reason"] for flow in drops} == {expected["reason"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_service_that_asks_itself(found: dict[tuple[str, str], dict[str, Any]], pairs: Whit, kind: str) -> None:
    """The packet comes back to where it was sent from."""
    answer = found[f"far-{kind}", f"far-{kind}"]
    for family in FAMILIES:
        seen = answer[family]
        assert seen["who"][0] == f"far-{kind}-1"
        assert seen["who"][2] == seen["address"]
        assert {what: seen[what] for what in WORKING} == dict.fromkeys(WORKING, True), family
