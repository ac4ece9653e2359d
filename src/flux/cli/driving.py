"""Running an execution on in this process; this module is for what `run` and the commands of executions share."""

import time
from collections.abc import Callable
from typing import Any

from flux import serde
from flux.app import App
from flux.cli import live, output
from flux.cli.details import answers, run_command
from flux.cli.output import EXIT_OF_STATE, Exit, command, duration, error_text, message
from flux.cli.remote import Remote
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.ports import ExecutionRow, Store

Work = Callable[[], ExecutionContext[Any]]


def drive(
    app: App, execution_id: str, workflow: str, work: Work, *, again: str, as_json: bool, row: ExecutionRow | None
) -> Exit:
    """Do the work, show how it goes on stderr, and print what came of it.

    Args:
        work: Runs the execution until it is finished or paused.
        again: The command that continues the execution if this is interrupted.
        row: What was known of the execution before; None for a new one.
    """
    began = time.monotonic()
    rests = row is not None and (row.state.is_finished or row.state is ExecutionState.PAUSED)
    past = app.store.events(execution_id) if row is not None and not rests else []
    try:
        if rests:
            context = work()
        else:
            with live.watching(execution_id, f"{workflow} {execution_id}", past):
                context = work()
    except KeyboardInterrupt:
        is_recorded = app.get(execution_id) is not None
        message(f"interrupted: continue with  {again}" if is_recorded else "interrupted: nothing was recorded yet")
        return Exit.INTERRUPTED
    took = "" if rests else f" in {duration((time.monotonic() - began) * 1e6)}"
    return report(app.store, context, took=took, as_json=as_json)


def report(store: Store | Remote, context: ExecutionContext[Any], *, took: str, as_json: bool) -> Exit:
    """Print an execution that came to rest: the output to stdout, what there is to say about it to stderr."""
    failed = context.state is ExecutionState.FAILED
    shown = serde.to_display(context.output)
    title = f"{context.name} {context.execution_id}"
    if failed and isinstance(context.output, BaseException):
        message(serde.traceback_of(context.output).rstrip())
    match context.state:
        case ExecutionState.COMPLETED:
            message(f"completed {title}{took}", style="good")
        case ExecutionState.PAUSED:
            message(f"paused {title}{took}", style="waiting")
            for what, how in answers(store, context.execution_id, context.events):
                message(f"it waits for {what.removeprefix('pause ')}: answer with  {how}")
        case ExecutionState.FAILED:
            message(f"failed {title}{took}: {error_text(shown, 500)}", style="bad")
            message(f"look at it with  {command('executions', 'show', context.execution_id)}")
        case _:
            message(f"{context.state.value.lower()} {title}{took}", style="bad")
    if as_json:
        result, error = (None, shown) if failed else (shown, None)
        output.data_json(_result(context.execution_id, context.name, context.state, result, error))
    elif not failed:
        output.data_value(shown)
    return EXIT_OF_STATE.get(context.state, Exit.FAILED)


def report_blocked(row: ExecutionRow) -> Exit:
    """Say that no worker can run an execution."""
    message(f"blocked {row.workflow} {row.execution_id}: {row.blocked_reason}", style="bad")
    return Exit.FAILED


def report_sent(row: ExecutionRow, *, as_json: bool, is_local: bool = True) -> Exit:
    """Say that something was sent to an execution that is not run on here."""
    if row.state is ExecutionState.RUNNING:
        message(f"sent to {row.workflow} {row.execution_id}: the process that runs it delivers it", style="good")
    elif not is_local:
        message(f"sent to {row.workflow} {row.execution_id}: a worker delivers it", style="good")
    else:
        message(f"sent to {row.workflow} {row.execution_id}: run it on with  {run_command(row)}", style="good")
    if as_json:
        output.data_json(_result(row.execution_id, row.workflow, row.state, None, None))
    return Exit.OK


def _result(execution_id: str, workflow: str, state: ExecutionState, result: Any, error: Any) -> dict[str, Any]:
    return {
        "execution_id": execution_id,
        "workflow": workflow,
        "state": state.value,
        "output": result,
        "error": error,
    }
