"""Rows of a database, and the values that they stand for."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.domain.execution import ExecutionState
from flux.errors import CorruptedDatabaseError, NewerDatabaseError
from flux.ports import Append, CachedResult, ExecutionRow, Message, MessageKind, NewExecution

RESTORE = (
    "Nothing of it is served. Stop Flux, keep a copy of the file and of the -wal beside it, then restore a backup, or "
    "save what can be read with `sqlite3 FILE .recover`"
)
_TYPES = {type_.value: type_ for type_ in ExecutionEventType}


def checksum(execution_id: str, fields: Sequence[Any]) -> int:
    """The CRC-32 of everything that an event is, lengths included, so that bytes cannot move between fields.

    The execution's id is part of it: an event that strays into another history does not pass there.

    Args:
        execution_id: Whose event.
        fields: Its columns from `seq` to `time_us`, as they are stored.
    """
    seq, fence, type_, call_id, name, data, detail, time_us = fields
    size = -1 if data is None else len(data)
    detail_size = -1 if detail is None else len(detail)
    head = f"{execution_id}\n{seq}\n{fence}\n{type_}\n{call_id}\n{name}\n{time_us}\n{size}\n{detail_size}"
    crc = crc32(head.encode())
    if data:
        crc = crc32(data, crc)
    if detail:
        crc = crc32(detail, crc)
    return crc


def message_checksum(execution: int, kind: str, call_id: str, name: str, sent_at: int, data: bytes) -> int:
    """The CRC-32 of a message in an inbox."""
    return crc32(data, crc32(f"{execution}\n{kind}\n{call_id}\n{name}\n{sent_at}\n{len(data)}".encode()))


def cached_row(result: CachedResult) -> tuple[Any, ...]:
    """A cached result as a row for `cache_result`."""
    key, data, expires_at = result.key, result.data, result.expires_at
    return key, data, expires_at, _cached_checksum(key, expires_at, data)


def message(path: Path, execution_id: str, record: Sequence[Any]) -> Message:
    """A record of `list_messages` as the value that the port speaks of.

    Raises:
        CorruptedDatabaseError: It is not what was written.
    """
    id_, kind, call_id, name, data, sent_at, stored, number = record
    try:
        kind, call_id, name = kind.decode(), call_id.decode(), name.decode()
        if stored in {None, message_checksum(number, kind, call_id, name, sent_at, data)}:
            return Message(id=id_, kind=MessageKind(kind), call_id=call_id, name=name, data=data, sent_at=sent_at)
    except (AttributeError, TypeError, ValueError):
        pass  # Not even of the right types.
    raise _damaged(path, execution_id, f"message {id_} of its inbox is not what was written")


def cached_result(path: Path, key: bytes, record: Sequence[Any]) -> bytes:
    """The bytes of a record of `find_cached_result`.

    Raises:
        CorruptedDatabaseError: They are not what was written.
    """
    data, expires_at, stored = record
    if type(data) is not bytes or stored not in {None, _cached_checksum(key, expires_at, data)}:
        raise CorruptedDatabaseError(f"{path} is damaged: a cached result is not what was written. {RESTORE}")
    return data


def event_rows(
    number: int, execution_id: str, fence: int, after: int, events: Sequence[ExecutionEvent]
) -> list[tuple[Any, ...]]:
    """The events as rows for `append_event`.

    Raises:
        ValueError: A text is not Unicode that can be stored, or the seqs do not follow each other.
    """
    rows = []
    for seq, event in enumerate(events, after + 1):
        if event.seq != seq:
            raise ValueError(f"event {event.seq} of execution {execution_id} stands where {seq} belongs")
        type_, call_id, name = event.type._value_, event.call_id, event.name
        fields = (seq, fence, type_, call_id, name, event.data, event.detail_data, event.time_us)
        rows.append((number, *fields, checksum(execution_id, fields)))
    return rows


def history(path: Path, row: ExecutionRow, after: int, records: Iterable[Sequence[Any]]) -> list[ExecutionEvent]:
    """The records of `read_events` as the events from `after` + 1 to the row's last, or an error.

    Raises:
        CorruptedDatabaseError: An event is missing, or is not what was written.
        NewerDatabaseError: An event is intact but of a type that this Flux does not know.
    """
    execution_id, seq, events = row.execution_id, after, []
    for seq, record in enumerate(records, after + 1):
        event = _event(execution_id, seq, record)
        if event is None:
            raise _damaged(path, execution_id, f"event {seq} is not what was written")
        events.append(event)
    if seq < row.last_seq:
        raise _damaged(path, execution_id, f"event {seq + 1} of {row.last_seq} is missing")
    return events


def execution_row(path: Path, names: Sequence[str], record: Sequence[Any]) -> ExecutionRow:
    """A record of `executions` as the value that the port speaks of.

    Raises:
        CorruptedDatabaseError: Its state does not exist.
    """
    fields = dict(zip(names, record, strict=True))
    try:
        fields["state"] = ExecutionState(fields["state"])
    except ValueError:
        raise _damaged(path, str(fields["execution_id"]), f"state {fields['state']!r} does not exist") from None
    return ExecutionRow(**fields)


def new_row(append: Append, new: NewExecution, number: int) -> ExecutionRow:
    """The row of a new execution: its first append may already park or finish it."""
    is_born_claimed = new.worker is not None
    state = append.state if is_born_claimed else ExecutionState.SCHEDULED
    return ExecutionRow(
        number=number,
        execution_id=append.execution_id,
        namespace=new.namespace,
        workflow=new.workflow,
        version=new.version,
        location=new.location,
        start_digest=new.start_digest,
        state=state,
        worker=new.worker if state is ExecutionState.RUNNING else None,
        fence=1 if is_born_claimed else 0,
        first_seq=1,
        last_seq=len(append.events),
        wake_at=append.wake_at,
        blocked_reason=append.blocked_reason,
        blocked_version=append.blocked_version,
        created_at=new.created_at,
        started_at=new.created_at if is_born_claimed else None,
        finished_at=append.events[-1].time_us if state.is_finished else None,
        parent_id=new.parent.execution_id if new.parent else None,
        parent_call=new.parent.call_id if new.parent else None,
        forked_from=new.forked_from,
    )


def _cached_checksum(key: bytes, expires_at: int | None, data: bytes) -> int:
    return crc32(data, crc32(key, crc32(f"{expires_at}\n{len(data)}".encode())))


def _event(execution_id: str, seq: int, record: Sequence[Any]) -> ExecutionEvent | None:
    stored_seq, fence, type_bytes, call_bytes, name_bytes, data, detail, time_us, crc = record
    try:
        type_, call_id, name = type_bytes.decode(), call_bytes.decode(), name_bytes.decode()
        intact = crc == checksum(execution_id, (stored_seq, fence, type_, call_id, name, data, detail, time_us))
    except (AttributeError, TypeError, ValueError):
        return None  # Not even of the right types: the page is damaged below the values.
    if not intact or stored_seq != seq:
        return None
    if type_ not in _TYPES:
        raise NewerDatabaseError(
            f"event {seq} of execution {execution_id} is {type_}, which this Flux does not know: a newer one wrote it. "
            "Run the execution with that version"
        )
    return ExecutionEvent(execution_id, seq, _TYPES[type_], call_id, name, data, detail, time_us=time_us)


def _damaged(path: Path, execution_id: str, what: str) -> CorruptedDatabaseError:
    return CorruptedDatabaseError(f"{path} is damaged: in execution {execution_id}, {what}. {RESTORE}")
