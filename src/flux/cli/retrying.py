"""`flux executions retry`, `fork` and `why`: what to do when one does not go on as it should."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from flux.catalogue import WorkerRow
from flux.cli import details, inputs, output
from flux.cli.executions import FileOption, IdArgument, NoRunOption, find, run_on_if_free, workflow_of
from flux.cli.output import Exit, command, message, one_line
from flux.cli.places import Place
from flux.cli.remote import Remote
from flux.cli.run import JsonOption
from flux.domain.attributes import missing_labels
from flux.domain.events import ExecutionEvent
from flux.domain.execution import ExecutionState
from flux.domain.history import History
from flux.engine.launcher import MISSING
from flux.ports import ExecutionRow

SHOWN_WORKERS = 5
Reason = tuple[str, str]  # What it waits for, and how that is brought about; either may be empty.


def retry(
    execution_id: IdArgument, file: FileOption = None, no_run: NoRunOption = False, as_json: JsonOption = False
) -> int:
    """Try an execution again: a blocked one as it is; of a failed or cancelled one, what did not succeed.

    The latter is a new execution that begins with all that has succeeded, because a finished one never changes.

    \b
    Example:
      flux executions retry order-7
    """
    here, row = find(execution_id)
    again = here.retry(row.execution_id)
    if again.execution_id != row.execution_id:
        message(f"forked {row.execution_id} as {again.execution_id}", style="good")
    return run_on_if_free(here, again.execution_id, file, no_run=no_run, as_json=as_json)


def fork(
    execution_id: IdArgument,
    seq: Annotated[int, typer.Option("--from", metavar="SEQ", min=1, help="The last event that it shares.")],
    input_: Annotated[
        str | None, typer.Option("--input", metavar="INPUT", help="Another input; read like INPUT of run.")
    ] = None,
    new_id: Annotated[str | None, typer.Option("--id", metavar="NEW_ID", help="Of the fork.")] = None,
    file: FileOption = None,
    no_run: NoRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Start an execution that shares the first events of another one, and run it here if nobody else does.

    \b
    Examples:
      flux executions fork order-7 --from 12
      flux executions fork order-7 --from 1 --input '{"amount": 5}' --id order-7b
    """
    here, row = find(execution_id)
    value = MISSING if input_ is None else inputs.parse(input_)
    if value is not MISSING and not isinstance(here, Remote):  # No worker may have told yet what it has to be.
        here.load(workflow_of(row, file).definition)
    new = here.fork(row.execution_id, seq=seq, value=value, new_execution_id=new_id)
    message(f"forked {row.execution_id} as {new.execution_id}", style="good")
    return run_on_if_free(here, new.execution_id, file, no_run=no_run, as_json=as_json)


def why(execution_id: IdArgument, as_json: JsonOption = False) -> int:
    """Say why an execution does not go on: who must act next, and how.

    \b
    Example:
      flux executions why order-7
    """
    here, row = find(execution_id)
    who, reasons = _why(here, row, here.store.events(row.execution_id))
    if as_json:
        waits = [{"what": what, "how": how} for what, how in reasons]
        state, blocked = row.state.value, row.blocked_reason
        output.data_json(
            {"execution_id": row.execution_id, "state": state, "blocked_reason": blocked, "who": who, "why": waits}
        )
        return Exit.OK
    state = "BLOCKED" if row.blocked_reason is not None else row.state.value
    output.data(f"{row.execution_id} is {state}: {who} must act next")
    for what, how in reasons:
        output.data(f"{what}{':  ' if what and how else ''}{how}")
    return Exit.OK


def _why(here: Place, row: ExecutionRow, events: Sequence[ExecutionEvent]) -> tuple[str, list[Reason]]:
    show = command("executions", "show", row.execution_id)
    retry_ = command("executions", "retry", row.execution_id)
    if row.state.is_finished:
        is_retried = row.state is not ExecutionState.COMPLETED
        return "nobody", [("try again what did not succeed", retry_)] if is_retried else [("its result", show)]
    if row.blocked_reason is not None:
        return "whoever writes the code", [(one_line(row.blocked_reason), ""), ("with other code, or again", retry_)]
    if row.state is ExecutionState.RUNNING:
        return "its owner", [(f"it runs {_running(events)}", "")]
    if row.state is ExecutionState.PAUSED:
        return "someone outside", details.answers(here.store, row.execution_id, events) or [("see", show)]
    workers = [each for each in here.catalogue.workers() if each.process]
    serving = [each.process for each in workers if row.workflow in each.workflows]
    due = [] if row.wake_at is None or row.wake_at <= here.clock.now() else [(_due(row, here.clock.now()), "")]
    if serving:
        return "a worker", [*due, (f"served by {', '.join(serving)}", "")]
    return "a worker", [*due, *_unserved(here, row, workers)]


def _unserved(here: Place, row: ExecutionRow, workers: Sequence[WorkerRow]) -> list[Reason]:
    """What a worker must have to run it, and what those that run have not, the nearest first."""
    asked = {each.name: each.labels for each in here.workflows()}.get(row.workflow, {})
    how = command("worker", details.source_of(row) or "FILE", *output.label_options(asked))
    if not asked:  # Or nobody has told of them: a script has started it.
        return [(f"no worker serves {row.workflow!r}, start one, with its labels if it has some", how)]
    what = f"no worker serves {row.workflow!r}, which asks for {output.label_text(asked)}; to start one"
    missing = [(missing_labels(asked, each.labels), each.process) for each in workers]
    nearest = sorted(missing, key=lambda each: len(each[0]))[:SHOWN_WORKERS]
    reasons = [(what, how), *((_lacking(process, labels), "") for labels, process in nearest)]
    if len(workers) > SHOWN_WORKERS:
        reasons.append((f"{len(workers) - SHOWN_WORKERS} more do not serve it", command("workers", "list")))
    return reasons


def _lacking(process: str, labels: Mapping[str, str]) -> str:
    return f"{one_line(process)} {f'lacks {output.label_text(labels)}' if labels else 'has them, but not its code'}"


def _due(row: ExecutionRow, now: int) -> str:
    assert row.wake_at is not None
    return f"a timer is due {details.time_text(row.wake_at)}, in {output.duration(row.wake_at - now)}"


def _running(events: Sequence[ExecutionEvent]) -> str:
    calls = History(events).calls.items()
    names = [f"{one_line(call.started.name)} #{id_}" for id_, call in calls if call.started and not call.outcome]
    return ", ".join(names) or "its body"
