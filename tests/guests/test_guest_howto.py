"""The pages about booting: their commands, as they stand there: one app answers the same in every form."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.booted import FORMS_TOOLS, PATIENCE
from support.guests import HAS_QEMU
from support.whit import ROOT, Whit, free_port

from whit.base.settings import Settings

pytestmark = [
    pytest.mark.machine,
    pytest.mark.network,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not (HAS_QEMU and FORMS_TOOLS), reason="tools of requirements/debian-test.txt are not installed"
    ),
]

NOT_FOUND = 3
PAGES = [
    pytest.param("docs/how-to/boot.md", ["Hello from Whit\n"] * 5, id="how-to"),
    pytest.param(
        "docs/how-to/upgrade.md",
        ["Hello again\n", "Hello from Whit\n"],
        id="upgrade",
        marks=pytest.mark.full,
    ),
    pytest.param(
        "docs/tutorial/one-app-every-machine.md",
        ["<h1>Hello from everywhere</h1>\n"] * 4,
        id="tutorial",
        marks=pytest.mark.full,
    ),
]
"""With what each `curl` in them prints."""


def lines_of(page: str) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


class Typist:
    """Types commands at a shell in `directory`, which looks like the checkout; a server stays until it answered."""

    def __init__(self, whit: Whit, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.env = {**whit.env, "HELLO_PORT": str(self.port)}
        self.answers: list[str] = []
        self.server: subprocess.Popen[bytes] | None = None
        for name in ("whit", "examples"):
            (directory / name).symlink_to(ROOT / name)

    def type(self, line: str) -> None:
        line = line.replace("8080:8080", f"{self.port}:8080").replace("127.0.0.1:8080", f"127.0.0.1:{self.port}")
        if line.startswith("./whit boot") and " -p " in line:
            argv = ["/bin/sh", "-c", f"exec {line}"]
            with (self.directory / "boot.out").open("wb") as output:
                self.server = subprocess.Popen(argv, cwd=self.directory, env=self.env, stdout=output, stderr=output)
        elif line.startswith("curl"):
            self.answers.append(self.asked(line))
            self.end_server()
        else:
            done = self.run(line)
            while done.returncode == NOT_FOUND and self.server is not None and self.server.poll() is None:
                time.sleep(0.2)  # a machine takes a moment until it listens
                done = self.run(line)
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        argv = ["/bin/sh", "-c", line]
        return subprocess.run(
            argv, cwd=self.directory, env=self.env, capture_output=True, text=True, timeout=300, check=False
        )

    def asked(self, line: str) -> str:
        """As a person does who tries again."""
        until = time.monotonic() + PATIENCE
        while (done := self.run(f"{line} -m 2")).returncode != 0:
            output = "" if self.server is None else (self.directory / "boot.out").read_text()
            assert time.monotonic() < until, done.stderr + output
            assert self.server is None or self.server.poll() is None, output
            time.sleep(0.2)
        return done.stdout

    def end_server(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            assert self.server.wait(60) == 0
            self.server = None


@pytest.mark.parametrize(("page", "answers"), PAGES)
def test_the_commands_of_the_page(page: str, answers: list[str], settings: Settings, tmp_path: Path) -> None:
    whit = Whit(settings)
    directory = tmp_path / "checkout"
    directory.mkdir()
    typist = Typist(whit, directory)
    try:
        for line in lines_of(page):
            typist.type(line.replace("--timeout 60", "--timeout 6"))
    finally:
        if typist.server is not None:
            typist.server.kill()
            typist.server.wait()
        whit.clean()
    assert typist.answers == answers
