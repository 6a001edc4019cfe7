"""The commands as a person runs them, against recorded answers: what they ask, what they print, how they end."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from whit.base.errors import InputError
from whit.cli.commands.inspection import point_in_time, size_text
from whit.cli.commands.lifecycle import addresses_of
from whit.cli.main import EXIT_CODES

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]

APP = """
name: shop
services:
  web:
    build: {parts: [debian:busybox-static]}
    command: [busybox, sleep, "1000"]
"""


@pytest.fixture
def app_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "shop"
    directory.mkdir()
    (directory / "whit.yaml").write_text(APP)
    return directory


# ---- without an agent


@pytest.mark.parametrize(
    "words",
    [
        ("ps",),
        ("flows",),
        ("logs", "shop"),
        ("images",),
        ("explain", "web", "db", "5432"),
        ("exec", "web", "true"),
        ("down", "shop"),
        ("restart",),
        ("start", "shop"),
        ("stop", "shop"),
    ],
)
def test_without_an_agent(run_whit: Run, words: tuple[str, ...]) -> None:
    done = run_whit(*words)
    assert done.returncode == 6
    assert done.stdout == ""
    assert done.stderr.startswith("error: no agent runs")
    assert "hint: `whit up` starts one" in done.stderr


def test_errors_are_documents_with_json(run_whit: Run) -> None:
    done = run_whit("ps", "--json")
    problem = json.loads(done.stderr)
    assert (done.returncode, problem["code"], problem["exit_code"]) == (6, "unreachable", 6)
    assert problem["message"]
    assert problem["hint"]


def test_version_needs_no_agent(run_whit: Run) -> None:
    assert run_whit("version").stdout.splitlines()[1] == "agent none runs"
    assert json.loads(run_whit("--json", "version").stdout)["agent"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [(("nothing",), "nothing"), (("explain", "web"), "DST"), (("exec",), "INSTANCE|SERVICE")],
)
def test_wrong_command_lines(run_whit: Run, words: tuple[str, ...], said: str) -> None:
    done = run_whit(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "--help" in done.stderr
    assert said in done.stderr


def test_wrong_command_lines_are_documents_with_json(run_whit: Run) -> None:
    assert json.loads(run_whit("ps", "--json", "--nothing").stderr)["code"] == "input"


def test_a_wrong_agent_id_is_an_input_error(run_whit: Run) -> None:
    done = run_whit("ps", "--id", "TOO-LONG-AN-ID")
    assert done.returncode == 2
    assert "TOO-LONG-AN-ID" in done.stderr


def test_help_without_a_command(run_whit: Run) -> None:
    done = run_whit()
    assert done.returncode == 0
    assert "Usage: whit" in done.stdout


# ---- looking


def test_ps_json_has_the_documented_fields_first(run_whit: Run, recorded: Any) -> None:
    documents = json.loads(run_whit("--json", "ps").stdout)
    fields = ["app", "service", "instance", "state", "health", "isolation", "addresses", "ports", "pid", "image"]
    assert [list(document)[:10] for document in documents] == [fields] * 4
    assert documents[0] | {} == documents[0]
    first = documents[0]
    assert (first["instance"], first["addresses"], first["pid"]) == ("shop-api-1", ["10.201.0.2"], 4001)


def test_ps_in_a_pipe_is_plain_and_neither_folded_nor_cut(run_whit: Run, recorded: Any) -> None:
    recorded.apps[0]["instances"][0]["image"] = "registry/" + "long" * 40
    done = run_whit("ps", "shop")
    lines = done.stdout.splitlines()
    assert "\x1b" not in done.stdout
    assert lines[0].split() == ["INSTANCE", "STATE", "ISOLATION", "ADDRESS", "PORTS", "PID", "IMAGE"]
    assert lines[1].split()[0] == "shop-api-1"
    assert lines[1].endswith("long" * 40)
    assert lines[3].startswith("shop-db-1   exited (1)")
    assert "8080->8080/tcp" in lines[4]
    assert lines[5] == "shop-db-1: exited with 1 three times"
    assert all(line == line.rstrip() for line in lines)


def test_ps_of_nothing(run_whit: Run, recorded: Any) -> None:
    recorded.apps = []
    assert run_whit("ps").stdout == "nothing is up\n"
    assert json.loads(run_whit("ps", "--json").stdout) == []


def test_ps_of_an_app_that_is_not_up(run_whit: Run, recorded: Any) -> None:
    done = run_whit("ps", "blog")
    assert done.returncode == 3
    assert "these are up: shop" in done.stderr


def test_logs_have_prefixes_and_ask_for_what_was_named(run_whit: Run, recorded: Any) -> None:
    recorded.log = [
        {"instance": "shop-api-1", "time": "2025-01-31T12:00:00.000000001Z", "stream": "stdout", "text": "[red]hello"},
        {"instance": "shop-api-10", "time": "2025-01-31T12:00:01.000000000Z", "stream": "stderr", "text": "grüße"},
    ]
    done = run_whit("logs", "--tail", "0", "--since", "2025-01-31T13:00:00+01:00", "shop", "api", "shop-api-2")
    assert done.stdout == "shop-api-1 | [red]hello\nshop-api-10 | grüße\n"
    path, query, _ = recorded.last("GET")
    assert path == "/v1/apps/shop/logs"
    assert query == {"service": ["api", "shop-api-2"], "tail": ["0"], "since": ["2025-01-31T12:00:00Z"]}
    lines = run_whit("logs", "--json", "api").stdout.splitlines()
    assert [json.loads(line) for line in lines] == recorded.log
    assert "Z grüße" in run_whit("logs", "-t", "api").stdout


def test_flows(run_whit: Run, recorded: Any, tmp_path: Path) -> None:
    from datetime import datetime

    recorded.flows = [flow("deny"), flow("allow"), flow("allow", undeclared=True)]
    done = run_whit("flows", "--from", "web", "--to", "10.1.2.3", "--verdict", "deny", "--limit", "3")
    lines = done.stdout.splitlines()
    local = datetime.fromisoformat("2025-01-31T12:00:00.250+00:00").astimezone().strftime("%H:%M:%S.250")
    assert lines[0] == f"{local} deny     shop/web 10.201.0.2:40000 -> shop/db 10.201.0.3:5432 tcp"
    assert lines[1].strip().startswith("POLICY_EGRESS: the source may not reach it: rule 7: web is declared")
    assert len(lines) == 5
    assert lines[4].strip() == "nobody declared it"
    asked = {"kind": ["flow"], "source": ["shop/web"], "destination": ["10.1.2.3"], "verdict": ["deny"], "limit": ["3"]}
    assert recorded.last("GET")[1] == asked
    documents = [json.loads(line) for line in run_whit("--json", "flows").stdout.splitlines()]
    assert [(one["verdict"], one["rule"]) for one in documents] == [("deny", 7), ("allow", 7), ("allow", 7)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("db", "70000"), "1 to 65535"),
        (("db", "http"), "is no port of tcp"),
        (("db",), "tcp is asked by port"),
        (("db", "80", "--protocol", "igmp"), "tcp, udp, icmpv6, sctp"),
        (("db", "300", "--protocol", "icmp"), "TYPE/CODE"),
        (("db", "3/x", "--protocol", "icmp"), "TYPE/CODE"),
        (("db", "3/", "--protocol", "icmp"), "TYPE/CODE"),
    ],
)
@pytest.mark.parametrize("command", ["explain", "trace"])
def test_what_is_no_port_is_refused(run_whit: Run, command: str, words: tuple[str, ...], said: str) -> None:
    done = run_whit(command, "web", *words)
    assert done.returncode == 2
    assert all(part in done.stderr for part in said.split(", ")), done.stderr


@pytest.mark.parametrize(
    ("words", "port"),
    [
        (["--protocol", "icmp"], 8 << 8),
        (["--protocol", "icmpv6"], 128 << 8),
        (["3/4", "--protocol", "icmp"], 3 << 8 | 4),
        (["13", "--protocol", "icmp"], 13 << 8),
        (["7", "--protocol", "sctp"], 7),
    ],
)
def test_explain_asks_about_every_protocol_of_policy(run_whit: Run, recorded: Any, words: list[str], port: int) -> None:
    run_whit("explain", "web", "db", *words)
    assert recorded.last("GET")[1]["port"] == [str(port)]


def test_explain_ends_with_the_answer(run_whit: Run, recorded: Any) -> None:
    done = run_whit("explain", "web", "db", "5432")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == " 1. service        10.202.0.3:5432 is shop/db"
    assert lines[-1].startswith("deny: shop/web 10.201.0.2 -> shop/db 10.201.0.3:5432 tcp: POLICY_EGRESS: rule 7:")
    query = recorded.last("GET")[1]
    assert query == {"source": ["shop/web"], "destination": ["shop/db"], "port": ["5432"], "protocol": ["tcp"]}
    assert run_whit("explain", "web", "db", "5432", "--exit-code").returncode == 1
    assert json.loads(run_whit("--json", "explain", "web", "db", "5432").stdout)["rule"] == 7


def test_images(run_whit: Run, recorded: Any) -> None:
    done = run_whit("images")
    assert done.stdout.splitlines()[1].split() == [
        "shop-web:latest",
        "abababababab",
        "9.8",
        "MB",
        "2025-01-31T12:00:00",
    ]
    assert json.loads(run_whit("images", "--json").stdout)[0]["size"] == 9_812_345


# ---- changing


def test_up_says_what_runs_and_how_to_reach_it(run_whit: Run, recorded: Any, app_directory: Path) -> None:
    fetches = [{"subject": "web", "step": f"fetch {n} of 40 packages"} for n in range(1, 41)]
    result = {"result": {"app": recorded.apps[0], "changed": True}}
    recorded.work = [*fetches, {"subject": "web", "step": "healthy", "done": True}, result]
    done = run_whit("up", str(app_directory), "--timeout", "7", "--build")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "web: fetch 1 of 40 packages\nweb: healthy\n"
    assert done.stdout.splitlines()[0].split()[0] == "INSTANCE"
    assert done.stdout.splitlines()[-1] == "web  http://127.0.0.1:8080"
    path, query, body = recorded.last("PUT")
    assert (path, query) == ("/v1/apps/shop", {"build": ["true"], "timeout": ["7.0"], "wait": ["true"]})
    assert body["services"]["web"]["build"]["parts"]
    shown = json.loads(run_whit("--json", "up", str(app_directory)).stdout)
    assert (shown["changed"], shown["app"]["name"]) == (True, "shop")


def test_up_here_without_waiting(run_whit: Run, recorded: Any, app_directory: Path) -> None:
    recorded.work = [{"result": {"app": recorded.apps[0], "changed": False}}]
    done = run_whit("up", "-d", cwd=app_directory)
    assert done.stdout.splitlines()[-1] == "shop was up to date"
    assert recorded.last("PUT")[1]["wait"] == ["false"]


def test_dry_run_lists_operations(run_whit: Run, recorded: Any, app_directory: Path) -> None:
    recorded.work = [{"result": {"operations": ["create link w-tcli-1 for shop-web-1", "start shop-web-1"]}}]
    done = run_whit("up", "--dry-run", str(app_directory))
    assert done.stdout == "create link w-tcli-1 for shop-web-1\nstart shop-web-1\n"
    assert recorded.last("PUT")[1]["dry_run"] == ["true"]


def test_a_wrong_app_file_is_named_without_an_agent(run_whit: Run, app_directory: Path) -> None:
    (app_directory / "whit.yaml").write_text(APP + "    colour: green\n")
    done = run_whit("up", str(app_directory))
    assert done.returncode == 2
    assert "whit.yaml:7" in done.stderr
    assert "colour" in done.stderr


def test_down_by_name_by_file_and_by_default(run_whit: Run, recorded: Any, app_directory: Path) -> None:
    recorded.work = [{"subject": "shop-web-1", "step": "stop"}, {"result": {}}]
    for words, where in (
        (("shop",), app_directory),
        ((str(app_directory),), app_directory.parent),
        ((), app_directory),
    ):
        done = run_whit("down", *words, "--volumes", cwd=where)
        assert done.stdout == "shop is down\n", done.stderr
        path, query, _ = recorded.last("DELETE")
        assert (path, query["volumes"]) == ("/v1/apps/shop", ["true"])
    assert json.loads(run_whit("--json", "down", "shop").stdout) == {}


def test_restart_of_a_service(run_whit: Run, recorded: Any) -> None:
    recorded.work = [{"result": {"app": recorded.apps[0]}}]
    assert run_whit("restart", "api").returncode == 0
    path, query, _ = recorded.last("POST")
    assert (path, query["service"]) == ("/v1/apps/shop/restart", ["api"])


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An app of one service, which is made of a directory and needs no network to be built."""
    (tmp_path / "site" / "files" / "srv").mkdir(parents=True)
    (tmp_path / "site" / "files" / "srv" / "index").write_text("hello")
    (tmp_path / "site" / "whit.yaml").write_text("services: {web: {build: {parts: [./files]}}, other: {image: x}}\n")
    return tmp_path / "site"


def test_build_needs_no_agent(run_whit: Run, site: Path) -> None:
    done = run_whit("build", str(site))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split()[:2] == ["web", "site-web"]
    image = json.loads(run_whit("build", str(site), "--service", "web", "--json").stdout)["images"]["web"]
    assert (image["name"], image["cached"]) == ("site-web", True)


def test_build_explains(run_whit: Run, site: Path) -> None:
    done = run_whit("build", str(site), "--explain", "/srv/index")
    assert done.stdout.splitlines() == ["/srv/index", "  part ./files (whole): build.parts[0]"]
    assert "./files" in run_whit("build", str(site), "--explain").stdout
    missing = run_whit("build", str(site), "--explain", "/srv/nothing")
    assert missing.returncode == 3
    document = json.loads(run_whit("build", str(site), "--explain", "/srv/index", "--json").stdout)
    assert document == {"path": "/srv/index", "because": ["part ./files (whole): build.parts[0]"]}


def test_build_draws(run_whit: Run, site: Path, tmp_path: Path) -> None:
    assert '"the app" -> "./files"' in run_whit("build", str(site), "--graph", "-").stdout
    assert run_whit("build", str(site), "--graph", str(tmp_path / "image.svg")).returncode == 0
    assert "./files</text>" in (tmp_path / "image.svg").read_text()
    assert run_whit("build", str(site), "--graph", str(tmp_path / "image.png")).returncode == 2


def test_build_of_a_directory_and_of_an_unknown_service(run_whit: Run, site: Path) -> None:
    assert run_whit("build", str(site / "files")).stdout.splitlines()[1].split()[:2] == ["files", "files-files"]
    done = run_whit("build", str(site), "--service", "nothing")
    assert (done.returncode, "it has: other, web" in done.stderr) == (2, True)


# ---- errors and ends


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (400, "input", 2),
        (404, "not-found", 3),
        (409, "conflict", 4),
        (501, "unavailable", 5),
        (504, "timed-out", 7),
        (500, "command", 1),
        (500, "internal", 1),
    ],
)
def test_problems_become_exit_codes(run_whit: Run, recorded: Any, status: int, code: str, exit_code: int) -> None:
    assert exit_code in EXIT_CODES
    problem = {"code": code, "message": "it is so", "hint": "do this", "exit_code": exit_code}
    recorded.problem = (status, problem)
    done = run_whit("ps")
    assert (done.returncode, done.stderr) == (exit_code, "error: it is so\nhint: do this\n")
    assert json.loads(run_whit("ps", "--json").stderr) == problem


def test_a_problem_in_a_stream_is_the_error(run_whit: Run, recorded: Any) -> None:
    problem = {"code": "timed-out", "message": "db is not healthy", "hint": "", "exit_code": 7}
    recorded.work = [{"subject": "db", "step": "wait", "failed": True}, {"problem": problem}]
    done = run_whit("restart", "shop")
    assert (done.returncode, done.stderr) == (7, "db: failed: wait\nerror: db is not healthy\n")
    recorded.log = [{"problem": problem}]
    assert run_whit("logs", "shop").returncode == 7


def test_an_answer_that_is_no_problem_document(run_whit: Run, recorded: Any) -> None:
    recorded.problem = (422, {"detail": [{"loc": ["query", "port"], "msg": "not a number"}]})
    done = run_whit("ps")
    assert done.returncode == 2
    assert "not a number" in done.stderr


def test_the_agent_is_killed_while_it_works(run_whit: Run, recorded: Any) -> None:
    recorded.work, recorded.cut = [{"subject": "db", "step": "wait"}], True
    done = run_whit("restart", "shop")
    assert done.returncode == 6
    assert "error: the agent went away" in done.stderr


def test_a_stream_without_a_result_is_an_error(run_whit: Run, recorded: Any) -> None:
    recorded.work = [{"subject": "db", "step": "wait"}]
    assert run_whit("restart", "shop").returncode == 6


def test_interrupt_ends_a_stream_cleanly(recorded: Any, cli_environment: dict[str, str]) -> None:
    recorded.log = [{"instance": "shop-api-1", "time": "", "stream": "stdout", "text": "hello"}]
    recorded.endless = True
    argv = [sys.executable, "-m", "whit.cli", "logs", "-f", "shop"]
    with subprocess.Popen(argv, env=cli_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"shop-api-1 | hello\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, b"")


def test_interrupted_work_goes_on_in_the_agent(recorded: Any, cli_environment: dict[str, str]) -> None:
    recorded.work, recorded.endless = [{"subject": "web", "step": "stop"}], True
    argv = [sys.executable, "-m", "whit.cli", "restart", "shop"]
    with subprocess.Popen(argv, env=cli_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == b"web: stop\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.startswith(b"interrupted; the agent goes on")


def test_a_reader_that_goes_away_is_no_error(recorded: Any, cli_environment: dict[str, str]) -> None:
    line = {"instance": "shop-api-1", "time": "", "stream": "stdout", "text": "x" * 1000}
    recorded.log = [line] * 2000
    argv = [sys.executable, "-m", "whit.cli", "logs", "shop"]
    with subprocess.Popen(argv, env=cli_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read() if process.stderr else b""
        process.wait(60)
    assert (process.returncode, stderr) == (141, b"")


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root for the call")
def test_a_socket_that_may_not_be_opened(run_whit: Run, recorded: Any, cli_settings: Any, tmp_path: Path) -> None:
    cli_settings.socket.chmod(0o600)
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == 0 and directory != Path("/") and "pytest" in str(directory):
            directory.chmod(0o755)
    done = run_whit("ps", user=65534, group=65534, extra_groups=[])
    assert done.returncode == 6
    assert "sudo" in done.stderr


# ---- small decisions


def test_durations_and_times() -> None:
    now = datetime.datetime(2025, 1, 31, 12, 0, tzinfo=datetime.UTC)
    assert point_in_time("1h30m", now) == "2025-01-31T10:30:00Z"
    assert point_in_time("500ms", now) == "2025-01-31T11:59:59.500000Z"
    assert point_in_time("2025-01-31T12:00:00Z") == "2025-01-31T12:00:00Z"
    assert point_in_time("") == ""
    for wrong in ("yesterday", "10", "10 m", "m"):
        with pytest.raises(InputError):
            point_in_time(wrong)


def test_addresses_to_reach() -> None:
    ports = ("0.0.0.0:8080->80/tcp", "127.0.0.2:8443->443/tcp", "0.0.0.0:53->53/udp")
    assert list(addresses_of(ports)) == ["http://127.0.0.1:8080", "https://127.0.0.2:8443", "udp 127.0.0.1:53"]


def test_sizes() -> None:
    assert [size_text(size) for size in (0, 999, 1000, 9_812_345, 2_100_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "9.8 MB",
        "2100.0 GB",
    ]


def flow(verdict: str, **more: Any) -> dict[str, Any]:
    source = {"address": "10.201.0.2", "port": 40000, "identity": 257, "name": "shop/web"}
    destination = {"address": "10.201.0.3", "port": 5432, "identity": 259, "name": "shop/db"}
    denied = verdict == "deny"
    return {
        "time": "2025-01-31T12:00:00.250000Z",
        "source": source,
        "destination": destination,
        "protocol": "tcp",
        "verdict": verdict,
        "reason": "POLICY_EGRESS" if denied else "",
        "reason_text": "the source may not reach it" if denied else "",
        "rule": 7,
        "rule_text": "web is declared: all else is denied",
    } | more
