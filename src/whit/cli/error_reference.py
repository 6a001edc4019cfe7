"""Writes docs/reference/errors.md from the places that raise errors: `python -m whit.cli.error_reference [FILE]`.

The sources are read, not run: a code is there because a line raises it, with the words and the remedy of that line.
What a line puts into its words stands as …, and codes that follow from a key of a file are told by a rule.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from whit.base import errors

SOURCES = Path(__file__).resolve().parents[1]
DEFAULT_FILE = SOURCES.parents[1] / "docs" / "reference" / "errors.md"
MAKERS = {"fault": ("machine-", 0, -1), "mistake": ("first-boot-", 0, 3), "_contradiction": ("machine-", 1, 3)}
"""Functions that put a beginning before their code; where their code is among the arguments, and where the remedy.

The words come after the code."""
READERS = {"one_of": ("… is not known", "known: …"), "parsed": ("… is not what it should be", "see the key's page")}
"""Functions that raise for a value that they cannot read, with a code of their caller's: their words and remedy."""

HEAD = """\
# Errors

*Written by `python -m whit.cli.error_reference`; do not edit.*

Every error has a code, which stays: `whit --json` prints `{"code", "message", "hint", "exit_code"}`. The exit status is
the kind's. A mistake in a file is told with its file, line and key before the words below.

## Kinds

What has no code of its own has that of its kind.

| code | exit status | is |
|---|---|---|
"""
CODES = """
## Codes

… is what the case puts in: a name, a path, a number. Also, a value that a key of a machine file cannot have is
`machine-KEY` (`oomScoreAdj` is `machine-oom-score-adj`), and of a first-boot file `first-boot-KEY`.

| code | kind | what | remedy |
|---|---|---|---|
"""


@dataclass(frozen=True, order=True)
class Raised:
    """A code with the words of one place that raises it, and where that is."""

    code: str
    kind: str
    what: str
    remedy: str
    place: str = ""


@functools.cache
def raised(root: Path = SOURCES) -> tuple[Raised, ...]:
    """Every error with a code of its own, sorted by code."""
    found: list[Raised] = []
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text())
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        hints = _assigned(tree)
        found += (one for call in calls if (one := _raised(call, str(path.relative_to(root)), hints)))
        if path != Path(errors.__file__):
            found += _classes(tree, str(path.relative_to(root)))
    return tuple(sorted(found))


def _raised(call: ast.Call, place: str, assigned: dict[str, str]) -> Raised | None:
    named = {word.arg: word.value for word in call.keywords if word.arg}
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    at = f"{place}:{call.lineno}"
    words, remedy = call.args[:1], named.get("hint")
    if name in MAKERS:
        beginning, position, last = MAKERS[name]
        code, words = beginning + _text(call.args[position], assigned), call.args[position + 1 :]
        remedy = call.args[last] if remedy is None and 0 <= last < len(call.args) else remedy
    else:
        code = _code(named.get("code"), assigned)
    if not code:
        return None
    kind = getattr(errors, name, errors.InputError)
    if name in READERS:
        return Raised(code, kind.code, *READERS[name], at)
    what = _text(words[0] if words else named["message"], assigned)
    return Raised(code, kind.code, what, _text(remedy, assigned) if remedy else kind.remedy, at)


def _code(node: ast.expr | None, assigned: dict[str, str]) -> str:
    """What is text or begins with it; an exit status is none."""
    known = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    return _text(node, assigned) if node is not None and known else ""


def _classes(tree: ast.Module, place: str) -> Iterator[Raised]:
    """Kinds of a single area, which stand in its module; what they are is the first sentence that is said of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            codes = [_text(line.value, {}) for line in node.body if isinstance(line, ast.Assign) and _is_code(line)]
            told = (ast.get_docstring(node) or "").partition(".")[0]
            hints = [word.value for call in ast.walk(node) if isinstance(call, ast.Call) for word in call.keywords]
            remedy = next((_text(hint, {}) for hint in hints if isinstance(hint, ast.Constant) and hint.value), "")
            yield from (Raised(code, "permanent", told, remedy, f"{place}:{node.lineno}") for code in codes)


def _is_code(line: ast.Assign) -> bool:
    return isinstance(line.targets[0], ast.Name) and line.targets[0].id == "code"


def _assigned(tree: ast.Module) -> dict[str, str]:
    """Texts by the names that they are given to; of a name that is used twice, the last."""
    pairs = ((node.targets[0], node.value) for node in ast.walk(tree) if isinstance(node, ast.Assign))
    return {target.id: _text(value, {}) for target, value in pairs if isinstance(target, ast.Name)}


def _text(node: ast.expr, assigned: dict[str, str]) -> str:
    """What is printed, with … for what is not known here."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, assigned) for part in node.values)
    if isinstance(node, ast.Name):
        return assigned.get(node.id, "…")
    return "…"


def kinds() -> Iterator[tuple[str, int, str]]:
    """Of every class of errors: its code, its exit status, and what it is for, as the head of base/errors.py has it."""
    told = {}
    for line in (errors.__doc__ or "").splitlines():
        name, _, meaning = line.strip("│├└─ ").partition(" ")
        told[name] = meaning.strip()
    stack: list[type[errors.WhitError]] = [errors.WhitError]
    while stack:
        kind = stack.pop()
        yield kind.code, kind.exit_code, told.get(kind.__name__, "")
        stack += [one for one in reversed(kind.__subclasses__()) if one.__module__ == errors.__name__]


def reference() -> str:
    """The whole page; a code that is raised in several places has the words of the first that has a remedy."""
    rows = [f"| `{code}` | {status} | {meaning} |" for code, status, meaning in kinds()]
    by_code: dict[str, Raised] = {}
    for one in raised():
        if one.code not in by_code or (one.remedy and not by_code[one.code].remedy):
            by_code[one.code] = one
    lines = [f"| `{one.code}` | `{one.kind}` | {_cell(one.what)} | {_cell(one.remedy)} |" for one in by_code.values()]
    return HEAD + "\n".join(rows) + "\n" + CODES + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    (Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FILE).write_text(reference())
