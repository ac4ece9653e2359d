"""`flux executions`: list and show what is recorded; answer, signal and cancel it."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from flux import app as composition
from flux.app import App
from flux.cli import completion, details, inputs, loading, output
from flux.cli.output import CommandError, Exit, command, duration, message
from flux.cli.run import JsonOption
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.errors import FluxError, StoreError
from flux.ports import ExecutionRow
from flux.settings import load
from flux.workflow import Workflow

executions = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List and show executions; answer, signal and cancel them.\n\n\b\nExample:\n"
    "  flux executions list --state paused",
)
_ID_HELP = "The execution, or the first characters of its id (4 or more)."
IdArgument = Annotated[str, typer.Argument(metavar="ID", help=_ID_HELP, autocompletion=completion.executions)]
OpenIdArgument = Annotated[str, typer.Argument(metavar="ID", help=_ID_HELP, autocompletion=completion.open_executions)]
FileOption = Annotated[
    str | None, typer.Option("--file", metavar="FILE[:WORKFLOW]", help="The code, if it is not where it was.")
]
NoRunOption = Annotated[bool, typer.Option("--no-run", help="Only send it; whoever runs the execution delivers it.")]
SHORTEST_PREFIX = 4
SEARCHED = 1_000_000


@executions.command("list")
def list_(
    workflow: Annotated[str | None, typer.Option("--workflow", metavar="NAME", help="Only of this workflow.")] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="STATE", help="Only in this state.", autocompletion=lambda: _STATES),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="At most so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> int:
    """List executions, the newest first.

    \b
    Examples:
      flux executions list --workflow checkout --state failed
      flux executions list --json --limit 1000
    """
    wanted = _state(state)
    app = opened()
    rows = _rows(app, workflow, wanted, limit) if app is not None else []
    if as_json:
        for row in rows:
            output.data_json(_summary(row), indent=None)
    elif rows:
        _print_table(rows, app.clock.now() if app is not None else 0)
    elif app is None:
        message(f"there is no database {load().database} yet: start an execution with  {command('run', 'FILE')}")
    elif workflow or state:
        message("no executions like that: see all with  " + command("executions", "list"))
    else:
        message("no executions yet: start one with  " + command("run", "FILE"))
    return Exit.OK


@executions.command()
def show(
    execution_id: IdArgument,
    show_all: Annotated[bool, typer.Option("--all", help="One line a call, however many there are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it with its whole history as JSON.")] = False,
) -> int:
    """Show an execution: where it stands, what it waits for, and what each call did.

    \b
    Examples:
      flux executions show order-7
      flux executions show 01a1fdb9d981 --json
    """
    app, row = _find(execution_id)
    events = app.store.events(row.execution_id)
    if as_json:
        output.data_json(details.as_data(app.store, row, events))
        return Exit.OK
    from flux.cli.report import print_execution

    print_execution(app.store, row, events, now_us=app.clock.now(), show_all=show_all)
    return Exit.OK


@executions.command()
def export(
    execution_id: IdArgument,
    to: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there, not to stdout.")
    ] = None,
) -> int:
    """Write the history of an execution as text, which flux.testing.replay tries on changed code.

    \b
    Examples:
      flux executions export order-7 -o tests/histories/order-7.json
      flux executions export order-7 | jq .state
    """
    from flux import files
    from flux.domain.exported import export_history

    app, row = _find(execution_id)
    text = export_history(app.engine.context(row))
    if to is None:
        output.data_of_json(text.rstrip("\n"))
    else:
        files.write(to.absolute(), text.encode())
        message(f"{row.execution_id} exported to {to}", style="good")
    return Exit.OK


@executions.command()
def resume(
    execution_id: OpenIdArgument,
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="What the pause gives; read like INPUT of run.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="PAUSE", help="Which pause; the oldest otherwise.")
    ] = None,
    file: FileOption = None,
    no_run: NoRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Answer a pause of an execution, and run it on here.

    If another process runs it, the answer is delivered to that one and its result awaited. A child is run on by its
    parent, so that is run.

    \b
    Examples:
      flux executions resume order-7 yes
      flux executions resume order-7 '{"approved": true}' --name approval
    """
    app, row = _find(execution_id)
    _check_pause(app, row, name)
    root = _root(app, row)
    workflow = None if no_run else _workflow_of(root, file, so=", so nothing was sent")
    app.send_resume(row.execution_id, _value(value), workflow=row.workflow, name=name)
    return _run_on(app, app.row(root.execution_id), workflow, file, as_json=as_json)


@executions.command()
def signal(
    execution_id: OpenIdArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the signal.")],
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="What the wait gives; read like INPUT of run.", show_default=False),
    ] = None,
    file: FileOption = None,
    no_run: NoRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Send a signal to an execution, and run it on here if nobody else does.

    The signal is kept until the execution waits for one of its name.

    \b
    Examples:
      flux executions signal order-7 paid 30
      flux executions signal order-7 paid 30 --no-run
    """
    app, row = _find(execution_id)
    app.send_signal(row.execution_id, name, _value(value))
    return _run_on_if_free(app, row.execution_id, file, no_run=no_run, as_json=as_json)


@executions.command()
def cancel(
    execution_id: OpenIdArgument, file: FileOption = None, no_run: NoRunOption = False, as_json: JsonOption = False
) -> int:
    """Cancel an execution, and run its clean-up here if nobody else runs it.

    \b
    Example:
      flux executions cancel order-7
    """
    app, row = _find(execution_id)
    app.send_cancel(row.execution_id)
    code = _run_on_if_free(app, row.execution_id, file, no_run=no_run, as_json=as_json)
    return Exit.OK if app.row(row.execution_id).state is ExecutionState.CANCELLED else code


def _root(app: App, row: ExecutionRow) -> ExecutionRow:
    """The execution that runs this one: itself, or the one whose child, or child's child, it is."""
    while row.parent_id is not None and (parent := app.get(row.parent_id)) is not None and not parent.state.is_finished:
        row = parent
    return row


def _value(text: str | None) -> Any:
    if text is None:
        return None
    value = inputs.parse(text)
    if note := inputs.note_on(text, value):
        message(note)
    return value


def _run_on_if_free(app: App, execution_id: str, file: str | None, *, no_run: bool, as_json: bool) -> Exit:
    """Run an execution on that was sent something, unless another process does or its code is not to be found."""
    row, workflow = _root(app, app.row(execution_id)), None
    if not no_run and row.state is not ExecutionState.RUNNING:
        try:
            workflow = _workflow_of(row, file)
        except (CommandError, FluxError) as error:
            message(f"it was sent, but the execution cannot be run on here: {error}")
    return _run_on(app, row, workflow, file, as_json=as_json)


def _run_on(
    app: App, row: ExecutionRow, workflow: Workflow[Any, Any] | None, file: str | None, *, as_json: bool
) -> Exit:
    from flux.cli.driving import drive, report_sent

    if workflow is None:
        return report_sent(row, as_json=as_json)
    again = command("run", file or f"{details.source_of(row)}:{row.workflow}", "--id", row.execution_id)
    definition = workflow.definition

    def work() -> ExecutionContext[Any]:
        return app.run_on(definition, row.execution_id)

    return drive(app, row.execution_id, row.workflow, work, again=again, as_json=as_json, row=row)


_STATES = [state.value.lower() for state in ExecutionState]


def _state(text: str | None) -> ExecutionState | None:
    if text is None:
        return None
    try:
        return ExecutionState(text.upper())
    except ValueError:
        raise CommandError(
            f"there is no state {text!r}: it is one of {', '.join(_STATES)}"
            f"{loading.did_you_mean(text.lower(), _STATES)}",
            Exit.USAGE,
        ) from None


def opened() -> App | None:
    """The app, unless there is no database yet: looking must not make one."""
    try:
        is_there = load().database.exists()
    except OSError:
        is_there = True  # It cannot be known: opening it says why.
    return composition.current() if is_there else None


def _rows(app: App, workflow: str | None, state: ExecutionState | None, limit: int) -> list[ExecutionRow]:
    """The rows, after those of dead processes were rescued: nobody runs what says RUNNING otherwise."""
    with suppress(StoreError):
        app.store.rescue(now=app.clock.now())
    return app.store.list(workflow=workflow, state=state, limit=limit)


def _find(text: str) -> tuple[App, ExecutionRow]:
    """The execution of this id, or the only one whose id begins so.

    Raises:
        CommandError: There is none, or several.
    """
    app = opened()
    if app is None:
        _unknown(text, f"there is no database {load().database} yet")
    with suppress(StoreError):
        app.store.rescue(now=app.clock.now())
    row = app.get(text)
    if row is not None:
        return app, row
    if len(text) < SHORTEST_PREFIX:
        _unknown(text, f"and to abbreviate an id, give {SHORTEST_PREFIX} characters or more")
    every = app.store.list(limit=SEARCHED)
    found = [row for row in every if row.execution_id.startswith(text)]
    if not found:
        near = loading.did_you_mean(text, [row.execution_id for row in every[:1000]]).removeprefix("; ")
        _unknown(text, near or f"{command('executions', 'list')} lists those that there are")
    if len(found) > 1:
        ids = ", ".join(row.execution_id for row in found[:5]) + (", …" if len(found) > 5 else "")
        raise CommandError(f"{len(found)} executions begin with {text!r}: give more of the id ({ids})", Exit.USAGE)
    return app, found[0]


def _unknown(text: str, hint: str) -> NoReturn:
    raise CommandError(f"there is no execution {text!r}: {hint}", Exit.NOT_FOUND)


def _check_pause(app: App, row: ExecutionRow, name: str | None) -> None:
    """Refuse what cannot be resumed before its code is loaded; `send_resume` has the last word."""
    if row.state.is_finished:
        raise CommandError(
            f"execution {row.execution_id} is {row.state} and waits for nothing: start a new one instead", Exit.USAGE
        )
    names = [pause.name for pause in app.store.pauses(row.execution_id)]
    if name is not None and names and name not in names:
        raise CommandError(
            f"execution {row.execution_id} has no open pause {name!r}: open is {', '.join(map(repr, names))}"
            f"{loading.did_you_mean(name, names)}",
            Exit.NOT_FOUND,
        )
    if not names:
        how = "" if row.state is ExecutionState.RUNNING else f", or run it on with  {details.run_command(row)}"
        raise CommandError(
            f"execution {row.execution_id} is {row.state} and has no open pause: see what it waits for with  "
            f"{command('executions', 'show', row.execution_id)}{how}",
            Exit.USAGE,
        )


def _workflow_of(row: ExecutionRow, file: str | None, *, so: str = "") -> Workflow[Any, Any]:
    """The code of an execution, found where it was when it started, unless `file` says otherwise.

    Args:
        so: What follows if it is not there.
    """
    target = loading.Target.parse(file) if file else loading.Target(row.location, row.workflow)
    try:
        loaded = loading.load(target.source)
    except CommandError as error:
        if file or error.code is not Exit.NOT_FOUND:
            raise
        raise CommandError(
            f"the code of execution {row.execution_id} is not at {row.location} any more{so}: say where it is with "
            f"--file FILE:{row.workflow}",
            Exit.NOT_FOUND,
        ) from None
    workflow = loaded.pick(target.workflow or row.workflow)
    if workflow.name != row.workflow:
        raise CommandError(
            f"execution {row.execution_id} belongs to the workflow {row.workflow!r}, not to {workflow.name!r}: name "
            f"that one, as in --file {target.source}:{row.workflow}",
            Exit.USAGE,
        )
    return workflow


def _summary(row: ExecutionRow) -> dict[str, Any]:
    return {
        "execution_id": row.execution_id,
        "workflow": row.workflow,
        "state": row.state.value,
        **details.row_times(row),
        "blocked_reason": row.blocked_reason,
    }


def _print_table(rows: list[ExecutionRow], now_us: int) -> None:
    from flux.cli.report import print_table

    table = []
    for row in rows:
        began = row.started_at or row.created_at
        took = duration(row.finished_at - began) if row.finished_at else ""
        state = "BLOCKED" if row.blocked_reason else row.state.value
        table.append((row.execution_id, output.one_line(row.workflow), state, f"{duration(now_us - began)} ago", took))
    print_table(("execution", "workflow", "state", "started", "took"), table, stream=sys.stdout)
