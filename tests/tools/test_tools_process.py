"""Processes end in time, with all that they started; what is not installed is told as that."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from whit.base.errors import CommandError, TimedOut, Unavailable
from whit.tools import process

STARTS_ANOTHER = "sleep 1000 & echo $! > {}; wait"


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("by", ["run", "stream_lines"])
async def test_what_does_not_end_in_time_is_killed_with_what_it_started(by: str, tmp_path: Path) -> None:
    argv = ["sh", "-c", STARTS_ANOTHER.format(tmp_path / "pid")]
    work = process.run(argv, timeout=1.5) if by == "run" else process.stream_lines(argv, lambda _: None, timeout=1.5)
    with pytest.raises(TimedOut, match=r"sh did not end within 1\.5 s"):
        await work
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 30
    while lives(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not lives(pid)


async def test_lines_come_as_they_are_printed() -> None:
    lines: list[bytes] = []
    done = await process.stream_lines(["sh", "-c", "cat; echo last >&2; exit 3"], lines.append, stdin=b"one\ntwo\n")
    assert (lines, done.returncode, done.stderr) == ([b"one\n", b"two\n"], 3, "last\n")


async def test_input_output_and_status() -> None:
    assert (await process.run(["cat"], stdin=b"text")).text == "text"
    with pytest.raises(CommandError, match="sh ended with 3"):
        await process.run(["sh", "-c", "exit 3"])
    assert (await process.run(["sh", "-c", "exit 3"], check=False)).returncode == 3


async def test_what_is_not_installed() -> None:
    argv = ["no-such-program-at-all"]
    with pytest.raises(Unavailable, match="is not installed"):
        await process.run(argv)
    with pytest.raises(Unavailable, match="is not installed"):
        await process.stream_lines(argv, lambda _: None)
    with open(os.devnull) as nothing, pytest.raises(Unavailable, match="is not installed"):
        await process.attach(argv, stdin=nothing.fileno(), stdout=nothing.fileno(), stderr=nothing.fileno())
