"""How flows are printed: columns, ends, HTTP exchanges, names that were asked for."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from whit.cli.commands.flows import duration_text

Run = Callable[..., subprocess.CompletedProcess[str]]

WEB = {"address": "10.201.0.2", "port": 40000, "identity": 257, "name": "shop/web"}
OUT = {"address": "2001:db8::7", "port": 443, "identity": 2, "name": "world", "dns": "api.example.com"}
COMMON: dict[str, Any] = {
    "time": "2025-01-31T12:00:00.250000Z",
    "source": WEB,
    "destination": OUT,
    "protocol": "tcp",
    "verdict": "allow",
}
ENDED = {
    "seconds": 63.4, "packets": 10, "bytes": 1200, "reply_packets": 20, "reply_bytes": 3_400_000, "rtt_us": 250,
    "retransmits": 3, "reset": True,
}  # fmt: skip


def printed(run_whit: Run, recorded: Any, document: dict[str, Any], *options: str) -> list[str]:
    recorded.flows = [COMMON | document]
    return run_whit("flows", *options).stdout.splitlines()


def test_an_end_is_one_line(run_whit: Run, recorded: Any) -> None:
    (line,) = printed(run_whit, recorded, {"kind": "end", "end": ENDED}, "--ends", "--http")
    assert line.endswith(
        "end      shop/web 10.201.0.2:40000 -> api.example.com [2001:db8::7]:443 tcp"
        " 1m03s, 1.2 kB out, 3.4 MB back, rtt 250 us, 3 retransmitted, reset"
    )
    assert recorded.last("GET")[1] == {"kind": ["end", "http"]}


def test_an_exchange_is_one_line(run_whit: Run, recorded: Any) -> None:
    http = {"method": "POST", "path": "/orders", "status": 503, "latency_us": 3140}
    (line,) = printed(run_whit, recorded, {"kind": "http", "http": http}, "--status", "5XX", "--path", "/ord")
    assert line.endswith("tcp POST /orders 503 3.1 ms")
    assert recorded.last("GET")[1] == {"kind": ["http"], "status": ["5xx"], "path": ["/ord"]}


def test_columns_grow_with_what_is_in_them(run_whit: Run, recorded: Any) -> None:
    recorded.flows = [COMMON, COMMON | {"destination": WEB}]
    first, second = run_whit("flows").stdout.splitlines()
    assert first.index(" tcp") == second.index(" tcp")


def test_an_audited_flow_says_what_would_be(run_whit: Run, recorded: Any) -> None:
    audited = {"verdict": "audit", "rule": 7, "rule_text": "web is declared"}
    assert printed(run_whit, recorded, audited)[1].strip() == "would be denied: rule 7: web is declared"


def test_a_family_that_is_none_is_refused(run_whit: Run, recorded: Any) -> None:
    done = run_whit("flows", "--family", "5")
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: --family: 5 is neither 4 nor 6")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.00012, "120 us"), (0.0031, "3.1 ms"), (2.5, "2.50 s"), (303, "5m03s"), (7800, "2h10m")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
