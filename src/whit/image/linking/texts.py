"""Texts: paths that configuration files name, and commands that shell scripts run. Comments do not count."""

from __future__ import annotations

import re
from collections.abc import Iterator

LIMIT = 256 << 10
"""Bytes of a text that is looked through."""
_COMMENT = re.compile(r"^\s*[#;].*$", re.MULTILINE)
_PATH = re.compile(r"(?<![\w.$})~-])/(?:[\w.+@*?-]+/)*[\w.+@*?-]+")
_ASSIGNED = re.compile(r"^\s*(\w+)=[\"']?(/[\w./+-]+)", re.MULTILINE)
_WORD = re.compile(r"[\w./+-]+")


def is_text(data: bytes) -> bool:
    return len(data) <= LIMIT and b"\0" not in data[:4096]


def paths(data: bytes) -> Iterator[str]:
    """Absolute paths, also with * and ?, in the order in which they stand there."""
    for match in _PATH.finditer(_COMMENT.sub("", data.decode("utf-8", "replace"))):
        yield match[0].rstrip(".")


def shell_paths(data: bytes) -> Iterator[str]:
    """As `paths`, of a shell script: variables that it sets to a path are put in."""
    text = _COMMENT.sub("", data.decode("utf-8", "replace"))
    for name, value in _ASSIGNED.findall(text):
        text = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", lambda match, value=value: value, text)  # type: ignore[misc]
    yield from paths(text.encode())


def words(data: bytes) -> Iterator[str]:
    """Words of a shell script, of which some are commands."""
    yield from dict.fromkeys(_WORD.findall(_COMMENT.sub("", data.decode("utf-8", "replace"))))


def shebang(data: bytes) -> tuple[str, ...]:
    """Interpreter and argument of a script (execve(2)); `env NAME` is (env, NAME)."""
    if data[:2] != b"#!":
        return ()
    line = data[2:257].split(b"\n", 1)[0].decode("utf-8", "replace").split()
    return tuple(word for word in line if not (word.startswith("-") and len(line) > 1))
