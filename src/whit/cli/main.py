"""The whit command: its commands put together, and the one place where it exits.

Importing this module must stay cheap: commands import what they need when they run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer
from typer.main import get_command

from whit.base.errors import InputError, WhitError
from whit.cli.commands import (
    boot,
    building,
    catalog,
    debug,
    doctor,
    execute,
    flows,
    image,
    inspection,
    lifecycle,
    policy,
    service_map,
    surface,
    top,
    trace,
    upgrade,
)
from whit.cli.display.output import OutputClosed, print_error
from whit.cli.invocation import IdOption, Invocation, JsonOption, VerboseOption, of_context

INTERRUPTED = 130
OUTPUT_CLOSED = 141

EXIT_CODES = {
    0: "it worked",
    1: "it failed",
    2: "the input or the command line is wrong",
    3: "what was named does not exist",
    4: "it clashes with something that exists",
    5: "this machine lacks a feature that is needed",
    6: "no agent answers",
    7: "it did not happen in time, or is not healthy",
    INTERRUPTED: "it was interrupted (Ctrl-C)",
    OUTPUT_CLOSED: "the reader of its output went away",
}
"""`whit exec` ends with the status of the command that it ran."""

app = typer.Typer(
    name="whit",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 100},
)


@app.callback(invoke_without_command=True)
def whit(
    context: typer.Context, id_: IdOption = None, json: JsonOption = False, verbose: VerboseOption = False
) -> None:
    """Runs apps that declare what they use, and gives them exactly that.

    The global options may stand before the command or after it.
    """
    of_context(context).take(id_, json, verbose)
    if context.invoked_subcommand is None:
        print(context.get_help())


for area in (
    *(lifecycle, building, boot, upgrade, debug, image, catalog, inspection, surface, execute),
    *(flows, top, service_map, trace, policy, doctor),
):
    area.add(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of the whit command; always exits."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_guarded(given, Invocation()))


def _guarded(given: Sequence[str], invocation: Invocation) -> int:
    """Run the command; whatever happens becomes an exit code and a message."""
    try:
        status = get_command(app)(
            building.with_defaults(given), prog_name="whit", standalone_mode=False, obj=invocation
        )
        sys.stdout.flush()
    except typer.TyperException as error:
        invocation.json = invocation.json or "--json" in given
        return _report(_usage_error(error), invocation)
    except WhitError as error:
        return _report(error, invocation)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except (BrokenPipeError, OutputClosed):
        # What is still buffered has no reader: do not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OUTPUT_CLOSED
    except Exception as error:
        return _report_unexpected(error, invocation)
    return status if isinstance(status, int) else 0


def _report(error: WhitError, invocation: Invocation) -> int:
    print_error(error, json=invocation.json)
    return error.exit_code


def _report_unexpected(error: Exception, invocation: Invocation) -> int:
    if invocation.verbose:
        import traceback

        traceback.print_exception(error)
    hint = "" if invocation.verbose else "--verbose shows where it happened"
    return _report(WhitError(f"{type(error).__name__}: {error}", hint=hint), invocation)


def _usage_error(error: typer.TyperException) -> InputError:
    """A wrong command line, said like every other error."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "whit"
    return InputError(error.format_message().rstrip("."), hint=f"`{path} --help` shows what it takes")


if __name__ == "__main__":
    main()
