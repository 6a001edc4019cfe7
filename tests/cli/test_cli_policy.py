"""whit policy check without an agent: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.whit import ROOT, Whit

from whit.base.settings import Settings

SHOP, POLICIES = "examples/shop", "examples/policies/shop.yaml"


@pytest.fixture
def whit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Whit:
    monkeypatch.chdir(ROOT)
    return Whit(Settings(id="tnobody", run_root=tmp_path, state_root=tmp_path))


def test_a_sound_file_ends_with_0(whit: Whit) -> None:
    done = whit("policy", "check", SHOP)
    assert done.stdout == "nothing is doubtful\n"
    assert "no agent answers: the files are judged by themselves" in done.stderr


def test_a_problem_ends_with_1_and_names_its_line(whit: Whit) -> None:
    done = whit("policy", "check", "--alone", SHOP, POLICIES, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"unreachable  problem   {POLICIES}:11" in done.stdout
    found = json.loads(whit("--json", "policy", "check", "--alone", SHOP, POLICIES, check=False).stdout)
    assert [(one["kind"], one["severity"], one["place"]) for one in found] == [
        ("unreachable", "problem", f"{POLICIES}:11")
    ]


def test_without_services_it_says_what_is_not_judged(whit: Whit) -> None:
    done = whit("policy", "check", "--alone", POLICIES)
    assert "name the app file too" in done.stderr


def test_a_file_that_is_wrong_ends_with_2(whit: Whit, tmp_path: Path) -> None:
    (tmp_path / "whit.yaml").write_text("services: {web: {image: i}}\npolicies: {p: {ingres: []}}\n")
    done = whit("policy", "check", str(tmp_path), check=False)
    assert done.returncode == 2
    assert f"{tmp_path}/whit.yaml:2:16: policies.p.ingres: is not a known key" in done.stderr


@pytest.mark.parametrize("command", ["replay", "learn"])
def test_what_needs_an_agent_says_so(whit: Whit, command: str) -> None:
    assert whit("policy", command, SHOP, check=False).returncode == 6
