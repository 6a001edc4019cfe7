"""Processes of this area's own: how they find this package, how they are asked, and how they tell what failed.

Each is a module that takes a request as JSON on standard input. What they may do is confine.py's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import whit
from whit.base import errors
from whit.base.errors import Permanent, WhitError
from whit.tools import process

_FAILURES = {
    kind.code: kind
    for kind in (
        errors.InputError,
        errors.UnknownKey,
        errors.Unsatisfied,
        errors.DigestMismatch,
        errors.HostileArchive,
        errors.CheckFailed,
        errors.NotLocked,
        errors.NotFound,
        errors.Conflict,
        errors.Unavailable,
        errors.Unreachable,
        errors.TimedOut,
    )
}


def failure(report: Mapping[str, Any]) -> WhitError:
    """The error that a process of this area wrote down."""
    if report["code"] == errors.DiskFull.code:
        return errors.DiskFull("build", str(report.get("path", "")))
    kind: Callable[..., WhitError] = _FAILURES.get(report["kind"], Permanent)
    return kind(report["message"], hint=report["hint"], code=report["code"])


async def ask(
    argv: Sequence[str],
    request: Mapping[str, Any],
    hear: Callable[[Any], None],
    *,
    env: Mapping[str, str],
    timeout: float,
) -> Any:
    """Let a process do part of a build: `request` is its input, and each line of its output a JSON object with a
    `step`, which is heard, or in the end with the `result`, which is returned, or the `error`.

    Raises:
        WhitError: what it failed with.
        Permanent: it ended without a word.
    """
    answer: dict[str, Any] = {}

    def take(line: bytes) -> None:
        message = json.loads(line)
        hear(message["step"]) if "step" in message else answer.update(message)

    ended = await process.stream_lines(argv, take, stdin=json.dumps(request).encode(), env=env, timeout=timeout)
    if "error" in answer:
        raise failure(answer["error"])
    if "result" not in answer:
        text = f"the build ended with {ended.returncode} and said: {ended.stderr[-2000:]}"
        raise Permanent(text, hint="is there memory left? Otherwise this is a fault of Whit", code="build-ended")
    return answer["result"]


def module_environment() -> dict[str, str]:
    """How a process finds this package, however this one found it."""
    epoch = {name: os.environ[name] for name in ("SOURCE_DATE_EPOCH",) if name in os.environ}
    return {"PYTHONPATH": str(Path(whit.__file__).parent.parent)} | epoch
