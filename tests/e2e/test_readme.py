"""Every command that the README and the page about policy show is run as it stands there, against the shop."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
from support.whit import ROOT, Whit

pytestmark = [pytest.mark.machine, pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]

FENCE = re.compile(r"^```(?:sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = ("README.md", "docs/explanation/policy.md")
EXPECTED = {
    "./whit exec web busybox nc -w 1 db 5432": 1,
    "./whit policy check examples/policies/shop.yaml": 1,
    "./whit policy check --alone examples/shop examples/policies/shop.yaml": 1,
}
"""Exit codes other than 0."""
RUNS_THIS = "./whit test"


def commands(text: str) -> list[str]:
    """The commands of shell blocks, without prompt and comment; of console blocks only what follows a prompt."""
    found = []
    for block in FENCE.findall(text):
        lines = block.splitlines()
        typed = [line[2:] for line in lines if line.startswith("$ ")] or lines
        found += [shlex.join(shlex.split(line, comments=True)) for line in typed if line.strip()]
    return [command for command in found if command and command != RUNS_THIS]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 200


@pytest.mark.parametrize("command", [command for page in PAGES for command in commands((ROOT / page).read_text())])
def test_command_of_the_pages(shop: Whit, command: str) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=ROOT, env=shop.env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == EXPECTED.get(command, 0), done.stdout + done.stderr


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "bpf" / "README.md"]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_the_map_of_folders_is_whole() -> None:
    text = (ROOT / "README.md").read_text()
    rooms = {path.name for path in (ROOT / "src" / "whit").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert not {room for room in rooms if f"`{room}`" not in text and f"/{room}`" not in text}
