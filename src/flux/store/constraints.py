"""What any database refuses to store, for the one that has no constraints."""

import itertools

from flux.domain.events import ExecutionEvent
from flux.domain.execution import ExecutionState
from flux.ports import Append

_LARGEST = 1 << 63


def is_possible(append: Append) -> bool:
    """What the constraints of a database say of a row and its events."""
    is_parked_for_work = append.state is ExecutionState.SCHEDULED or (
        append.create is not None and append.create.worker is None
    )
    is_unconditional = append.wake_at is None and append.blocked_reason is None
    is_blocked = append.blocked_reason is not None
    return (
        (is_parked_for_work or is_unconditional)
        and (is_blocked or append.blocked_version is None)
        and (bool(append.events) or not append.state.is_finished)
        and all(map(_is_storable, append.events, itertools.count(append.expected_seq + 1)))
    )


def _is_storable(event: ExecutionEvent, seq: int) -> bool:
    """What no database would take is refused here, too."""
    try:
        f"{event.call_id}{event.name}".encode()
        values = [value for value in (event.data, event.detail_data) if value is not None]
        return event.seq == seq and all(type(value) is bytes for value in values) and abs(event.time_us) < _LARGEST
    except (UnicodeEncodeError, TypeError):
        return False
