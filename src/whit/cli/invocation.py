"""One run of a command: its settings, the agent's client and how it prints. Also what every command accepts.

The global options --id, --json and --verbose may stand before the command or after it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whit.base.settings import Settings
from whit.cli.display.output import Output, OutputClosed

if TYPE_CHECKING:
    from whit.cli.connection.client import Client

IdOption = Annotated[
    str | None, typer.Option("--id", metavar="ID", help="The agent's id (default: $WHIT_ID, or whit).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON; streams print one document a line.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", help="Say on standard error what is asked and started.")]

NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="APP|SERVICE", help="The app, and services of it; default all.")
]


@dataclass
class Invocation:
    """What the options and the environment settle before a command does anything."""

    id: str | None = None
    json: bool = False
    verbose: bool = False
    command: str = field(default="", init=False)

    @functools.cached_property
    def settings(self) -> Settings:
        settings = Settings.from_environment()
        return replace(settings, id=self.id) if self.id else settings

    @functools.cached_property
    def client(self) -> Client:
        from whit.cli.connection.client import Client

        return Client(self.settings)

    @functools.cached_property
    def output(self) -> Output:
        return Output(json=self.json)

    def take(self, id_: str | None, json: bool, verbose: bool) -> None:
        """Add the options given at one of the two places."""
        self.id = id_ or self.id
        self.json = self.json or json
        if verbose and not self.verbose:
            from whit.base import log

            self.verbose = True
            log.configure(verbose=True)


def of_context(context: typer.Context) -> Invocation:
    """The invocation that main() handed to the parser."""
    root = context.find_root()
    if not isinstance(root.obj, Invocation):
        root.obj = Invocation()
    return root.obj


def command(app: typer.Typer, **settings: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a command whose first parameter is the Invocation, and give it the global options."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(context: typer.Context, id_: str | None, json: bool, verbose: bool, **given: Any) -> Any:
            invocation = of_context(context)
            invocation.command = context.info_name or ""
            invocation.take(id_, json, verbose)
            try:
                return function(invocation, **given)
            except BrokenPipeError as error:  # which Typer would make an exit code 1 of
                raise OutputClosed from error

        run.__signature__ = _signature(function)  # type: ignore[attr-defined]
        run.__annotations__ = {name: p.annotation for name, p in _signature(function).parameters.items()}
        app.command(**settings)(run)
        return function

    return register


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """The command's own parameters, with the context in front and the global options at the end."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
            *(parameter.replace(kind=keyword) for parameter in own),
            inspect.Parameter("id_", keyword, default=None, annotation=IdOption),
            inspect.Parameter("json", keyword, default=False, annotation=JsonOption),
            inspect.Parameter("verbose", keyword, default=False, annotation=VerboseOption),
        ]
    )
