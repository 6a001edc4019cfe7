"""Two builds of one app have nothing in common but the app: every form is the same bytes, for both architectures."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from whit.image.sandbox.processes import module_environment

TESTS = Path(__file__).resolve().parents[1]
FAKETIME = "/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1"
FORMS = ("oci", "oci-archive", "rootfs", "microvm", "microvm-archive", "disk", "disk-qcow2", "iso")
NOBODY = 65534
APP = """\
name: same
services:
  web:
    command: [/bin/web]
    build: {parts: [PARTS]}
"""


def write_app(place: Path, seed: int, size: int) -> None:
    """The same files, made in another order, at other times."""
    files = {f"PART/d{one % 5}/f{one}": random.Random(one).randbytes(50 * one) for one in range(40)}
    files |= {"first/bin/web": b"\x7fELF" + random.Random(7).randbytes(5000), "second/srv/large": bytes(size)}
    names = sorted(files)
    random.Random(seed).shuffle(names)
    for name in names:
        path = place / name.replace("PART", "first" if len(name) % 2 else "second")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])
    (place / "first/bin/link").symlink_to("web")
    parts = ["./first", "./second"]
    (place / "whit.yaml").write_text(APP.replace("PARTS", ", ".join(parts)))
    for path in (place, *place.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.name == "web" else 0o644)
            os.utime(path, (seed * 10**8,) * 2)


def built(place: Path, number: int, architecture: str, forms: tuple[str, ...], size: int) -> dict[str, str]:
    """Everything that `number` can change is changed by it."""
    app, state, output = (place / ("deeper/" * number + name) for name in ("app", "state", "output"))
    for path in (app, state, output):
        path.mkdir(parents=True)
    write_app(app, number + 1, size)
    env = {**module_environment(), "PATH": os.environ["PATH"], "HOME": str(state)}
    env["PYTHONPATH"] = f"{env['PYTHONPATH']}:{TESTS}"
    start: list[str] = []
    if number:
        for path in (state, output):
            os.chown(path, NOBODY, NOBODY)
        start = ["taskset", "-c", "0", "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        env |= {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "LANG": "de_DE.UTF-8", "PYTHONHASHSEED": "7", "USER": "x"}
        env |= {"FAKETIME": "+3333d", "NO_FAKE_STAT": "1", "TMPDIR": str(state)}
        start += ["env", f"LD_PRELOAD={FAKETIME.format(os.uname().machine)}"]  # which makes a semaphore as who it is
    argv = [*start, sys.executable, "-m", "support.every_form", app, state, output, architecture, *forms]
    umask = 0o077 if number else 0o002
    done = subprocess.run(argv, env=env, umask=umask, cwd=app, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.network
@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("architecture", [pytest.param("amd64", marks=pytest.mark.full), "arm64"])
def test_another_order_time_place_user_and_parallelism_give_the_same_forms(
    architecture: str, open_directory: Path, sample: Callable[[int, int], int]
) -> None:
    """With --full there are also microVMs whose root is a disk (EROFS), for which a tree has to be large."""
    for size, forms in ((100_000, FORMS), (130 << 20, ("microvm",)))[: sample(1, 2)]:
        place = open_directory / f"{size}"
        place.mkdir(mode=0o755)
        one, other = (built(place, number, architecture, forms, size) for number in range(2))
        assert one == other
        assert sorted(one) == sorted(forms)
