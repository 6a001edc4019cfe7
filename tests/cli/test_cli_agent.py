"""Starting an agent, its unit for systemd, and the reference page."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whit.base.errors import InputError, NotFound, Permanent, Temporary, Unreachable, WhitError
from whit.base.settings import Settings
from whit.cli.connection import systemd, transport
from whit.cli.connection.agent import agent_argv, answers, ensure_agent, source_root
from whit.cli.reference import DEFAULT_FILE, reference

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_an_agent_that_answers_is_left_alone(recorded: Any, cli_settings: Settings) -> None:
    assert answers(cli_settings)
    ensure_agent(cli_settings)
    assert not cli_settings.logs_dir.exists()


def test_a_socket_without_a_listener_is_no_agent(cli_settings: Settings) -> None:
    assert not answers(cli_settings)
    cli_settings.run_dir.mkdir(parents=True)
    cli_settings.socket.touch()
    assert not answers(cli_settings)


@pytest.mark.root
def test_an_agent_that_fails_shows_the_end_of_its_log(cli_settings: Settings, tmp_path: Path, monkeypatch: Any) -> None:
    obstacle = tmp_path / "file"
    obstacle.touch()
    monkeypatch.setenv("WHIT_RUN_ROOT", str(obstacle))
    monkeypatch.setenv("WHIT_STATE_ROOT", str(cli_settings.state_root))
    with pytest.raises(Permanent) as caught:
        ensure_agent(replace(cli_settings, run_root=obstacle))
    assert "whitd.log" in caught.value.message
    assert str(obstacle) in caught.value.message
    assert caught.value.hint


def test_the_unit_restarts_the_agent_and_spares_the_instances() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(systemd.unit_text(agent_argv("%i"), Path("/opt/100% whit/src")))
    service = unit["Service"]
    assert service["ExecStart"].endswith("-P -m whit.api.daemon --id %i")
    assert service["Environment"] == '"PYTHONPATH=/opt/100%% whit/src"'
    assert (service["Restart"], service["KillMode"], service["Delegate"]) == ("always", "process", "yes")
    assert service["OOMPolicy"] == "continue"
    assert unit["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_knows_every_setting_of_the_unit(tmp_path: Path) -> None:
    (tmp_path / "whitd@.service").write_text(systemd.unit_text(["/bin/true", "%i"], Path("/opt/whit/src")))
    argv = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / "whitd@shop.service")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_installed_whit_needs_no_python_path() -> None:
    assert "PYTHONPATH" not in systemd.unit_text(agent_argv("%i"), None)
    assert source_root() == Path(__file__).resolve().parents[2] / "src"


def test_systemd_is_for_the_usual_directories_only(cli_settings: Settings) -> None:
    assert not systemd.in_charge(cli_settings)
    assert systemd.unit_name(Settings(id="shop")) == "whitd@shop.service"


@pytest.mark.parametrize(
    ("code", "kind"),
    [("input", InputError), ("not-found", NotFound), ("temporary", Temporary), ("command", WhitError)],
)
def test_problems_become_errors(code: str, kind: type[WhitError]) -> None:
    error = transport.error_of({"code": code, "message": "m", "hint": "h", "exit_code": 9})
    assert type(error) is kind
    assert (error.code, error.exit_code, error.message, error.hint) == (code, 9, "m", "h")


def test_targets_are_quoted_and_empty_values_left_out() -> None:
    query: transport.Query = {"a": "x y&z", "b": ["1", "2"], "c": None, "d": False, "e": "", "f": True, "g": 0}
    assert transport.target_of("apps", "a/b", query=query) == "/v1/apps/a%2Fb?a=x+y%26z&b=1&b=2&f=true&g=0"


def test_a_server_that_hangs_up_is_unreachable(recorded: Any, cli_settings: Settings) -> None:
    recorded.log, recorded.cut = [{"instance": "shop-api-1"}], True
    lines = transport.stream(cli_settings.socket, "GET", "/v1/apps/shop/logs")
    assert next(lines) == {"instance": "shop-api-1"}
    with pytest.raises(Unreachable):
        next(lines)


def test_the_reference_page_is_current() -> None:
    assert DEFAULT_FILE.read_text() == reference(), "run `python -m whit.cli.reference`"


def test_every_command_has_an_example_and_the_global_options() -> None:
    sections = reference().split("\n## whit ")[1:]
    assert len(sections) >= 12
    for section in sections:
        help_text = section.split("```")[1]
        assert "Example:\n    whit " in help_text, help_text
        for option in ("--id ID", "--json", "--verbose"):
            assert option in help_text
        assert max(len(line) for line in help_text.splitlines()) <= 80
