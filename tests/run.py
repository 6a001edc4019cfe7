"""Every check of the project, the same by hand and in CI: `./whit test [--full] [pytest arguments]`.

Style, types, the import contract and the shell scripts first, because they are quick; then every test. Without --full
the tests that repeat something take a sample, and the summary says how large. With it they do the full counts, and
the numbers are written to results/.

Most tests wait more than they compute, so they run in two halves at a time: beside those of agents, those that change
nothing of the machine that an agent would notice. What the others said is printed when they have ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

CHECKS = {
    "style": [str(BIN / "ruff"), "check", "--quiet", "."],
    "format": [str(BIN / "ruff"), "format", "--check", "--quiet", "."],
    "types": [str(BIN / "mypy")],
    "import contract": [str(BIN / "lint-imports"), "--no-cache"],
    "shell scripts": ["shellcheck", "whit", ".ci/run", "examples/shop/db/usr/local/bin/start-postgresql"],
}

BESIDE = ("bpf", "cli", "cluster", "contract", "datapath", "formats", "guests", "image", "kernel", "tools")
"""Folders whose tests need no agent, and are in no agent's way."""


def check(name: str, argv: list[str], environment: dict[str, str]) -> bool:
    began = time.monotonic()
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(f"{'ok    ' if done.returncode == 0 else 'FAILED'} {name} ({time.monotonic() - began:.1f} s)", flush=True)
    if done.returncode != 0:
        print(done.stdout + done.stderr, flush=True)
    return done.returncode == 0


def traces() -> set[str]:
    """What agents of tests have on this machine: their ids begin with t. Others may run beside them."""
    places = ("/run/whit", "/sys/fs/bpf/whit", *map(str, Path("/sys/fs/cgroup").glob("*/whit")))
    found = {str(path) for place in places for path in Path(place).glob("t*") if path.is_dir()}
    found |= {f"link {path.name}" for path in Path("/sys/class/net").glob("w-t*")}
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    return found | {line for line in tables.splitlines() if " whit_t" in line}


def left_behind(before: set[str], patience: float = 30.0) -> list[str]:
    """After a moment: the kernel removes links of a dead namespace in the background."""
    until = time.monotonic() + patience
    while (left := traces() - before) and time.monotonic() < until:
        time.sleep(0.5)
    return sorted(left)


def run_tests(environment: Mapping[str, str], arguments: Sequence[str]) -> bool:
    """All in two halves, or with arguments of pytest just those that they choose."""
    command = [sys.executable, "-m", "pytest", *arguments]
    if arguments:
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
    beside = [str(ROOT / "tests" / name) for name in BESIDE]
    with tempfile.TemporaryFile("w+") as output:
        own = {**environment, "WHIT_TEST_BESIDE": "1"}
        other = subprocess.Popen([*command, *beside], cwd=ROOT, env=own, stdout=output, stderr=output)
        try:
            left_out = [f"--ignore={place}" for place in beside]
            done = subprocess.run([*command, *left_out], cwd=ROOT, env=environment, check=False)
            other.wait()
        finally:
            other.terminate()
            other.wait()
        output.seek(0)
        print(f"\n===== beside them: {', '.join(BESIDE)} =====\n{output.read()}", flush=True)
    return done.returncode == 0 and other.returncode == 0


def main() -> int:
    # A shell has what it starts in the background ignore interrupts, and what that starts, too: tests send them.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    arguments = sys.argv[1:]
    full = "--full" in arguments
    rest = [argument for argument in arguments if argument != "--full"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "WHIT_TEST_FULL": "1" if full else ""}
    passed = [check(name, argv, environment) for name, argv in CHECKS.items()]
    before = traces()
    done = run_tests(environment, rest)
    left = left_behind(before)
    print(f"{'FAILED' if left else 'ok    '} nothing is left on the machine {' '.join(left)}", flush=True)
    return 0 if all(passed) and done and not left else 1


if __name__ == "__main__":
    sys.exit(main())
