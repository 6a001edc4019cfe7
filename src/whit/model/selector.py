"""Selector: which labels are meant, as Kubernetes has it (LabelSelector, meta/v1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from whit.model.base import Noun

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]

APP_NAME = "kubernetes.io/metadata.name"
"""Every app has this label with its own name, as every namespace of Kubernetes has."""
SERVICE_NAME = "whit.service"
"""Every service has this label with its own name."""
NETWORK = "whit.network"
"""Every service has a label of this, a slash and the name for each network of its app that it is in."""


class Requirement(Noun):
    """One expression about one label."""

    key: str = Field(min_length=1, description="The label.")
    operator: Operator = Field(description="In, NotIn, Exists or DoesNotExist.")
    values: tuple[str, ...] = Field(default=(), description="For In and NotIn.")

    @model_validator(mode="after")
    def _values_where_they_belong(self) -> Requirement:
        if (self.operator in ("In", "NotIn")) != bool(self.values):
            needs = "needs values" if self.operator in ("In", "NotIn") else "takes no values"
            raise ValueError(f"{self.operator} {needs}")
        return self

    def holds(self, labels: Mapping[str, str]) -> bool:
        """NotIn holds also where the label is missing, as in Kubernetes."""
        if self.operator == "Exists":
            return self.key in labels
        if self.operator == "DoesNotExist":
            return self.key not in labels
        return (labels.get(self.key) in self.values) == (self.operator == "In")

    def __str__(self) -> str:
        if self.operator == "Exists":
            return self.key
        if self.operator == "DoesNotExist":
            return f"!{self.key}"
        return f"{self.key} {'in' if self.operator == 'In' else 'not in'} ({', '.join(self.values)})"


class LabelSelector(Noun):
    """All of it must hold; an empty one selects everything."""

    match_labels: dict[str, str] = Field(default_factory=dict, description="Labels with their values.")
    match_expressions: tuple[Requirement, ...] = Field(default=(), description="Expressions.")

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            requirement.holds(labels) for requirement in self.match_expressions
        )

    def __str__(self) -> str:
        """As kubectl writes it; empty for one that selects everything."""
        return ",".join(
            (*(f"{key}={value}" for key, value in self.match_labels.items()), *map(str, self.match_expressions))
        )

    def __hash__(self) -> int:
        return hash((tuple(self.match_labels.items()), self.match_expressions))
