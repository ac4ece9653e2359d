"""The end of an execution without its clean-up, and of one that nobody runs: its code need not be there.

Who runs an execution finds the message that asks for it, and ends it.  Of one that nobody runs the sender becomes the
owner for a moment, so that the fence protects that end like any other.
"""

from collections.abc import Callable, Sequence

from flux import serde, telemetry
from flux.clock import Clock
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.domain.history import AT_ONCE
from flux.ids import new_id
from flux.ports import Append, AppendResult, ExecutionRow, Message, MessageKind, Store

EVERY = 1_000_000
LEASE_US = 10_000_000


def end(store: Store, clock: Clock, execution_id: str, nudge: Callable[[str], None]) -> bool:
    """End an execution that was asked to cancel at once, and all below it, as far as nobody runs them.

    Args:
        nudge: Told of those that somebody runs, perhaps this process.

    Returns:
        Whether anything was ended here.
    """
    row = store.get(execution_id)
    family = [] if row is None else _asked(store, row)
    if not family:
        return False
    store.rescue(now=clock.now())
    worker, count = new_id(), 0
    store.register_worker(worker, lease_expires_at=clock.now() + LEASE_US)
    try:
        for each in family:
            if _end(store, clock, each, worker):
                count += 1
                family += _children(store, each)
            else:
                nudge(each)
    finally:
        store.remove_worker(worker)
    return count > 0


def signalled(message: Message) -> bytes:
    """The value of a signal's event."""
    return serde.encode({"name": message.name, "value": serde.decode(message.data)}, extra_levels=1)


def _asked(store: Store, row: ExecutionRow) -> list[str]:
    """The topmost executions that have not ended: itself, or what a process that died has left below it."""
    if not row.state.is_finished:
        return [row.execution_id]
    return _children(store, row.execution_id)


def _children(store: Store, execution_id: str) -> list[str]:
    found: list[str] = []
    for child in store.list(parent_id=execution_id, limit=EVERY):
        if child.state is ExecutionState.CANCELLED:
            found += _children(store, child.execution_id)
        elif not child.state.is_finished and any(each.is_at_once for each in store.inbox(child.execution_id)):
            found.append(child.execution_id)
    return found


def _end(store: Store, clock: Clock, execution_id: str, worker: str) -> bool:
    store.unblock(execution_id)
    row = store.get(execution_id)
    if row is None or row.state is not ExecutionState.SCHEDULED:
        return False
    claim = store.claim(execution_id, worker=worker, version=row.version, now=clock.now())
    if claim is None:
        return False
    while True:  # What was accepted before the end belongs into the history.
        ending = _ending(claim.row, claim.events, store.inbox(execution_id), clock.now())
        (result,) = store.append([ending])
        if result is not AppendResult.NEWS:
            break
    if result is not AppendResult.STORED:
        return False
    telemetry.emit(
        "events.appended",
        execution_id=execution_id,
        workflow=row.workflow,
        begun_us=row.created_at,
        events=ending.events,
    )
    return True


def _ending(row: ExecutionRow, events: Sequence[ExecutionEvent], messages: Sequence[Message], now: int) -> Append:
    time_us = max(now, events[-1].time_us) if events else now
    facts: list[tuple[Type, bytes | None, bytes | None]] = [(Type.WORKFLOW_CANCELLING, None, AT_ONCE)]
    facts += [(Type.WORKFLOW_SIGNALLED, signalled(each), None) for each in messages if each.kind is MessageKind.SIGNAL]
    facts.append((Type.WORKFLOW_CANCELLED, None, None))
    return Append(
        execution_id=row.execution_id,
        fence=row.fence,
        expected_seq=row.last_seq,
        events=[
            ExecutionEvent(row.execution_id, seq, type_, "", row.workflow, data, detail, time_us=time_us)
            for seq, (type_, data, detail) in enumerate(facts, row.last_seq + 1)
        ],
        state=ExecutionState.CANCELLED,
        consumed=[each.id for each in messages],
        ends_children=True,
    )
