"""What a body, and whoever ran it, is told about an execution."""

import json
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.domain.execution import ExecutionState

T = TypeVar("T")

_STARTING = frozenset({ExecutionEventType.WORKFLOW_SCHEDULED, ExecutionEventType.WORKFLOW_STARTED})
_ENDING = frozenset({ExecutionEventType.WORKFLOW_COMPLETED, ExecutionEventType.WORKFLOW_FAILED})


class ExecutionContext(Generic[T]):
    """An execution: its identity, input, history, state and output.

    In a body it shows the history up to the last delivered event, so that what the body reads there replays too.

    Args:
        execution_id: Unique; 32 hex digits unless it was chosen by the caller.
        name: The workflow's name.
        events: The history; in a body a live list, of which the first `visible` events count.
        state: Who must act next.

    Example:
        >>> ctx = order.run({"amount": 5})
        >>> ctx.has_succeeded, ctx.output
    """

    __slots__ = ("_events", "_state", "_visible", "execution_id", "name")

    def __init__(
        self,
        execution_id: str,
        name: str,
        events: Sequence[ExecutionEvent] = (),
        state: ExecutionState = ExecutionState.RUNNING,
    ) -> None:
        self.execution_id = execution_id
        self.name = name
        self._events = events
        self._state = state
        self._visible: int | None = None

    def show_until(self, seq: int) -> None:
        """Let the context show the history up to this event (the engine calls it at each delivery)."""
        self._visible = seq - self._events[0].seq + 1 if self._events else 0

    @property
    def workflow_name(self) -> str:
        """The workflow's name."""
        return self.name

    @property
    def events(self) -> list[ExecutionEvent]:
        """The history, oldest first."""
        return list(self._events if self._visible is None else self._events[: self._visible])

    @property
    def input(self) -> T:
        """What the execution was started with."""
        starting = [event for event in self._events[:2] if event.type in _STARTING]
        return starting[-1].value if starting else None  # type: ignore[return-value]

    @property
    def state(self) -> ExecutionState:
        """Who must act next: a worker, its owner, someone outside, nobody."""
        return self._state

    @property
    def output(self) -> Any:
        """The result of a completed execution, the error of a failed one, else None."""
        last = self._last()
        return last.value if last is not None and last.type in _ENDING else None

    @property
    def has_started(self) -> bool:
        """Whether the body has begun."""
        return any(event.type is ExecutionEventType.WORKFLOW_STARTED for event in self._events[:3])

    @property
    def has_finished(self) -> bool:
        """Whether nothing can happen to it any more."""
        return self._state.is_finished

    @property
    def has_succeeded(self) -> bool:
        """Whether it completed."""
        return self._state is ExecutionState.COMPLETED

    @property
    def has_failed(self) -> bool:
        """Whether it failed."""
        return self._state is ExecutionState.FAILED

    @property
    def is_paused(self) -> bool:
        """Whether only someone outside can move it."""
        return self._state is ExecutionState.PAUSED

    @property
    def has_resumed(self) -> bool:
        """Whether the last thing that happened to the workflow itself is a resume."""
        last = next((e for e in reversed(self.events) if not e.call_id), None)
        return last is not None and last.type is ExecutionEventType.WORKFLOW_RESUMED

    @property
    def is_cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self._state is ExecutionState.CANCELLED

    @property
    def is_cancelling(self) -> bool:
        """Whether a cancellation has reached it and its clean-up is not over."""
        return not self.has_finished and any(e.type is ExecutionEventType.WORKFLOW_CANCELLING for e in self.events)

    def summary(self) -> dict[str, Any]:
        """The execution without its events, as plain data."""
        return {
            "execution_id": self.execution_id,
            "name": self.name,
            "state": self.state.value,
            "input": self._display(self._events[0] if self._events else None, _STARTING),
            "output": self._display(self._last(), _ENDING),
        }

    def to_dict(self) -> dict[str, Any]:
        """The execution with its events, as plain data."""
        return {**self.summary(), "events": [event.to_dict() for event in self.events]}

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    @staticmethod
    def _display(event: ExecutionEvent | None, types: frozenset[ExecutionEventType]) -> Any:
        return event.display() if event is not None and event.type in types else None

    def _last(self) -> ExecutionEvent | None:
        events = self._events if self._visible is None else self._events[: self._visible]
        return events[-1] if events else None

    def __repr__(self) -> str:
        return f"ExecutionContext({self.name!r}, {self.execution_id!r}, {self._state.value})"
