"""On a terminal: exec with raw mode, resizes and exit codes; colours, progress and tables of 80 columns."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.service_site import until
from websockets.protocol import State
from websockets.sync.server import ServerConnection, unix_serve

from whit.cli.commands.execute import Session, connected

Run = Callable[..., subprocess.CompletedProcess[str]]


class Screen:
    """A person's terminal with one command on it."""

    def __init__(self, words: tuple[str, ...], environment: dict[str, str], rows: int = 24, columns: int = 80) -> None:
        self.main, self.inner = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self.inner)
        self.seen = b""
        argv = ["setsid", "--ctty", sys.executable, "-m", "whit.cli", *words]
        self.process = subprocess.Popen(argv, stdin=self.inner, stdout=self.inner, stderr=self.inner, env=environment)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        until = time.monotonic() + seconds
        while not (found := re.search(pattern.encode(), self.seen)):
            ready, _, _ = select.select([self.main], [], [], max(0, until - time.monotonic()))
            assert ready, f"{pattern!r} is not in {self.seen!r}"
            self.seen += os.read(self.main, 65536)
        return found[0].decode()

    def end(self, seconds: float = 60) -> int:
        until = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < until:
            if select.select([self.main], [], [], 0.02)[0]:
                self.seen += os.read(self.main, 65536)
        while select.select([self.main], [], [], 0)[0]:
            self.seen += os.read(self.main, 65536)
        assert self.process.poll() is not None, f"still running: {self.seen!r}"
        return self.process.returncode

    @property
    def text(self) -> str:
        return self.seen.decode()

    @property
    def restored(self) -> bool:
        return termios.tcgetattr(self.inner) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.main)
        os.close(self.inner)


@pytest.fixture
def screen(cli_environment: dict[str, str]) -> Iterator[Callable[..., Screen]]:
    with contextlib.ExitStack() as stack:

        def open_screen(*words: str, **more: Any) -> Screen:
            environment = cli_environment | more.pop("environment", {})
            opened = Screen(words, environment, **more)
            stack.callback(opened.close)
            return opened

        yield open_screen


# ---- exec


def test_exec_passes_outputs_and_exit_code(run_whit: Run, recorded: Any) -> None:
    done = run_whit("exec", "-e", "A=b c", "api", "sh", "-c", "echo $A; echo oops >&2; exit 42", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (42, "b c\n", "oops\n")
    path, query, _ = recorded.last("WS")
    assert path == "/v1/instances/shop-api-1/exec"
    assert query["arg"] == ["sh", "-c", "echo $A; echo oops >&2; exit 42", "--json"]


def test_a_command_that_ends_before_its_input_does(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The connection is closed before the empty input is sent; all that was said in it counts."""

    def end_at_once(connection: ServerConnection) -> None:
        connection.send(b"\x01over\n")
        connection.send('{"exit": 7}')

    with unix_serve(end_at_once, str(tmp_path / "socket")) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        try:
            with connected(tmp_path / "socket", "/") as connection:
                assert until(lambda: connection.state is State.CLOSED)
                assert Session(connection).run(None) == 7
        finally:
            server.shutdown()
            serving.join()
    assert capfd.readouterr().out == "over\n"


def test_exec_passes_input_to_its_end(run_whit: Run, recorded: Any) -> None:
    text = "0123456789abcdef\n" * 20_000
    done = run_whit("exec", "-i", "shop/api", "cat", input=text)
    assert (done.returncode, done.stdout == text) == (0, True)
    assert run_whit("exec", "api", "cat", input="not passed").stdout == ""


def test_exec_json(run_whit: Run, recorded: Any) -> None:
    done = run_whit("--json", "exec", "api", "echo", "hello")
    assert done.stdout == '{"stream": "stdout", "text": "hello\\n"}\n'


def test_exec_refuses_what_cannot_work(run_whit: Run, recorded: Any) -> None:
    assert run_whit("exec", "-it", "api", "sh").returncode == 2
    assert run_whit("exec", "-e", "NAME", "api", "sh").returncode == 2
    assert run_whit("exec", "db", "sh").returncode == 4
    assert run_whit("exec", "nothing", "sh").returncode == 3


def test_exec_on_a_terminal(screen: Callable[..., Screen], recorded: Any) -> None:
    shell = screen("exec", "-it", "api", "sh", "-c", "stty size; read word; stty size; echo got $word; exit 7", rows=30)
    shell.wait_for("30 80")
    assert not shell.restored
    shell.resize(40, 100)
    until = time.monotonic() + 60
    while not recorded.resized and time.monotonic() < until:
        time.sleep(0.01)
    assert recorded.resized == [[40, 100]]
    shell.type("hello\r")
    shell.wait_for("40 100")
    shell.wait_for("got hello")
    assert shell.end() == 7
    assert shell.restored


def test_exec_passes_ctrl_c_to_the_command(screen: Callable[..., Screen], recorded: Any) -> None:
    shell = screen("exec", "-it", "api", "sh", "-c", "trap 'echo caught; exit 9' INT; echo ready; sleep 30 & wait")
    shell.wait_for("ready")
    shell.type("\x03")
    assert shell.end() == 9
    assert "caught" in shell.text
    assert shell.restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_restored_after_a_signal(
    screen: Callable[..., Screen], recorded: Any, number: signal.Signals
) -> None:
    shell = screen("exec", "-it", "api", "sh", "-c", "echo ready; read word")
    shell.wait_for("ready")
    assert not shell.restored
    shell.process.send_signal(number)
    assert shell.end() == 128 + number
    assert shell.restored


def test_the_terminal_is_restored_when_the_connection_breaks(screen: Callable[..., Screen], recorded: Any) -> None:
    recorded.cut = True
    shell = screen("exec", "-it", "api", "sh", "-c", "echo ready; read word")
    shell.wait_for("ready")
    shell.type("\r")
    assert shell.end() == 6
    assert shell.restored
    assert "the connection to the agent ended" in shell.text


# ---- colours, tables, progress


def test_colours_on_a_terminal_and_none_with_no_color(screen: Callable[..., Screen], recorded: Any) -> None:
    coloured, plain = screen("ps"), screen("ps", environment={"NO_COLOR": "1"})
    assert coloured.end() == plain.end() == 0
    assert "\x1b[" in coloured.text
    assert "\x1b" not in plain.text
    failed, said = screen("ps", "blog"), screen("ps", "blog", environment={"NO_COLOR": "1"})
    assert failed.end() == said.end() == 3
    assert "\x1b[1;31merror:\x1b[0m" in failed.text
    assert said.text.startswith("error: ")


def test_the_table_fits_80_columns(screen: Callable[..., Screen], recorded: Any) -> None:
    narrow = screen("ps", environment={"NO_COLOR": "1"})
    wide = screen("ps", environment={"NO_COLOR": "1"}, columns=140)
    assert narrow.end() == wide.end() == 0
    lines = narrow.text.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert len(lines) == 6, lines
    assert "IMAGE" not in lines[0]
    assert "IMAGE" in wide.text


def test_progress_moves_on_a_terminal(screen: Callable[..., Screen], recorded: Any) -> None:
    steps = [{"subject": "web", "step": f"fetch {n} of 40 packages"} for n in range(1, 41)]
    recorded.work = [*steps, {"subject": "web", "step": "healthy", "done": True}]
    recorded.work.append({"result": {"app": recorded.apps[0]}})
    shown = screen("restart", "shop")
    assert shown.end() == 0
    assert "✓" in shown.text
    assert shown.text.count("fetch 40 of 40") <= 1
    assert shown.text.endswith("http://127.0.0.1:8080\r\n")


def test_progress_is_plain_on_a_dumb_terminal(screen: Callable[..., Screen], recorded: Any) -> None:
    recorded.work = [{"subject": "web", "step": "stop"}, {"result": {"app": recorded.apps[0]}}]
    shown = screen("restart", "shop", environment={"TERM": "dumb"})
    assert shown.end() == 0
    assert shown.text.startswith("web: stop\r\n")
    assert "\x1b" not in shown.text


def test_import_time(record_number: Callable[[str, object], None]) -> None:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    bare = time.monotonic() - began
    began = time.monotonic()
    code = "import sys, whit.cli.main; heavy = {'pydantic', 'httpx', 'rich', 'asyncio', 'fastapi'} & set(sys.modules)"
    source = Path(__file__).resolve().parents[2] / "src"
    subprocess.run(
        [sys.executable, "-c", f"{code}; assert not heavy, heavy"],
        check=True,
        env=os.environ | {"PYTHONPATH": str(source)},
    )
    record_number("import of whit.cli.main, ms", round((time.monotonic() - began - bare) * 1000))
