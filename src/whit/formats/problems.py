"""Problems: the mistakes of one app file, collected so that a person sees all of them at once.

Readers raise InputError at the first mistake of the value they read; `Problems.guard` keeps it and lets the next value
be read. The text of a mistake is its reader's business.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from whit.base.errors import InputError, Place
from whit.model.service import EndpointSpec

Model = TypeVar("Model", bound=BaseModel | EndpointSpec)


class InvalidApp(InputError):
    """Everything that is wrong with an app file. `problems` has one InputError a mistake, in the order of the file.

    Its code is theirs, if all of them have the same.
    """

    def __init__(self, problems: Sequence[InputError]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(describe(problem) for problem in self.problems))
        self.place = self.problems[0].place
        if len({problem.code for problem in self.problems}) == 1:
            self.code = self.problems[0].code


def describe(problem: InputError) -> str:
    """One line: `file:line:col: key: what is wrong (remedy)`."""
    return f"{problem.message} ({problem.hint})" if problem.hint else problem.message


class Problems:
    """The mistakes found so far; the same mistake reached through two aliases counts once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, int, str], InputError] = {}

    def add(self, problem: InputError) -> None:
        if isinstance(problem, InvalidApp):
            for part in problem.problems:
                self.add(part)
            return
        place = problem.place
        # Through an alias, the same text is reached under several keys; its place tells that it is one mistake.
        text = problem.message.removeprefix(f"{place}: ")
        self._found.setdefault((place.file, place.line, place.column, text), problem)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Keep the InputError that ends the block, and go on after it."""
        try:
            yield
        except InputError as problem:
            self.add(problem)

    def check(self) -> None:
        """Raises InvalidApp if anything was found."""
        if self._found:
            raise InvalidApp(sorted(self._found.values(), key=lambda found: (found.place.line, found.place.column)))

    def __len__(self) -> int:
        return len(self._found)


def make(model: type[Model], place: Place, places: Mapping[str, Place], fields: Mapping[str, Any]) -> Model:
    """A noun of the fields. What it refuses is told at the field's place, else at `place`. Raises InvalidApp."""
    try:
        return model(**fields)
    except ValidationError as error:
        raise InvalidApp([_refusal(detail, place, places) for detail in error.errors()]) from error


def _refusal(detail: ErrorDetails, place: Place, places: Mapping[str, Place]) -> InputError:
    text = detail["msg"].removeprefix("Value error, ")
    if detail.get("ctx", {}).get("pattern") == "^/":
        text = "must be an absolute path"
    where = places.get(str(detail["loc"][0]), place) if detail["loc"] else place
    return InputError(text[:1].lower() + text[1:], place=where)


def near(name: str, known: Iterable[str]) -> str:
    """`did you mean api?`, else `known: api, db`, for a name that is not known."""
    names = sorted(known)
    if close := difflib.get_close_matches(name, names, n=3):
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(names)}" if names else "there are none"
