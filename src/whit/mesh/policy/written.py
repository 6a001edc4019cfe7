"""Written rules: what people wrote, as far as verdicts tell it, with file and line. Pure.

A `uses`, a published port and a rule of a policy become lines of the engine, which are known again by their text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from whit.mesh.policy.identities import service_name
from whit.mesh.policy.policies import text_of
from whit.mesh.policy.rules import text_of_port, text_of_use
from whit.model.app import AppSpec
from whit.model.policy import PolicyRuleSpec, PolicySpec
from whit.model.service import UseSpec


@dataclass(frozen=True)
class Written:
    """One rule. `policy` and `rule` are those of a policy; without them it is of the app file itself."""

    text: str
    place: str
    policy: PolicySpec | None = None
    rule: PolicyRuleSpec | None = None
    app: str = ""
    use: UseSpec | None = None
    """Of an app's own."""

    @property
    def title(self) -> str:
        """The text without its place, which stands beside it."""
        return self.text.partition(" [")[0]


def written_in(
    apps: Iterable[AppSpec], policies: Iterable[PolicySpec], places: Mapping[str, str]
) -> dict[str, Written]:
    """By text. `policies` are all, also those that apps bring."""
    found: dict[str, Written] = {}
    for app in apps:
        found |= {one.text: one for one in _of_app(app, places)}
    for policy in policies:
        for number, rule in enumerate(policy.rules, start=1):
            text = text_of(policy, number, rule)
            found[text] = Written(text, rule.origin or policy.origin, policy, rule)
    return found


def _of_app(app: AppSpec, places: Mapping[str, str]) -> Iterator[Written]:
    for name, service in app.services.items():
        who = service_name(app.name, name)
        for number, use in enumerate(service.uses):
            place = places.get(f"{who}.uses[{number}]", "")
            yield Written(text_of_use(who, use), place, app=app.name, use=use)
        for number, port in enumerate(service.ports):
            yield Written(text_of_port(who, port), places.get(f"{who}.ports[{number}]", ""))
