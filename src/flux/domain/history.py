"""A history, indexed by call: one lookup per call on replay, however long it is."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from flux import serde
from flux.domain.events import ExecutionEvent, ExecutionEventType

# Detail of an outcome that the body decided by itself (the end of `parallel`, say): replay does not deliver it.
DECIDED_BY_BODY = serde.encode({"decided_by": "body"})

_OUTCOMES = frozenset(
    {
        ExecutionEventType.TASK_COMPLETED,
        ExecutionEventType.TASK_FAILED,
        ExecutionEventType.TASK_CANCELLED,
        ExecutionEventType.TIMER_FIRED,
    }
)


@dataclass(slots=True)
class CallRecord:
    """What history knows of one call."""

    started: ExecutionEvent | None = None  # A timer has none: arming it writes nothing.
    progress: list[ExecutionEvent] = field(default_factory=list)  # Attempts, pauses: all between start and outcome.
    outcome: ExecutionEvent | None = None


class History:
    """The events of one execution, in order, and the calls that they tell of.

    Args:
        events: The history so far; seqs dense from 1.
    """

    __slots__ = ("calls", "events")

    def __init__(self, events: Iterable[ExecutionEvent] = ()) -> None:
        self.events: list[ExecutionEvent] = []
        self.calls: dict[str, CallRecord] = {}
        for event in events:
            self.append(event)

    def append(self, event: ExecutionEvent) -> None:
        """Add the next event."""
        self.events.append(event)
        if not event.call_id:
            return
        record = self.calls.get(event.call_id)
        if record is None:
            record = self.calls[event.call_id] = CallRecord()
        if event.type is ExecutionEventType.TASK_STARTED:
            record.started = event
        elif event.type in _OUTCOMES:
            record.outcome = event
        else:
            record.progress.append(event)

    @property
    def last_seq(self) -> int:
        """The seq of the newest event; 0 if there is none."""
        return len(self.events)

    def deliveries(self) -> list[ExecutionEvent]:
        """What the body was given, in the order in which it was given."""
        return [e for e in self.events if e.type in _OUTCOMES and e.detail_data != DECIDED_BY_BODY]
