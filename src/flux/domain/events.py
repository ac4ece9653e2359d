"""The vocabulary of a history: immutable facts, in order."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from flux import serde
from flux.domain.execution import ExecutionState

__all__ = ["ExecutionEvent", "ExecutionEventType", "ExecutionState"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNDECODED = object()
# Detail of a WORKFLOW_SCHEDULED: the input was not compared with the workflow's annotation yet.
UNCHECKED = serde.encode({"is_checked": False})


class ExecutionEventType(StrEnum):
    """Every type of event; the value is the name."""

    WORKFLOW_SCHEDULED = "WORKFLOW_SCHEDULED"
    WORKFLOW_CLAIMED = "WORKFLOW_CLAIMED"
    WORKFLOW_STARTED = "WORKFLOW_STARTED"
    WORKFLOW_COMPLETED = "WORKFLOW_COMPLETED"
    WORKFLOW_FAILED = "WORKFLOW_FAILED"
    WORKFLOW_PAUSED = "WORKFLOW_PAUSED"
    WORKFLOW_RESUMING = "WORKFLOW_RESUMING"
    WORKFLOW_RESUMED = "WORKFLOW_RESUMED"
    WORKFLOW_CANCELLING = "WORKFLOW_CANCELLING"
    WORKFLOW_CANCELLED = "WORKFLOW_CANCELLED"
    WORKFLOW_SIGNALLED = "WORKFLOW_SIGNALLED"
    TASK_STARTED = "TASK_STARTED"
    TASK_COMPLETED = "TASK_COMPLETED"
    TASK_FAILED = "TASK_FAILED"
    TASK_CANCELLED = "TASK_CANCELLED"
    TASK_PAUSED = "TASK_PAUSED"
    TASK_RESUMED = "TASK_RESUMED"
    TASK_PROGRESS = "TASK_PROGRESS"
    TASK_RETRY_STARTED = "TASK_RETRY_STARTED"
    TASK_RETRY_COMPLETED = "TASK_RETRY_COMPLETED"
    TASK_RETRY_FAILED = "TASK_RETRY_FAILED"
    TASK_FALLBACK_STARTED = "TASK_FALLBACK_STARTED"
    TASK_FALLBACK_COMPLETED = "TASK_FALLBACK_COMPLETED"
    TASK_FALLBACK_FAILED = "TASK_FALLBACK_FAILED"
    TASK_ROLLBACK_STARTED = "TASK_ROLLBACK_STARTED"
    TASK_ROLLBACK_COMPLETED = "TASK_ROLLBACK_COMPLETED"
    TASK_ROLLBACK_FAILED = "TASK_ROLLBACK_FAILED"
    TIMER_FIRED = "TIMER_FIRED"


class ExecutionEvent:
    """One fact of one execution.

    The value is kept as the bytes that are stored and decoded when it is first asked for: most events of a
    replay are only ever looked up.

    Attributes:
        execution_id: The execution that it belongs to.
        seq: Its place in the history, dense from 1.
        type: What happened.
        call_id: The call that it is about; empty for events of the workflow.
        name: Name of the task or the workflow.
        data: The encoded value, or None where there is no value.
        detail_data: Encoded facts of the engine's own (due times, errors of attempts, the parent call), or None.
        time_us: When, in microseconds since the epoch; never less than the event before.
    """

    __slots__ = ("_value", "call_id", "data", "detail_data", "execution_id", "name", "seq", "time_us", "type")

    def __init__(
        self,
        execution_id: str,
        seq: int,
        type: ExecutionEventType,  # noqa: A002 - the public name of the field.
        call_id: str,
        name: str,
        data: bytes | None,
        detail_data: bytes | None,
        *,
        time_us: int,
    ) -> None:
        self.execution_id = execution_id
        self.seq = seq
        self.type = type
        self.call_id = call_id
        self.name = name
        self.data = data
        self.detail_data = detail_data
        self.time_us = time_us
        self._value: Any = _UNDECODED

    @property
    def value(self) -> Any:
        """The decoded value."""
        if self._value is _UNDECODED:
            self._value = None if self.data is None else serde.decode_recorded(self.data)
        return self._value

    def remember(self, value: Any) -> None:
        """Keep a plain value that `data` was just encoded from, so that it need not be decoded."""
        if type(value) in serde.PLAIN:
            self._value = value

    def undecoded(self) -> "ExecutionEvent":
        """The event as it is read from a store: nothing of it decoded yet."""
        return ExecutionEvent(
            self.execution_id,
            self.seq,
            self.type,
            self.call_id,
            self.name,
            self.data,
            self.detail_data,
            time_us=self.time_us,
        )

    def value_copy(self) -> Any:
        """The value, as an object that nobody else holds."""
        if type(self._value) in serde.PLAIN:
            return self._value
        return None if self.data is None else serde.decode(self.data)

    @property
    def detail(self) -> dict[str, Any]:
        """The engine's own facts about this event; empty where there are none."""
        return serde.decode(self.detail_data) if self.detail_data else {}

    def display(self) -> Any:
        """The value as plain data; works without the classes that it was made of."""
        return None if self.data is None else serde.display(self.data)

    @property
    def source_id(self) -> str:
        """The call's id, or `{workflow}_{execution_id}` for an event of the workflow."""
        return self.call_id or f"{self.name}_{self.execution_id}"

    @property
    def time(self) -> datetime:
        """When it happened, in UTC."""
        return _EPOCH + timedelta(microseconds=self.time_us)

    @property
    def id(self) -> str:
        """Unique among all events."""
        return f"{self.execution_id}-{self.seq}"

    def to_dict(self) -> dict[str, Any]:
        """The event as plain data, for display and `to_json`."""
        return {
            "id": self.id,
            "seq": self.seq,
            "type": self.type.value,
            "source_id": self.source_id,
            "name": self.name,
            "value": self.display(),
            "time": self.time.isoformat(),
        }

    def __repr__(self) -> str:
        return f"ExecutionEvent({self.seq}, {self.type}, {self.source_id!r}, {self.name!r})"
