"""Environment files: `.env` beside the app file, and those that `env_file` names.

The format is Compose's (docs.docker.com, "env file syntax"): `KEY=value` lines, `#` comments, `export`, '…' as it is,
"…" with escapes, both over several lines. Whose values win is the caller's business.
"""

from __future__ import annotations

import logging
import re
from collections import ChainMap
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from whit.base.errors import InputError, Place
from whit.formats.app.interpolate import interpolate

log = logging.getLogger(__name__)

_KEY = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_.\-]*)[ \t]*(=|(?=#|\n|\Z))[ \t]*")
_SPACE = re.compile(r"\s*")
_BLANK = re.compile(r"\s*(?:#[^\n]*)?(?:\n|\Z)")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BARE = re.compile(r"[^\n]*")
_REST = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_COMMENT = re.compile(r"(?:^|\s)#.*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "$": "$$"}


def read_env_file(path: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of the file. Values may use those above them and those of `environment`, which win.

    A key without `=` takes its value from `environment`, and is left out if it has none there.

    Raises:
        InputError: the file cannot be read, or a line is not understood.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read: {error}", place=Place(str(path))) from error
    return parse_env(text.replace("\r\n", "\n"), str(path), environment)


def parse_env(text: str, file: str, environment: Mapping[str, str]) -> dict[str, str]:
    """As read_env_file, of a file's text."""
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError("has a NUL character", place=Place(file, line, 1), hint="leave it out")
    found: dict[str, str] = {}
    variables = ChainMap(dict(environment), found)
    at, line, counted = 0, 1, 0
    while at < len(text):
        if blank := _BLANK.match(text, at):
            at = blank.end() if blank.end() > at else at + 1
            continue
        key = _KEY.match(text, at)
        space = _SPACE.match(text, at)
        start = space.end() if space else at
        line, counted = line + text.count("\n", counted, start), start
        place = Place(file, line, 1)
        if not key:
            raise InputError("the line is not understood", place=place, hint="write KEY=value")
        place = Place(file, place.line, 1, key[1])
        raw, at = _raw_value(text, key.end(), place) if key[2] else (None, _end(text, key.end(), place))
        if raw is not None:
            found[key[1]] = interpolate(raw, variables, place, partial(_empty, place))
        elif key[1] in environment:
            found[key[1]] = environment[key[1]]
    return found


def _raw_value(text: str, at: int, place: Place) -> tuple[str, int]:
    """The value at `at`, ready for interpolation, and where the next line begins."""
    if match := _SINGLE.match(text, at):
        return match[1].replace("$", "$$"), _end(text, match.end(), place)
    if match := _DOUBLE.match(text, at):
        value = _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), match[1])
        return value, _end(text, match.end(), place)
    if text[at : at + 1] in ("'", '"'):
        raise InputError("the quote is not closed", place=place)
    match = _BARE.match(text, at)
    assert match
    return _COMMENT.sub("", match[0]).strip(), match.end() + 1


def _end(text: str, at: int, place: Place) -> int:
    """Where the next line begins, if nothing but a comment is left of this one."""
    if match := _REST.match(text, at):
        return match.end()
    raise InputError("text follows the value", place=place, hint="put the whole value into quotes")


def _empty(place: Place, name: str) -> str:
    log.warning("%s: the variable %s is not set; it is taken as empty", place, name)
    return ""
