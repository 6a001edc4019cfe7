"""Interpolation: `$V`, `${V}`, `${V:-default}`, `${V-default}`, `${V:?error}`, `${V?error}`, `${V:+other}` and more.

The forms and their meaning are those of the Compose Specification (12-interpolation.md): values may nest, `$$` is a
dollar sign. Where the variables come from, and what a missing one means, is the caller's business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from whit.base.errors import InputError, Place

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATOR = re.compile(r":?[-?+]")
_DOLLAR = "write $$ for a dollar sign"

Missing = Callable[[str], str]


def interpolate(text: str, variables: Mapping[str, str], place: Place, missing: Missing) -> str:
    """`text` with its variables replaced. `missing` gives the value of one that is not set and has no default.

    Raises:
        InputError: the form is not known, is not closed, or `?` finds its variable missing.
    """
    if "$" not in text:
        return text
    try:
        result, end = _Interpolation(text, variables, place, missing).sequence(0, nested=False)
    except RecursionError as error:
        raise InputError("variables are nested too deeply", place=place, hint="use fewer defaults") from error
    assert end == len(text)
    return result


class _Interpolation:
    """A recursive descent over one text. Positions are offsets into it."""

    def __init__(self, text: str, variables: Mapping[str, str], place: Place, missing: Missing) -> None:
        self.text = text
        self.variables = variables
        self.place = place
        self.missing = missing

    def sequence(self, at: int, *, nested: bool, live: bool = True) -> tuple[str, int]:
        """Text and variables up to the end, or up to the `}` of the form around them.

        Without `live` nothing is looked up: the text is a default that is not needed.
        """
        parts: list[str] = []
        while at < len(self.text) and not (nested and self.text[at] == "}"):
            if self.text[at] != "$":
                parts.append(self.text[at])
                at += 1
                continue
            part, at = self.variable(at, live)
            parts.append(part)
        return "".join(parts), at

    def variable(self, at: int, live: bool) -> tuple[str, int]:
        """What stands at the dollar sign at `at`."""
        follower = self.text[at + 1 : at + 2]
        if follower == "$":
            return "$", at + 2
        if follower == "{":
            return self.braced(at + 2, live)
        if not (match := NAME.match(self.text, at + 1)):
            raise self.error(f"`{self.text[at : at + 2]}` is not a variable", _DOLLAR)
        return self.plain(match.group(), live), match.end()

    def plain(self, name: str, live: bool) -> str:
        if not live:
            return ""
        value = self.variables.get(name)
        return self.missing(name) if value is None else value

    def braced(self, at: int, live: bool) -> tuple[str, int]:
        if not (match := NAME.match(self.text, at)):
            raise self.error("`${` must be followed by a variable's name", _DOLLAR)
        name, at = match.group(), match.end()
        if self.text[at : at + 1] == "}":
            return self.plain(name, live), at + 1
        if not (operator := _OPERATOR.match(self.text, at)):
            raise self.error(f"`${{{name}` is not closed, or followed by an unknown operator", "use :- - :? ? :+ or +")
        given = self.variables.get(name)
        present = bool(given) if ":" in operator.group() else given is not None
        wanted = live and present == operator.group().endswith("+")
        word, at = self.sequence(operator.end(), nested=True, live=wanted)
        if self.text[at : at + 1] != "}":
            raise self.error(f"`${{{name}` is not closed", _DOLLAR)
        return self.choose(name, operator.group()[-1], given or "", word, wanted) if live else "", at + 1

    def choose(self, name: str, operator: str, given: str, word: str, wanted: bool) -> str:
        """`word` if it is wanted; what else the operator means if it is not."""
        if operator == "+":
            return word if wanted else ""
        if not wanted:
            return given
        if operator == "?":
            raise self.error(
                f"the variable {name} is needed: {word or 'it is not set'}", f"set {name}, or put it in .env"
            )
        return word

    def error(self, message: str, hint: str) -> InputError:
        return InputError(message, place=self.place, hint=hint)
