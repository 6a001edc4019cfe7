"""Prove: an image is accepted only if its own checks pass inside of it. What runs there is inside.py's business."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from whit.base.errors import CheckFailed, Unavailable
from whit.image.oci import manifest
from whit.image.sandbox.processes import module_environment
from whit.image.sources import calls
from whit.kernel import call_watch
from whit.model.build import BuildSpec, CheckSpec
from whit.model.image import Image
from whit.tools import process, qemu_user

_SPARE = 60.0
"""Seconds that mounting and ending may take beside the checks themselves."""


@dataclass(frozen=True)
class Proof:
    """What was proven, a line each; if it was observed, which paths were opened and system calls made meanwhile."""

    checks: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()


async def prove(
    image: Image, spec: BuildSpec, scratch: Path, say: Callable[[str], None], *, observe: bool = False
) -> Proof:
    """Run the checks in order. `scratch` is an empty directory.

    Raises:
        CheckFailed: one did not pass.
        Unavailable: this user may not make namespaces.
    """
    if not spec.check:
        return Proof()
    say(f"{'observe' if observe else 'check'} the image ({len(spec.check)})")
    failures: list[str] = []
    opened: list[str] = []
    called: list[tuple[int, int]] = []
    names = call_watch.numbers(calls.WATCHED) if observe else {}

    def hear(line: bytes) -> None:
        message = json.loads(line)
        if "failure" in message:
            failures.append(message["failure"])
        opened.extend(message.get("opened", ()))
        called.extend((number, argument) for number, argument in message.get("called", ()))

    ended = await process.stream_lines(
        _command(scratch),
        hear,
        stdin=json.dumps(_request(image, spec, scratch) | {"observe": observe, "watched": list(names)}).encode(),
        env=module_environment(),
        timeout=sum(check.timeout for check in spec.check) + _SPARE,
    )
    if failures and failures[-1]:
        failed = spec.check[len(failures) - 1]
        hint = "if a file is missing, add it with include; whit build --explain says what was left out"
        raise CheckFailed(f"the image fails its check {describe(failed)}: {failures[-1]}", hint=hint)
    if len(failures) != len(spec.check):
        reason = ended.stderr.strip()[-1500:]
        if "unshare" in reason or "fanotify_init" in reason or "Operation not permitted" in reason:
            raise Unavailable(f"checks cannot run here: {reason}", hint="run as root, or allow user namespaces")
        hint = "a check may have taken too much memory or time: run them one at a time"
        raise CheckFailed(f"the checks ended early: {reason}", hint=hint, code="checks-ended")
    paths = tuple(path.lstrip("/") for path in opened)
    return Proof(tuple(describe(check) for check in spec.check), paths, calls.named(called, names))


def describe(check: CheckSpec) -> str:
    """In a line: what was asked, and of which server."""
    asked = shlex.join(check.run) or check.http or (f"tcp {check.tcp}" if check.tcp else "")
    return f"{asked} of {shlex.join(check.start)}" if asked and check.start else asked or shlex.join(check.start)


def _command(scratch: Path) -> list[str]:
    own = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    start = ["unshare", *user, *own, sys.executable, "-m", "whit.image.linking.inside", str(scratch)]
    return ["setpriv", "--pdeathsig", "KILL", *start]


def _request(image: Image, spec: BuildSpec, scratch: Path) -> dict[str, object]:
    fallback = spec.run.user or image.config.user
    foreign = spec.architecture not in ("", manifest.architecture())
    checks = [check.model_dump(mode="json") | {"user": check.user or fallback} for check in spec.check]
    return {
        "layers": [str(path) for path in image.layers],
        "scratch": str(scratch),
        "memory": spec.run.memory,
        "checks": checks,
        "env": image.config.env | spec.run.environment,
        "working_dir": spec.run.working_dir or image.config.working_dir,
        "only_root": os.geteuid() != 0,
        "emulator": str(qemu_user.emulator(spec.architecture)) if foreign else "",
    }
