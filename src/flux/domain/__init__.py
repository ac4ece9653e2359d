"""Pure values and rules: no input or output, no await, no clock."""

from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext

__all__ = ["ExecutionContext", "ExecutionEvent", "ExecutionEventType", "ExecutionState"]
