"""The `flux` command: its options, its commands, and the one place where its errors are printed."""

import io
import os
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer

from flux import __version__
from flux.cli import output
from flux.cli.check import check
from flux.cli.db import db
from flux.cli.doctor import doctor
from flux.cli.executions import executions
from flux.cli.lint import lint_files
from flux.cli.logs import logs
from flux.cli.output import CommandError, Exit, PipeClosed
from flux.cli.retrying import fork, retry, why
from flux.cli.run import run
from flux.cli.secrets import secrets
from flux.cli.serve import dev, server, worker
from flux.cli.tokens import tokens
from flux.cli.workers import workers
from flux.cli.workflows import workflows
from flux.errors import ExecutionConflictError, FluxError, InvalidValueError, NotFoundError

# Plain help: rich would take a fifth of a second to draw boxes around it.
application = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
application.command()(run)
application.command()(check)
application.command()(doctor)
application.command("lint")(lint_files)
application.command()(dev)
application.command()(server)
application.command()(worker)
for each in (retry, fork, why, logs):
    executions.command()(each)
application.add_typer(executions, name="executions")
application.add_typer(secrets, name="secrets")
application.add_typer(workflows, name="workflows")
application.add_typer(workers, name="workers")
application.add_typer(tokens, name="tokens")
application.add_typer(db, name="db")

_is_verbose = False
_NEGATIVE = re.compile(r"-\.?\d")
_ANYWHERE = {
    "-v": False,
    "--verbose": False,
    "--database": True,
    "--server": True,
    "--token": True,
}  # Whether a value follows.


def _print_version(value: bool) -> None:
    if value:
        output.data(f"flux {__version__}")
        raise typer.Exit


@application.callback()
def _options(
    context: typer.Context,
    database: Annotated[
        Path | None, typer.Option("--database", metavar="PATH", help="The SQLite database [default: .flux/flux.db].")
    ] = None,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="Ask this server, not a database [FLUX_SERVER].")
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", metavar="TOKEN", help="For the server; better set FLUX_TOKEN.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of Flux's own errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Durable workflows in plain Python.

    \b
    Example:
      flux run hello.py World
      flux executions list
      flux executions show ID

    --database, --server, --token and --verbose may stand anywhere. Exit codes: 0 ok, 1 failed, 2 usage,
    3 not found, 4 paused, 130 interrupted.
    """
    del version
    global _is_verbose  # noqa: PLW0603 - for the printer of errors, which runs when the options are gone.
    _is_verbose = verbose
    if database is not None:
        os.environ["FLUX_DATABASE"] = str(database.absolute())
        output.named_database[:] = [str(database)]
        os.environ.pop("FLUX_SERVER", None)
    if server is not None:
        _check_server(context.invoked_subcommand, database)
        os.environ["FLUX_SERVER"] = server
        output.named_server[:] = [server]
    if token is not None:
        os.environ["FLUX_TOKEN"] = token


def _check_server(subcommand: str | None, database: Path | None) -> None:
    if database is not None:
        raise CommandError("--database and --server are two places: name one of them", Exit.USAGE)
    if subcommand not in output.REMOTE:
        raise CommandError(
            f"--server is not for {subcommand}, which works on this machine: leave it out, or use one of "
            f"{', '.join(output.REMOTE)}",
            Exit.USAGE,
        )


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and end the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    code = execute(sys.argv[1:] if arguments is None else arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = Exit.PIPE_CLOSED
    if code is Exit.PIPE_CLOSED:
        _silence(sys.stdout)
    sys.exit(int(code))


def execute(arguments: Sequence[str]) -> int:
    """Run a command line; returns the exit code, and prints what went wrong."""
    try:
        commands = typer.main.get_command(application)
        return int(commands.main(_arranged(arguments, _taking_values(commands)), "flux", standalone_mode=False) or 0)
    except PipeClosed:
        return Exit.PIPE_CLOSED
    except CommandError as error:
        if error.traceback:
            output.message(error.traceback.rstrip())
        output.error(str(error))
        return error.code
    except typer.TyperException as error:
        return _usage(error)
    except FluxError as error:
        if _is_verbose:
            import traceback

            output.message(traceback.format_exc().rstrip())
        output.error(str(error))
        return _code_of(error)
    except OSError as error:
        output.error(f"{error}: see that what the command names can be read here")
        return Exit.FAILED
    except KeyboardInterrupt:
        output.message("interrupted")
        return Exit.INTERRUPTED


def _usage(error: typer.TyperException) -> int:
    text = error.format_message()
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        output.message(text)
    else:
        text = text[:1].lower() + text[1:].rstrip(".?").replace(". Did you", "; did you")
        path = context.command_path if context is not None else "flux"
        output.error(f"{text}: see  {path} --help")
    return Exit.USAGE


def _code_of(error: FluxError) -> Exit:
    match error:
        case NotFoundError():
            return Exit.NOT_FOUND
        case InvalidValueError() | ExecutionConflictError():
            return Exit.USAGE
        case _:
            return Exit.FAILED


def _taking_values(command: Any) -> set[str]:
    """The options of a command, and of those below it, that something follows."""
    found = {
        name
        for option in command.params
        if not getattr(option, "is_flag", True)
        for name in getattr(option, "opts", ())
    }
    return found.union(*map(_taking_values, getattr(command, "commands", {}).values()))


def _arranged(arguments: Sequence[str], taking_values: Collection[str]) -> list[str]:
    """The arguments as typer wants them: options of `flux` itself first, negative numbers behind a `--`.

    Args:
        taking_values: Options behind which a negative number is theirs.
    """
    given = list(arguments)
    rest = given[given.index("--") :] if "--" in given else []
    given = given[: len(given) - len(rest)]
    first: list[str] = []
    others: list[str] = []
    while given:
        argument = given.pop(0)
        name = argument.partition("=")[0]
        if name not in _ANYWHERE:
            others.append(argument)
            continue
        first.append(argument)
        if _ANYWHERE[name] and name == argument:
            if not given:
                raise CommandError(f"the option {name} needs a value: put it behind, as in {name} PATH", Exit.USAGE)
            first.append(given.pop(0))
    before = ["", *others]
    numbers = {n for n, each in enumerate(others) if _NEGATIVE.match(each) and before[n] not in taking_values}
    if numbers and not rest:
        rest = ["--", *(others[n] for n in sorted(numbers))]
        others = [argument for n, argument in enumerate(others) if n not in numbers]
    return [*first, *others, *rest]


def _silence(stream: TextIO) -> None:
    """Let nothing be written any more: Python flushes once more at its end, and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
