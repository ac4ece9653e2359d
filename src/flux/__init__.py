"""Durable workflows in plain Python: every step recorded, killed anywhere and continued exactly."""

from flux.app import current as _current_app
from flux.domain import ExecutionContext, ExecutionEvent, ExecutionEventType, ExecutionState
from flux.engine.launcher import install as _install
from flux.task import TaskMetadata, task
from flux.tasks.call import call
from flux.tasks.patched import patched
from flux.tasks.pause import pause
from flux.workflow import workflow

_install(_current_app)

__version__ = "0.1.0"

__all__ = [
    "ExecutionContext",
    "ExecutionEvent",
    "ExecutionEventType",
    "ExecutionState",
    "TaskMetadata",
    "call",
    "patched",
    "pause",
    "task",
    "workflow",
]
