"""Shapes: what a key expects of its value: text, a number, a truth value, a list, a table.

Each function takes a value and gives it in that shape, or raises InputError at the value's place. What the text means
is the business of the key's reader.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from typing import TypeVar

from whit.base.errors import InputError, Place
from whit.formats.nodes import Listing, Scalar, Table, Value

T = TypeVar("T")

_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def text(value: Value) -> str:
    """Text that is not empty, or a number as it is written."""
    found = text_or_empty(value)
    if not found:
        raise InputError("is empty", place=value.place, hint="give a value, or leave the key out")
    return found


def text_or_empty(value: Value) -> str:
    """Text, or a number as it is written; nothing is empty text."""
    if not isinstance(value, Scalar):
        raise _unlike("text", value)
    return value.text


def whole(value: Value) -> int:
    return parsed(value, int, "a whole number")


def number(value: Value) -> float:
    return parsed(value, _finite, "a number")


def truth(value: Value) -> bool:
    found = text(value).lower()
    if found not in _TRUTH:
        raise InputError(f"{found!r} is not true or false", place=value.place)
    return _TRUTH[found]


def parsed(value: Value, parse: Callable[[str], T], what: str = "", code: str = "") -> T:
    """The text, read by `parse`, whose ValueError tells what is wrong, and after a semicolon the remedy.

    `what` it should be says it in the place of the ValueError.
    """
    found = text(value)
    try:
        return parse(found)
    except ValueError as error:
        wrong, _, remedy = str(error).partition("; ")
        said = f"{found!r} is not {what}" if what else wrong
        raise InputError(said, place=value.place, hint=remedy, code=code) from error


def one_of(value: Value, known: tuple[str, ...], code: str = "") -> str:
    found = text(value)
    if found not in known:
        raise InputError(f"{found!r} is not known", place=value.place, hint=f"known: {', '.join(known)}", code=code)
    return found


def table(value: Value) -> Table:
    """A table; nothing is an empty one."""
    if isinstance(value, Table):
        return value
    if isinstance(value, Scalar) and value.null:
        return Table(value.place, {})
    raise _unlike("a table of keys", value)


def items(value: Value) -> tuple[Value, ...]:
    """The items of a list; nothing is an empty one."""
    if isinstance(value, Listing):
        return value.items
    if isinstance(value, Scalar) and value.null:
        return ()
    raise _unlike("a list", value)


def one_or_more(value: Value) -> tuple[Value, ...]:
    """The items of a list, or the one value that stands for a list of itself."""
    return (value,) if isinstance(value, Scalar) and not value.null else items(value)


def texts(value: Value) -> tuple[str, ...]:
    return tuple(text(item) for item in items(value))


def words(value: Value) -> tuple[str, ...] | None:
    """A command: a list, or text that is split as a shell does. Nothing is None."""
    if isinstance(value, Listing):
        return tuple(text_or_empty(item) for item in value.items)
    if isinstance(value, Scalar) and value.null:
        return None
    if not isinstance(value, Scalar):
        raise _unlike("text or a list", value)
    found = value.text
    try:
        return tuple(shlex.split(found))
    except ValueError as error:
        hint = "close it, or write a list"
        raise InputError(f"the words cannot be told apart: {error}", place=value.place, hint=hint) from error


def assignments(value: Value) -> dict[str, tuple[str | None, Place]]:
    """A table, or a list of `KEY=value`, with the place of each. None: only the key is given."""
    if isinstance(value, Table):
        return {
            key: (
                None if isinstance(entry.value, Scalar) and entry.value.null else text_or_empty(entry.value),
                entry.place,
            )
            for key, entry in value.entries.items()
        }
    found: dict[str, tuple[str | None, Place]] = {}
    for item in items(value):
        key, equals, rest = text(item).partition("=")
        if not key:
            raise InputError("has no name before the =", place=item.place)
        found[key] = (rest if equals else None, item.place)
    return found


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError
    return found


def _unlike(what: str, value: Value) -> InputError:
    kind = {Scalar: "text", Listing: "a list", Table: "a table"}[type(value)]
    found = "nothing" if isinstance(value, Scalar) and value.null else kind
    return InputError(f"must be {what}, and is {found}", place=value.place)
