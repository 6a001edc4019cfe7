"""Trust: `trust:` of an app file, and the file of the same shape by which a node says it for all of its apps.

The keys are read here and go along as text, so that what is asked for does not change under a running app.
"""

from __future__ import annotations

from pathlib import Path

from whit.base.errors import BadKey, InputError
from whit.formats import shapes
from whit.formats.app.unsupported import refuse
from whit.formats.nodes import Entry, Value, parse
from whit.formats.problems import Problems
from whit.model.trust import TrustRule

KEYS = ("images", "keys")
_TOP = ("trust",)
_HINT = "write: trust: [{images: 'registry.example.com/*', keys: [release.pub]}]"


def read_trust(entry: Entry | None, directory: Path, problems: Problems) -> tuple[TrustRule, ...]:
    """The rules of `trust:`. What cannot be read is among the problems."""
    rules: list[TrustRule] = []
    with problems.guard():
        for value in shapes.items(entry.value) if entry else ():
            with problems.guard():
                rules.append(_rule(value, directory, problems))
    return tuple(rules)


def load_trust(file: Path) -> tuple[TrustRule, ...]:
    """The rules of a node. Raises InputError, also if there is no such file: what it would ask for is unknown."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "restore it, or unset WHIT_TRUST: until then nothing is started"
        raise InputError(
            f"{file}, which says what has to be signed, cannot be read: {error}", hint=hint, code="trust-unreadable"
        ) from error
    problems = Problems()
    rules: tuple[TrustRule, ...] = ()
    with problems.guard():
        top = shapes.table(parse(text, str(file), lambda found, _: found, problems))
        refuse(top, "", _TOP, problems)
        if "trust" not in top.entries:
            raise InputError("has no trust:", place=top.place, hint=_HINT, code="trust-empty")
        rules = read_trust(top.entries["trust"], file.absolute().parent, problems)
    problems.check()
    return rules


def _rule(value: Value, directory: Path, problems: Problems) -> TrustRule:
    table = shapes.table(value)
    refuse(table, "trust[]", KEYS, problems)
    for key in KEYS:
        if key not in table.entries:
            raise InputError(f"has no {key}", place=table.place, hint=_HINT, code="trust-incomplete")
    files = shapes.one_or_more(table.entries["keys"].value)
    if not files:
        raise InputError(
            "names no key, so nothing could be run", place=table.entries["keys"].place, hint=_HINT, code="trust-no-key"
        )
    return TrustRule(
        images=shapes.text(table.entries["images"].value), keys=tuple(_key(file, directory) for file in files)
    )


def _key(value: Value, directory: Path) -> str:
    path = directory / shapes.text(value)
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise BadKey(f"the key cannot be read: {error}", place=value.place) from error
    if "-----BEGIN PUBLIC KEY-----" not in text:
        raise BadKey(f"{path} is no public key in PEM", place=value.place, hint="whit image keygen makes a pair")
    return text
