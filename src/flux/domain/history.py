"""A history, indexed by call: one lookup per call on replay, however long it is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flux import serde
from flux.domain.events import ExecutionEvent, ExecutionEventType

Type = ExecutionEventType

# Detail of an outcome that the body decided by itself (the end of `parallel`, say): replay does not deliver it.
DECIDED_BY_BODY = serde.encode({"decided_by": "body"})
# Detail of a TASK_CANCELLED that a rollback follows: the call has ended when that has.
ROLLS_BACK = serde.encode({"rolls_back": True})
# Detail of a WORKFLOW_CANCELLING that the body was not told of: the execution ends without its clean-up.
AT_ONCE = serde.encode({"now": True})

# Data of a TASK_STARTED: the arguments held a secret that the callee requests, and are not recorded.
WITHHELD = serde.encode("[the arguments held a secret]")

_OUTCOMES = frozenset({Type.TASK_COMPLETED, Type.TASK_FAILED, Type.TASK_CANCELLED, Type.TIMER_FIRED})
_ROLLED_BACK = frozenset({Type.TASK_ROLLBACK_COMPLETED, Type.TASK_ROLLBACK_FAILED})
_ENDS = frozenset({Type.WORKFLOW_COMPLETED, Type.WORKFLOW_FAILED, Type.WORKFLOW_CANCELLED})
_TO_THE_WORKFLOW = frozenset({Type.WORKFLOW_CANCELLING, Type.WORKFLOW_SIGNALLED})


@dataclass(slots=True)
class CallRecord:
    """What history knows of one call."""

    started: ExecutionEvent | None = None  # A timer has none: arming it writes nothing.
    progress: Sequence[ExecutionEvent] = ()  # Attempts, pauses: all between start and outcome; most calls have none.
    outcome: ExecutionEvent | None = None

    def is_start_of(self, name: str, data: bytes) -> bool:
        """Whether a call of this name, with these arguments, is what was started."""
        started = self.started
        return started is not None and ((started.name, started.data) == (name, data) or self.is_withheld)

    @property
    def is_withheld(self) -> bool:
        """Whether the arguments held a secret, and are not recorded."""
        return self.started is not None and self.started.data == WITHHELD

    @property
    def is_rolling_back(self) -> bool:
        """Whether the call was cancelled and is being undone."""
        return any(event.type is Type.TASK_CANCELLED for event in self.progress)


class History:
    """The events of one execution, in order, and the calls that they tell of.

    Args:
        events: The history so far; seqs dense, from 1 unless the execution was started over.
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
        call_id, type_ = event.call_id, event.type
        if not call_id:
            return
        record = self.calls.get(call_id)
        if record is None:
            record = self.calls[call_id] = CallRecord()
        if type_ is Type.TASK_STARTED:
            record.started = event
        elif (type_ in _OUTCOMES and event.detail_data != ROLLS_BACK) or (
            type_ in _ROLLED_BACK and record.is_rolling_back
        ):
            record.outcome = event
        elif isinstance(record.progress, list):
            record.progress.append(event)
        else:
            record.progress = [event]

    def undo(self) -> None:
        """Take back the last event, one of the workflow itself: it was not stored, and something comes before it."""
        self.events.pop()

    def forget_decoded(self) -> None:
        """Have the events as they are read from a store."""
        events = [event.undecoded() for event in self.events]
        self.restart()
        for event in events:
            self.append(event)

    def restart(self) -> None:
        """Forget everything: a fresh history begins."""
        self.events.clear()
        self.calls.clear()

    @property
    def last_seq(self) -> int:
        """The seq of the newest event; 0 if there is none."""
        return self.events[-1].seq if self.events else 0

    @property
    def is_finished(self) -> bool:
        """Whether nothing follows any more."""
        return bool(self.events) and self.events[-1].type in _ENDS

    @property
    def is_ended_at_once(self) -> bool:
        """Whether it was cancelled without its clean-up."""
        return any(event.detail_data == AT_ONCE for event in self.events if event.type is Type.WORKFLOW_CANCELLING)

    def deliveries(self) -> list[ExecutionEvent]:
        """What the body was given, in the order in which it was given."""
        return [event for event in self.events if self._is_delivery(event)]

    def open_inside(self) -> dict[str, list[str]]:
        """The calls made inside tasks that have not ended, in order, by the outermost of these tasks."""
        inside: dict[str, list[str]] = {}
        for call_id, record in self.calls.items():
            if record.outcome is None and is_inner(call_id):
                inside.setdefault(call_id.partition("/")[0], []).append(call_id)
        return inside

    def _is_delivery(self, event: ExecutionEvent) -> bool:
        if not event.call_id:
            return event.type in _TO_THE_WORKFLOW and event.detail_data != AT_ONCE
        if is_inner(event.call_id) or event.detail_data == DECIDED_BY_BODY:
            return False
        return self.calls[event.call_id].outcome is event


def is_inner(call_id: str) -> bool:
    """Whether a call was made inside a task, not by the body."""
    return "/" in call_id
