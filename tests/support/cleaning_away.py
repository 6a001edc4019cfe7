"""Agents that are cleaned away all the time, as far as others can tell: a group that is empty does not last."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
    """In every hierarchy this group is removed as soon as there is nothing in it, by a process that does just this."""
    paths = [str(root / group.lstrip("/")) for root in hierarchies.roots]
    with subprocess.Popen([sys.executable, "-c", LOOP, *paths], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.kill()
