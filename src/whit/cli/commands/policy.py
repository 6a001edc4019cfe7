"""whit policy: policies beside those of apps, as Kubernetes writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whit.cli.commands.rehearsal import check, learn, replay
from whit.cli.invocation import Invocation, command

if TYPE_CHECKING:
    from whit.model.policy import PolicySpec

policy = typer.Typer(name="policy", help="Apply policies of Kubernetes as they are; see what policies would do.")

AppOption = Annotated[str, typer.Option("--app", metavar="APP", help="The policy's app, its namespace.")]


def add(app: typer.Typer) -> None:
    for function in (apply, check, replay, learn, ls, rm):
        command(policy)(function)
    app.add_typer(policy)


def apply(
    run: Invocation,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML with NetworkPolicies or ClusterNetworkPolicies.")],
    app: Annotated[str, typer.Option("--app", metavar="APP", help="The app of policies that name no namespace.")] = "",
) -> None:
    """Add policies, or put them in the place of those with the same name. A namespace is an app.

    They hold when the command ends, for connections that are open too. The annotation `whit/mode: audit` makes a
    policy report what it would deny, and change nothing.

    \b
    Example:
      whit policy apply network-policies.yaml
    """
    from whit.formats.policy.kubernetes import load_policies

    found = load_policies(file, namespace=app or "default")
    run.client.apply_policies(found)
    _print(run, found)


def ls(run: Invocation) -> None:
    """List the policies that were applied by themselves.

    \b
    Example:
      whit policy ls
    """
    _print(run, run.client.policies())


def rm(
    run: Invocation,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The policy's name.")],
    app: AppOption = "",
) -> None:
    """Remove a policy: of an app, or without --app of the whole cluster.

    \b
    Example:
      whit policy rm default-deny --app shop
    """
    run.client.remove_policy(app, name)
    run.output.line(f"removed {f'{app}/' if app else ''}{name}")


def _print(run: Invocation, policies: Sequence[PolicySpec]) -> None:
    if run.json:
        run.output.document([one.model_dump(mode="json") for one in policies])
        return
    rows = [
        (one.app or "(cluster)", one.name, one.tier, ", ".join(one.directions), str(len(one.rules)), one.mode)
        for one in policies
    ]
    run.output.table(("APP", "POLICY", "TIER", "DIRECTIONS", "RULES", "MODE"), rows)
