"""Passwords of keys that are made: where they come from, and what is said without one. Nothing is written then."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("before", "words", "code"),
    [
        ("", (), "password-missing"),
        ("", ("--password-file", "gone"), "password-unreadable"),
        ("k.pub", ("--password-file", "gone"), "key-exists"),
    ],
)
def test_no_pair_is_made(before: str, words: Sequence[str], code: str, run_whit: Run, tmp_path: Path) -> None:
    if before:
        (tmp_path / before).touch()
    done = run_whit("image", "keygen", "-o", str(tmp_path / "k"), *words, "--json")
    assert json.loads(done.stderr)["code"] == code
    assert json.loads(done.stderr)["hint"]
    assert [path.name for path in tmp_path.glob("k*")] == ([before] if before else [])


def test_two_passwords_that_differ(cli_environment: dict[str, str], tmp_path: Path) -> None:
    """Asked for at a terminal, which is the command's standard input; what was typed before it asks does not count."""
    control, terminal = pty.openpty()
    argv = [sys.executable, "-m", "whit.cli", "image", "keygen", "-o", str(tmp_path / "k"), "--json"]
    options = {"stdin": terminal, "stderr": subprocess.PIPE, "start_new_session": True}
    with subprocess.Popen(argv, env=cli_environment, **options) as asking:  # type: ignore[call-overload]
        for prompt, typed in (("k.key: ", b"one\n"), ("Again: ", b"other\n")):
            said = b""
            while not said.endswith(prompt.encode()):
                said += (read := os.read(asking.stderr.fileno(), 1000))
                assert read
            os.write(control, typed)
        said = asking.stderr.read()
    os.close(control)
    os.close(terminal)
    assert json.loads(said)["code"] == "passwords-differ"
    assert list(tmp_path.glob("k*")) == []
