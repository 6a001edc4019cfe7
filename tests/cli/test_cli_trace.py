"""How a trace is asked for and printed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

Run = Callable[..., subprocess.CompletedProcess[str]]

WEB = {"address": "10.201.0.2", "port": 40000, "identity": 257, "name": "shop/web"}
DB = {"address": "10.202.0.3", "port": 5432, "identity": 259, "name": "shop/db"}


def hop(step: str, decision: str, at: float, **more: Any) -> dict[str, Any]:
    where = {"hook": "from-instance", "link": "shop-web-1", "source": "a:1", "destination": "b:2"}
    return {"step": step, "decision": decision, "microseconds": at} | where | more


DROPPED = {
    "source": WEB,
    "destination": DB,
    "protocol": "tcp",
    "outcome": "dropped",
    "reason": "POLICY_EGRESS",
    "reason_text": "may not",
    "rule": 7,
    "rule_text": "web is declared",
    "hops": [hop("entered", "a:1 -> b:2", 0.0), hop("egress", "deny", 2.5, rule=7, rule_text="web is declared")],
}


def test_a_drop_is_said_and_ends_with_1(run_whit: Run, recorded: Any) -> None:
    recorded.trace = DROPPED
    done = run_whit("trace", "web", "db", "5432", "-6")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == " 1.      0.0 us  entered  a:1 -> b:2"
    assert lines[2].strip() == "rule 7: web is declared"
    assert lines[-1] == (
        "dropped: shop/web 10.201.0.2:40000 -> shop/db 10.202.0.3:5432 tcp: POLICY_EGRESS: may not: "
        "rule 7: web is declared"
    )
    asked = {"source": ["shop/web"], "destination": ["shop/db"], "port": ["5432"], "protocol": ["tcp"], "family": ["6"]}
    assert recorded.last("POST")[1] == asked
    assert json.loads(run_whit("--json", "trace", "web", "db", "5432").stdout)["rule"] == 7


def test_answers_stand_apart(run_whit: Run, recorded: Any) -> None:
    back = [hop("entered", "x", 3, back=True), hop("instance", "handed to shop-web-1", 4, back=True)]
    recorded.trace = DROPPED | {"outcome": "answered", "reason": "", "rule": 0, "hops": [hop("entered", "x", 0), *back]}
    done = run_whit("trace", "web", "api", "8000", "--udp")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].strip() == "-- the answer"


def test_a_ping_has_no_port(run_whit: Run, recorded: Any) -> None:
    recorded.trace = DROPPED
    run_whit("trace", "web", "db", "--protocol", "icmpv6")
    asked = recorded.last("POST")[1]
    assert (asked["protocol"], asked["port"]) == (["icmpv6"], [str(128 << 8)])
    done = run_whit("trace", "web", "db", "3", "--protocol", "icmp")
    assert (done.returncode, "only echo requests" in done.stderr) == (2, True)


def test_packets_are_sent_from_instances(run_whit: Run, recorded: Any) -> None:
    done = run_whit("trace", "world", "db", "5432")
    assert (done.returncode, "not from world" in done.stderr) == (2, True)
