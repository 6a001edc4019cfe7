"""Every check of the project, the same by hand and in CI: `./whit test [--full] [pytest arguments]`.

Style, types, the import contract and the shell scripts first, because they are quick; then every test. Without --full
the tests that repeat something take a sample, and the summary says how large. With it they do the full counts, and
the numbers are written to results/.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
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


def main() -> int:
    arguments = sys.argv[1:]
    full = "--full" in arguments
    rest = [argument for argument in arguments if argument != "--full"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "WHIT_TEST_FULL": "1" if full else ""}
    passed = [check(name, argv, environment) for name, argv in CHECKS.items()]
    before = traces()
    tests = subprocess.run([sys.executable, "-m", "pytest", *rest], cwd=ROOT, env=environment, check=False)
    left = sorted(traces() - before)
    print(f"{'FAILED' if left else 'ok    '} nothing is left on the machine {' '.join(left)}", flush=True)
    return 0 if all(passed) and tests.returncode == 0 and not left else 1


if __name__ == "__main__":
    sys.exit(main())
