"""The head of an execution; this module is for what it is, where it stands and what it waits for."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flux import serde
from flux.cli.output import command, duration, error_text, one_line, value_text
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.ports import ExecutionRow, Pause

VALUE_WIDTH = 2_000


def started_with(events: Sequence[ExecutionEvent]) -> Any:
    """The input, displayed."""
    first = events[0] if events else None
    return serde.display(first.data) if first is not None and first.data else None


def output_of(row: ExecutionRow, events: Sequence[ExecutionEvent]) -> Any:
    """The output of a completed execution, the error of a failed one, displayed."""
    last = events[-1] if events else None
    is_over = row.state.is_finished and last is not None and last.type is not Type.WORKFLOW_CANCELLED
    return serde.display(last.data) if is_over and last is not None and last.data else None


def source_of(row: ExecutionRow) -> str:
    """Where its code is, as a command of this directory would name it."""
    path = Path(row.location)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return row.location


def run_command(row: ExecutionRow) -> str:
    """The command that continues it here."""
    return command("run", f"{source_of(row)}:{row.workflow}", "--id", row.execution_id)


def resume_commands(execution_id: str, pauses: Sequence[Pause]) -> list[tuple[str, str]]:
    """Each open pause's name, and the command that answers it."""
    name_needed = len(pauses) > 1
    return [
        (
            pause.name,
            command("executions", "resume", execution_id, "VALUE", *(["--name", pause.name] if name_needed else [])),
        )
        for pause in pauses
    ]


def waits(row: ExecutionRow, pauses: Sequence[Pause], *, now_us: int) -> list[str]:
    """What has to happen for it to go on: one line each."""
    lines = [f'pause "{one_line(name)}": {how}' for name, how in resume_commands(row.execution_id, pauses)]
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
    row: ExecutionRow, events: Sequence[ExecutionEvent], pauses: Sequence[Pause], *, now_us: int
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
    what = waits(row, pauses, now_us=now_us)
    return lines + [("waits for" if i == 0 else "", text) for i, text in enumerate(what)]


def as_data(
    row: ExecutionRow, events: Sequence[ExecutionEvent], pauses: Sequence[Pause], *, with_events: bool
) -> dict[str, Any]:
    """The execution as plain data, for `--json`."""
    output = output_of(row, events)
    failed = row.state is ExecutionState.FAILED
    data = {
        "execution_id": row.execution_id,
        "workflow": row.workflow,
        "state": row.state.value,
        "input": started_with(events),
        "output": None if failed else output,
        "error": output if failed else None,
        **row_times(row),
        "location": row.location,
        "blocked_reason": row.blocked_reason,
        "pauses": [{"call_id": pause.call_id, "name": pause.name} for pause in pauses],
    }
    if with_events:
        data["events"] = [_event(event) for event in events]
    return data


def row_times(row: ExecutionRow) -> dict[str, str | None]:
    """When what happened, in ISO format."""
    times = {name: getattr(row, name) for name in ("created_at", "started_at", "finished_at", "wake_at")}
    return {name: None if at is None else _iso(at) for name, at in times.items()}


def _event(event: ExecutionEvent) -> dict[str, Any]:
    return {
        "seq": event.seq,
        "type": event.type.value,
        "source_id": event.source_id,
        "name": event.name,
        "value": serde.display(event.data) if event.data else None,
        "detail": serde.display(event.detail_data) if event.detail_data else {},
        "time": _iso(event.time_us),
    }


def _iso(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC).isoformat()


def _cut(text: str) -> str:
    return text if len(text) <= VALUE_WIDTH else f"{text[:VALUE_WIDTH]}… ({len(text):,} characters: see --json)"
