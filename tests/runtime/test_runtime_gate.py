"""The gate before a sandbox's program, run here by the machine's own kernel: what it waits for, and what it becomes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.slowness import patient

from whit.runtime import programs
from whit.runtime.sleeping import gate


@pytest.fixture
async def fifo(tmp_path: Path) -> Path:
    programs.build()
    await gate.MakeGate(tmp_path / "gate").do()
    return tmp_path / "gate"


@contextmanager
def waiting(fifo: Path, *words: str, path: str = "/usr/bin:/bin") -> Iterator[subprocess.Popen[str]]:
    """The program with the fifo as its descriptor 3, as a sandbox holds it: open both ways."""
    script = f'exec 3<>{fifo}; exec -a "$0" "$GATE" "$@"'
    env = {"PATH": path, "GATE": str(programs.path("gate"))}
    argv = ["/bin/bash", "-c", script, *words]
    with subprocess.Popen(argv, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as running:
        try:
            until = time.monotonic() + patient(45)
            while not gate.is_shut(fifo):
                assert time.monotonic() < until
                time.sleep(0.01)
            yield running
        finally:
            running.kill()


def test_it_waits_and_becomes_the_program(fifo: Path) -> None:
    with waiting(fifo, "sh", "-c", "echo it is $1; ls /proc/self/fd; exit 7", "sh", "here") as running:
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.3)
        assert gate.open_up(fifo)
        output = running.communicate(timeout=patient(45))[0].split("\n")
    assert (running.returncode, output[0]) == (7, "it is here")
    assert "3" not in output[1:-2], "the fifo is not left to it"
    assert not gate.is_shut(fifo)
    assert not gate.open_up(fifo), "nobody is there any more"


@pytest.mark.parametrize(
    ("word", "path", "status"),
    [
        ("true", "/nowhere::/usr/bin", 0),
        ("/usr/bin/true", "", 0),
        ("./true", "", 127),
        ("no-such-program", "/usr/bin:/bin", 127),
        ("data", "HERE", 126),
        ("HERE/data", "/bin", 126),
        ("HERE/unknown", "/bin", 126),
    ],
)
def test_how_it_looks_for_the_program(fifo: Path, tmp_path: Path, word: str, path: str, status: int) -> None:
    here = str(tmp_path)
    (tmp_path / "data").write_text("not executable")
    (tmp_path / "unknown").write_text("of a format that nobody knows")
    (tmp_path / "unknown").chmod(0o755)
    with waiting(fifo, word.replace("HERE", here), path=path.replace("HERE", here)) as running:
        assert gate.open_up(fifo)
        output = running.communicate(timeout=patient(45))[0]
    assert running.returncode == status
    assert ("cannot be started" in output) is (status != 0)


def test_one_that_was_killed_does_not_wait(fifo: Path) -> None:
    with waiting(fifo, "true") as running:
        running.kill()
        running.wait(45)
        assert not gate.is_shut(fifo)


async def test_the_fifo_is_made_anew_and_taken_away(fifo: Path) -> None:
    before = fifo.stat().st_ino
    keeper = os.open(fifo, os.O_RDWR)
    step = gate.MakeGate(fifo)
    await step.do()
    assert not gate.is_shut(fifo), "who held the old one does not hold this"
    assert fifo.stat().st_ino != before
    os.close(keeper)
    await step.undo()
    await step.undo()
    assert not gate.is_shut(fifo)
