"""What every noun has in common: immutable, strict about unknown keys, and compared by value."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict


class Noun(BaseModel):
    """A document of the API and of the store. Unknown keys are errors when a person wrote them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Numerous(Noun):
    """A noun of which there may be ten thousands. All objects of a class share one set of the fields that were given,
    as nobody asks which these were, and nouns inside that are as if they were left out: with their own each, ten
    thousand services would take 40 MB more."""

    def model_post_init(self, context: Any, /) -> None:
        object.__setattr__(self, "__pydantic_fields_set__", _fields(type(self)))
        fields = self.__dict__
        for name, noun in _default_nouns(type(self)):
            if fields[name] is not noun and fields[name] == noun:
                fields[name] = noun


class Observed(BaseModel):
    """What was seen on a machine. Unknown keys are kept: the next release may have written them."""

    model_config = ConfigDict(extra="allow", frozen=True)


@cache
def _fields(noun: type[BaseModel]) -> set[str]:
    return set(noun.model_fields)


@cache
def _default_nouns(noun: type[BaseModel]) -> tuple[tuple[str, Noun], ...]:
    fields = noun.model_fields.items()
    return tuple((name, field.default) for name, field in fields if isinstance(field.default, Noun))
