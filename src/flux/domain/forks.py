"""Beginnings of histories, for executions that go on from there: which calls are kept, and which are made anew.

A history that ends anywhere is one that a crash could have left, so every fork of it can be continued.  What was under
way at its end is made anew where it lived outside the history: an open pause, an unfinished child.
"""

from collections.abc import Collection, Sequence

from flux import serde
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.history import History

_ENDS = frozenset({Type.WORKFLOW_COMPLETED, Type.WORKFLOW_FAILED, Type.WORKFLOW_CANCELLED})
_STARTS = frozenset({Type.WORKFLOW_SCHEDULED, Type.WORKFLOW_STARTED})


def beginning(
    events: Sequence[ExecutionEvent],
    execution_id: str,
    *,
    until_seq: int,
    children: Collection[str] = (),
    again: str | None = None,
    input_data: bytes | None = None,
) -> list[ExecutionEvent]:
    """The events with which a fork begins.

    Args:
        events: The history that is forked.
        execution_id: Of the fork.
        until_seq: The last event that it may keep.
        children: The call ids that are child executions.
        again: A call that is made anew, although it has failed.
        input_data: Another input, encoded.

    Returns:
        Events of the new execution, from seq 1.
    """
    kept = [event for event in events if event.seq <= until_seq and event.type not in _ENDS]
    anew = _made_anew(History(kept), children)
    if again is not None:
        anew.add(again)
    fork: list[ExecutionEvent] = []
    for event in kept:
        if any(event.call_id == call_id or event.call_id.startswith(f"{call_id}/") for call_id in anew):
            continue
        data = input_data if input_data is not None and event.type in _STARTS else event.data
        fork.append(
            ExecutionEvent(
                execution_id,
                len(fork) + 1,
                event.type,
                event.call_id,
                event.name,
                data,
                event.detail_data,
                time_us=event.time_us,
            )
        )
    return fork


def failed_call(events: Sequence[ExecutionEvent]) -> ExecutionEvent | None:
    """The failure of a call that failed the execution, as far as that can be seen: the first with the same error."""
    last = events[-1]
    if last.type is not Type.WORKFLOW_FAILED or last.data is None:
        return None
    error = _message(last)
    return next(
        (e for e in events if e.type is Type.TASK_FAILED and "/" not in e.call_id and _message(e) == error), None
    )


def end_of(events: Sequence[ExecutionEvent]) -> int:
    """The seq of the last event before a cancellation, or of the last one."""
    cancelled = next((event.seq for event in events if event.type is Type.WORKFLOW_CANCELLING), None)
    return events[-1].seq if cancelled is None else cancelled - 1


def _made_anew(history: History, children: Collection[str]) -> set[str]:
    return {
        call_id
        for call_id, record in history.calls.items()
        if record.outcome is None
        and (call_id in children or any(event.type is Type.TASK_PAUSED for event in record.progress))
    }


def _message(event: ExecutionEvent) -> str:
    shown = serde.display(event.data) if event.data else None
    return str(shown.get("message")) if isinstance(shown, dict) else ""
