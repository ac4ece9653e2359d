"""The head of an execution; this module is for what it is, where it stands and what it waits for."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flux import serde
from flux.cli.output import command, duration, error_text, one_line, value_text
from flux.cli.remote import Remote
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.ports import ExecutionRow, Store

VALUE_WIDTH = 2_000
SHOWN_CHILDREN, ALL = 20, 1_000_000


def started_with(events: Sequence[ExecutionEvent]) -> Any:
    """The input, displayed."""
    first = events[0] if events else None
    return serde.display(first.data) if first is not None and first.data else None


def output_of(row: ExecutionRow, events: Sequence[ExecutionEvent]) -> Any:
    """The output of a completed execution, the error of a failed one, displayed."""
    last = events[-1] if events else None
    is_over = row.state.is_finished and last is not None and last.type is not Type.WORKFLOW_CANCELLED
    return serde.display(last.data) if is_over and last is not None and last.data else None


def traceback_of(store: Store | Remote, row: ExecutionRow, events: Sequence[ExecutionEvent]) -> str:
    """Where the error of a failed execution was raised; empty for any other."""
    if row.state is not ExecutionState.FAILED or not events or not events[-1].data:
        return ""
    if isinstance(store, Remote):  # What it tells of an error in a history is the view of it.
        return store.traceback(row.execution_id)
    return serde.display_traceback(events[-1].data)


def source_of(row: ExecutionRow) -> str:
    """Where its code is, as a command of this directory would name it."""
    path = Path(row.location)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return row.location


def run_command(row: ExecutionRow) -> str:
    """The command that continues it here."""
    return command("run", f"{source_of(row)}:{row.workflow}", "--id", row.execution_id)


def answers(store: Store | Remote, execution_id: str, events: Sequence[ExecutionEvent]) -> list[tuple[str, str]]:
    """What it, or a child of it, waits for from outside, and the command that brings it."""
    pauses = store.pauses(execution_id)
    name_needed = len(pauses) > 1
    resumes = [
        (
            f'pause "{one_line(pause.name)}"',
            command("executions", "resume", execution_id, "VALUE", *(["--name", pause.name] if name_needed else [])),
        )
        for pause in pauses
    ]
    signalled = [
        (f'signal "{one_line(name)}"', command("executions", "signal", execution_id, name, "VALUE"))
        for name in signals(events)
    ]
    asleep = [child for child in store.list(parent_id=execution_id) if child.state is ExecutionState.PAUSED]
    of_children = [answers(store, child.execution_id, store.events(child.execution_id)) for child in asleep]
    return resumes + signalled + [each for several in of_children for each in several]


def signals(events: Sequence[ExecutionEvent]) -> list[str]:
    """The names of the signals that it waits for."""
    awaited: dict[str, str] = {}
    for event in events:
        if event.name != "wait_for_signal":
            continue
        if event.type is Type.TASK_STARTED and isinstance(arguments := serde.display(event.data or b""), dict):
            awaited[event.call_id] = str(arguments.get("name"))
        else:
            awaited.pop(event.call_id, None)
    return list(awaited.values())


def waits(store: Store | Remote, row: ExecutionRow, events: Sequence[ExecutionEvent], *, now_us: int) -> list[str]:
    """What has to happen for it to go on: one line each."""
    if row.state.is_finished:
        return []
    lines = [f"{what}: {how}" for what, how in answers(store, row.execution_id, events)]
    if row.state is not ExecutionState.SCHEDULED:
        return lines
    if row.blocked_reason is not None:
        lines.append(f"blocked: {one_line(row.blocked_reason)}")
        lines.append(f"change the code, or try it again: {run_command(row)}")
    elif row.wake_at is not None and row.wake_at > now_us:
        due = f"{time_text(row.wake_at)}, in {duration(row.wake_at - now_us)}"
        lines.append(f"timer due {due}; a process must run then:")
        lines.append(run_command(row))
    else:
        lines.append(f"a process to run it: {run_command(row)}")
    return lines


def time_text(microseconds: int) -> str:
    """A time, in UTC."""
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def header(
    store: Store | Remote, row: ExecutionRow, events: Sequence[ExecutionEvent], *, now_us: int
) -> list[tuple[str, str]]:
    """Label and text of each line."""
    started = row.started_at or row.created_at
    end = row.finished_at or now_us
    took = duration(end - started) + ("" if row.finished_at else " so far")
    lines = [
        ("execution", row.execution_id),
        ("workflow", f"{one_line(row.workflow)}  ({one_line(source_of(row)) or os.curdir})"),
        ("state", row.state.value),
        ("input", _cut(value_text(started_with(events)))),
        ("started", f"{time_text(started)}  ({duration(now_us - started)} ago)"),
        ("took", took),
    ]
    output = output_of(row, events)
    if row.state is ExecutionState.FAILED:
        lines.append(("error", error_text(output, VALUE_WIDTH)))
    elif row.state is ExecutionState.COMPLETED:
        lines.append(("output", _cut(value_text(output))))
    if row.parent_id is not None:
        lines.append(("parent", f"{row.parent_id}  (call {row.parent_call})"))
    lines += _labelled("children", _children(store, row.execution_id))
    return lines + _labelled("waits for", waits(store, row, events, now_us=now_us))


def _children(store: Store | Remote, execution_id: str) -> list[str]:
    rows = store.list(parent_id=execution_id, limit=SHOWN_CHILDREN + 1)
    lines = [f"{row.execution_id}  {one_line(row.workflow)}  {row.state.value}" for row in rows[:SHOWN_CHILDREN]]
    return lines + (["…"] if len(rows) > SHOWN_CHILDREN else [])


def _labelled(label: str, lines: Sequence[str]) -> list[tuple[str, str]]:
    return [(label if i == 0 else "", text) for i, text in enumerate(lines)]


def as_data(store: Store | Remote, row: ExecutionRow, events: Sequence[ExecutionEvent]) -> dict[str, Any]:
    """The execution with its history as plain data, for `--json`."""
    output = output_of(row, events)
    failed = row.state is ExecutionState.FAILED
    return {
        "execution_id": row.execution_id,
        "workflow": row.workflow,
        "state": row.state.value,
        "input": started_with(events),
        "output": None if failed else output,
        "error": output if failed else None,
        "traceback": traceback_of(store, row, events) if failed else None,
        **row_times(row),
        "location": row.location,
        "blocked_reason": row.blocked_reason,
        "parent_id": row.parent_id,
        "children": [
            {"execution_id": child.execution_id, "workflow": child.workflow, "state": child.state.value}
            for child in store.list(parent_id=row.execution_id, limit=ALL)
        ],
        "pauses": [{"call_id": pause.call_id, "name": pause.name} for pause in store.pauses(row.execution_id)],
        "signals": [] if row.state.is_finished else signals(events),
        "events": [_event(event) for event in events],
    }


def row_times(row: ExecutionRow) -> dict[str, str | None]:
    """When what happened, in ISO format."""
    times = {name: getattr(row, name) for name in ("created_at", "started_at", "finished_at", "wake_at")}
    return {name: None if at is None else iso(at) for name, at in times.items()}


def _event(event: ExecutionEvent) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "type": event.type.value,
        "source_id": event.source_id,
        "name": event.name,
        "value": serde.display(event.data) if event.data else None,
        "detail": serde.display(event.detail_data) if event.detail_data else {},
        "time": iso(event.time_us),
    }


def iso(microseconds: int) -> str:
    """A time in ISO format, for programs."""
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).isoformat()


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_WIDTH else f"{text[:VALUE_WIDTH]}… ({len(text):,} characters: see --json)"
