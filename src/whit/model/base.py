"""What every noun has in common: immutable, strict about unknown keys, and compared by value."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Noun(BaseModel):
    """A document of the API and of the store. Unknown keys are errors when a person wrote them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Observed(BaseModel):
    """What was seen on a machine. Unknown keys are kept: the next release may have written them."""

    model_config = ConfigDict(extra="allow", frozen=True)
