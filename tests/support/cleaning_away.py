"""Agents that are cleaned away all the time, as far as others can tell: what is shared and empty does not last."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whit.kernel.cgroup import Hierarchies

LOOP = """
import os, sys
print(flush=True)
while True:
    for path in sys.argv[1:]:
        try:
            os.rmdir(path)
        except OSError:
            pass
"""


@contextmanager
def cleaned_away(hierarchies: Hierarchies, group: str) -> Iterator[None]:
    """In every hierarchy this group is removed as soon as there is nothing in it."""
    with removed_when_empty(*(root / group.lstrip("/") for root in hierarchies.roots)):
        yield


@contextmanager
def removed_when_empty(*paths: Path) -> Iterator[None]:
    """By a process that does just this."""
    with subprocess.Popen([sys.executable, "-c", LOOP, *map(str, paths)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()
