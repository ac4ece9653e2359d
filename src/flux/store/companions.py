"""What goes with an append, in its transaction: pauses, messages to other executions, a history's new beginning."""

import sqlite3

from flux.ports import NOW, Append, MessageKind
from flux.store.rows import message_checksum
from flux.store.statements import SQL


def move_pauses(cursor: sqlite3.Cursor, number: int, append: Append) -> None:
    """Open and close pauses, and take messages out of the inbox."""
    cursor.executemany(SQL["open_pause"], [(number, pause.call_id, pause.name) for pause in append.opened])
    cursor.executemany(SQL["close_pause"], [(number, call_id) for call_id in append.closed])
    cursor.executemany(SQL["consume_message"], [(number, id_) for id_ in append.consumed])


def deliver(
    cursor: sqlite3.Cursor,
    number: int,
    kind: MessageKind,
    *,
    data: bytes,
    now: int,
    call_id: str = "",
    name: str = "",
    client_id: str | None = None,
) -> None:
    """Put a message into an execution's inbox, and wake it."""
    message = {"execution": number, "kind": kind.value, "call_id": call_id, "name": name, "data": data}
    checksum = message_checksum(number, kind.value, call_id, name, now, data)
    cursor.execute(SQL["send_message"], message | {"now": now, "client_id": client_id, "checksum": checksum})
    cursor.execute(SQL["wake_execution"], {"number": number})


def tell_parent(cursor: sqlite3.Cursor, parent: int | None, call_id: str, append: Append) -> None:
    """Tell the parent, in the transaction that finishes its child, how that ended."""
    if parent is None or cursor.execute(SQL["is_unfinished"], (parent,)).fetchone() is None:
        return
    last = append.events[-1]
    name = last.type.value
    deliver(cursor, parent, MessageKind.CHILD, call_id=call_id, name=name, data=last.data or b"", now=last.time_us)


def ask_to_cancel(cursor: sqlite3.Cursor, number: int, append: Append) -> None:
    """Ask those children to cancel that are not finished."""
    now = append.events[-1].time_us if append.events else 0
    for execution_id in append.cancels:
        found = cursor.execute(SQL["find_unfinished"], (execution_id,)).fetchone()
        if found is not None:
            deliver(cursor, found[0], MessageKind.CANCEL, data=b"", now=now)
    if append.ends_children:
        for (child,) in cursor.execute(SQL["list_unfinished_children"], (number,)).fetchall():
            deliver(cursor, child, MessageKind.CANCEL, name=NOW, data=b"", now=now)


def restart_history(cursor: sqlite3.Cursor, number: int, first_seq: int) -> None:
    """Let a history begin with this event."""
    cursor.execute(SQL["restart_history"], (first_seq, number))
    cursor.execute(SQL["delete_events"], (number, first_seq))
    cursor.execute(SQL["delete_pauses"], (number,))
