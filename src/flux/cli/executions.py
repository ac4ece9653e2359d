"""`flux executions`: list and show what is recorded; answer, signal and cancel it, here or at a server."""

import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from flux import app as composition
from flux.catalogue import Search
from flux.cli import completion, details, inputs, loading, output
from flux.cli.output import CommandError, Exit, command, duration, message
from flux.cli.places import Place, place
from flux.cli.remote import Remote
from flux.cli.run import JsonOption
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.errors import FluxError
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
NEAR, MANY = 1000, 6  # Ids among which a likely one is looked for; executions of which so many are named.


@executions.command("list")
def list_(
    workflow: Annotated[str | None, typer.Option("--workflow", metavar="NAME", help="Only of this workflow.")] = None,
    state: Annotated[
        str | None,
        typer.Option("--state", metavar="STATE", help="Only in this state.", autocompletion=lambda: _STATES),
    ] = None,
    attribute: Annotated[
        list[str] | None, typer.Option("--attribute", metavar="NAME=VALUE", help="With this attribute; repeatable.")
    ] = None,
    blocked: Annotated[bool, typer.Option("--blocked", help="Only those that no worker can run.")] = False,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Created since 30m, 12h, 7d, or a date."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="At most so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a line.")] = False,
) -> int:
    """List executions, the newest first.

    \b
    Examples:
      flux executions list --workflow checkout --state failed
      flux executions list --json --limit 1000
      flux executions list --attribute customer=42 --since 7d
    """
    here = place()
    search = Search(
        workflow=workflow,
        state=_state(state),
        is_blocked=True if blocked else None,
        attributes=inputs.attributes(attribute or []),
        created_from=_since(since, here.clock.now()) if since is not None and here is not None else None,
        limit=limit,
    )
    rows = here.catalogue.search(search) if here is not None else []
    if as_json:
        for row in rows:
            output.data_json(_summary(row), indent=None)
    elif rows:
        _print_table(rows, here.clock.now() if here is not None else 0)
    elif here is None:
        message(f"there is no database {load().database} yet: start an execution with  {command('run', 'FILE')}")
    elif search != Search(limit=limit):
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
    here, row = find(execution_id)
    events = here.store.events(row.execution_id)
    if as_json:
        output.data_json(details.as_data(here.store, row, events))
        return Exit.OK
    from flux.cli.report import print_execution

    print_execution(here.store, row, events, now_us=here.clock.now(), show_all=show_all)
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

    here, row = find(execution_id)
    if isinstance(here, Remote):
        raise CommandError("a history is exported where its database is: leave --server out there", Exit.USAGE)
    text = export_history(composition.current().engine.context(row))
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
    here, row = find(execution_id)
    _check_pause(here, row, name)
    root = _root(here, row)
    is_run_here = not isinstance(here, Remote) and not no_run
    workflow = workflow_of(root, file, so=", so nothing was sent") if is_run_here else None
    here.resume(row.execution_id, _value(value), name=name)
    return _run_on(here, root.execution_id, workflow, file, no_run=no_run, as_json=as_json)


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
    here, row = find(execution_id)
    here.signal(row.execution_id, name, _value(value))
    is_sent_only = no_run or isinstance(here, Remote)  # Nobody knows whether it goes on for that.
    return run_on_if_free(here, row.execution_id, file, no_run=is_sent_only, as_json=as_json)


@executions.command()
def cancel(
    execution_id: OpenIdArgument,
    now: Annotated[bool, typer.Option("--now", help="End it and its children without any clean-up.")] = False,
    file: FileOption = None,
    no_run: NoRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Cancel an execution, and run its clean-up here if nobody else runs it.

    With --now it ends whatever it does, also when it is blocked or its code is gone: its body is not told, nothing is
    rolled back, and tasks that run are cancelled and not waited for.

    \b
    Examples:
      flux executions cancel order-7
      flux executions cancel order-7 --now
    """
    here, row = find(execution_id)
    here.cancel(row.execution_id, now=now)
    if now:
        code = _run_on(here, row.execution_id, None, file, no_run=no_run, as_json=as_json)
    else:
        code = run_on_if_free(here, row.execution_id, file, no_run=no_run, as_json=as_json)
    return Exit.OK if _row(here, row.execution_id).state is ExecutionState.CANCELLED else code


def _root(here: Place, row: ExecutionRow) -> ExecutionRow:
    """The execution that runs this one: itself, or the one whose child, or child's child, it is."""
    while row.parent_id is not None and (parent := here.store.get(row.parent_id)) and not parent.state.is_finished:
        row = parent
    return row


def _row(here: Place, execution_id: str) -> ExecutionRow:
    row = here.store.get(execution_id)
    return row if row is not None else _unknown(execution_id, "it was there a moment ago")


def _value(text: str | None) -> Any:
    if text is None:
        return None
    value = inputs.parse(text)
    if note := inputs.note_on(text, value):
        message(note)
    return value


def run_on_if_free(here: Place, execution_id: str, file: str | None, *, no_run: bool, as_json: bool) -> Exit:
    """Run an execution on that was sent something, unless another process does or its code is not to be found."""
    row, workflow = _root(here, _row(here, execution_id)), None
    if not no_run and not isinstance(here, Remote) and row.state is not ExecutionState.RUNNING:
        try:
            workflow = workflow_of(row, file)
        except (CommandError, FluxError) as error:
            message(f"it was sent, but the execution cannot be run on here: {error}")
    return _run_on(here, row.execution_id, workflow, file, no_run=no_run, as_json=as_json)


def _run_on(
    here: Place,
    execution_id: str,
    workflow: Workflow[Any, Any] | None,
    file: str | None,
    *,
    no_run: bool,
    as_json: bool,
) -> Exit:
    from flux.cli.driving import drive, report, report_blocked, report_sent

    if not no_run and isinstance(here, Remote):
        row = here.settled(execution_id)
        if row.blocked_reason is not None:
            return report_blocked(row)
        events = here.store.events(execution_id)
        context: ExecutionContext[Any] = ExecutionContext(execution_id, row.workflow, events, row.state)
        return report(here.store, context, took="", as_json=as_json)
    row = _row(here, execution_id)
    if workflow is None and row.state.is_finished:
        ended = ExecutionContext[Any](execution_id, row.workflow, here.store.events(execution_id), row.state)
        return report(here.store, ended, took="", as_json=as_json)
    if workflow is None:
        return report_sent(row, as_json=as_json, is_local=not isinstance(here, Remote))
    again = command("run", file or f"{details.source_of(row)}:{row.workflow}", "--id", row.execution_id)
    app, definition = composition.current(), workflow.definition

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


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def _since(text: str, now_us: int) -> int:
    """A time, or so long ago, in microseconds."""
    ago = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if ago:
        return now_us - int(ago[1]) * _UNITS[ago[2]] * 1_000_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(
            f"{text!r} is no time: write 30m, 12h or 7d, or a date or a time, as in 2026-02-01T09:00", Exit.USAGE
        ) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000_000)


def find(text: str) -> tuple[Place, ExecutionRow]:
    """The execution of this id, or the only one whose id begins so.

    Raises:
        CommandError: There is none, or several.
    """
    here = place()
    if here is None:
        _unknown(text, f"there is no database {load().database} yet")
    row = here.store.get(text)
    if row is not None:
        return here, row
    if len(text) < SHORTEST_PREFIX:
        _unknown(text, f"and to abbreviate an id, give {SHORTEST_PREFIX} characters or more")
    found = here.catalogue.search(Search(id_prefix=text, limit=MANY))
    if not found:
        near = loading.did_you_mean(text, [row.execution_id for row in here.catalogue.search(Search(limit=NEAR))])
        _unknown(text, near.removeprefix("; ") or f"{command('executions', 'list')} lists those that there are")
    if len(found) > 1:
        ids = ", ".join(row.execution_id for row in found[: MANY - 1])
        several, more = (len(found), "") if len(found) < MANY else ("several", ", …")
        raise CommandError(f"{several} executions begin with {text!r}: give more of the id ({ids}{more})", Exit.USAGE)
    return here, found[0]


def _unknown(text: str, hint: str) -> NoReturn:
    raise CommandError(f"there is no execution {text!r}: {hint}", Exit.NOT_FOUND)


def _check_pause(here: Place, row: ExecutionRow, name: str | None) -> None:
    """Refuse what cannot be resumed before its code is loaded; `send_resume` has the last word."""
    if row.state.is_finished:
        raise CommandError(
            f"execution {row.execution_id} is {row.state} and waits for nothing: start a new one instead", Exit.USAGE
        )
    names = [pause.name for pause in here.store.pauses(row.execution_id)]
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


def workflow_of(row: ExecutionRow, file: str | None, *, so: str = "") -> Workflow[Any, Any]:
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


def _print_table(rows: Sequence[ExecutionRow], now_us: int) -> None:
    from flux.cli.report import print_table

    table = []
    for row in rows:
        began = row.started_at or row.created_at
        took = duration(row.finished_at - began) if row.finished_at else ""
        state = "BLOCKED" if row.blocked_reason else row.state.value
        table.append((row.execution_id, output.one_line(row.workflow), state, f"{duration(now_us - began)} ago", took))
    print_table(("execution", "workflow", "state", "started", "took"), table, stream=sys.stdout)
