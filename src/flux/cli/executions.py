"""`flux executions`: list, show and resume what is recorded."""

import sys
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from flux import app as composition
from flux.app import App
from flux.cli import details, inputs, loading, output
from flux.cli.output import CommandError, Exit, command, duration, message
from flux.cli.run import JsonOption
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.errors import StoreError
from flux.ports import ExecutionRow
from flux.settings import load
from flux.workflow import Workflow

executions = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="List, show and resume executions.\n\n\b\nExample:\n  flux executions list --state paused",
)
IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="The execution, or the first characters of its id (4 or more).")
]
SHORTEST_PREFIX = 4
SEARCHED = 1_000_000


@executions.command("list")
def list_(
    workflow: Annotated[str | None, typer.Option("--workflow", metavar="NAME", help="Only of this workflow.")] = None,
    state: Annotated[str | None, typer.Option("--state", metavar="STATE", help="Only in this state.")] = None,
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
    app = _opened()
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
    events, pauses = app.store.events(row.execution_id), app.store.pauses(row.execution_id)
    if as_json:
        output.data_json(details.as_data(row, events, pauses, with_events=True))
        return Exit.OK
    from flux.cli.report import print_execution

    print_execution(row, events, pauses, now_us=app.clock.now(), show_all=show_all)
    return Exit.OK


@executions.command()
def resume(
    execution_id: IdArgument,
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="What the pause gives; read like INPUT of run.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="PAUSE", help="Which pause; the oldest otherwise.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", metavar="FILE[:WORKFLOW]", help="The code, if it is not where it was.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Answer a pause of an execution, and run it on here.

    If another process runs it, the answer is delivered to that one and its result awaited.

    \b
    Examples:
      flux executions resume order-7 yes
      flux executions resume order-7 '{"approved": true}' --name approval
    """
    from flux.cli.driving import drive

    app, row = _find(execution_id)
    _check_pause(app, row, name)
    workflow = _workflow_of(row, file)
    answer = inputs.parse(value) if value is not None else None
    if value is not None and (note := inputs.note_on(value, answer)):
        message(note)
    app.send_resume(row.execution_id, answer, workflow=workflow.name, name=name)
    row = app.row(row.execution_id)
    again = command("run", file or f"{details.source_of(row)}:{row.workflow}", "--id", row.execution_id)

    def work() -> ExecutionContext[Any]:
        return app.run_on(workflow.definition, row.execution_id)

    return drive(app, row.execution_id, row.workflow, work, again=again, as_json=as_json, row=row)


def _state(text: str | None) -> ExecutionState | None:
    if text is None:
        return None
    try:
        return ExecutionState(text.upper())
    except ValueError:
        names = [state.value.lower() for state in ExecutionState]
        raise CommandError(
            f"there is no state {text!r}: it is one of {', '.join(names)}{loading.did_you_mean(text.lower(), names)}",
            Exit.USAGE,
        ) from None


def _opened() -> App | None:
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
    app = _opened()
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


def _workflow_of(row: ExecutionRow, file: str | None) -> Workflow[Any, Any]:
    """The code of an execution, found where it was when it started, unless `file` says otherwise."""
    target = loading.Target.parse(file) if file else loading.Target(row.location, row.workflow)
    try:
        loaded = loading.load(target.source)
    except CommandError as error:
        if file or error.code is not Exit.NOT_FOUND:
            raise
        raise CommandError(
            f"the code of execution {row.execution_id} is not at {row.location} any more, so nothing was sent: say "
            f"where it is with --file FILE:{row.workflow}",
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
