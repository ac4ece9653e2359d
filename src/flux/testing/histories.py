"""Histories, as a test asks about them: which calls were made, with what, and what came of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution_context import ExecutionContext
from flux.domain.exported import import_history
from flux.domain.history import History
from flux.engine.replay import divergence_of
from flux.errors import ExecutionConflictError, NotFoundError
from flux.workflow import Workflow

_OUTCOMES = {
    Type.TASK_COMPLETED: "completed",
    Type.TASK_FAILED: "failed",
    Type.TASK_CANCELLED: "cancelled",
    Type.TASK_ROLLBACK_COMPLETED: "cancelled",
    Type.TASK_ROLLBACK_FAILED: "cancelled",
}


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One call, as a history has it.

    Args:
        name: Of the task, the pause or the child workflow.
        arguments: By name.
        outcome: "completed", "failed", "cancelled" or, if it has not ended, "open".
        value: The result, or the error.
        attempts: How many were begun.
    """

    name: str
    arguments: Mapping[str, Any]
    outcome: str
    value: Any
    attempts: int
    call_id: str

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        again = f", {self.attempts} attempts" if self.attempts > 1 else ""
        value = "" if self.outcome in {"open", "cancelled"} else f": {self.value!r}"
        return f"{self.name}({shown}) {self.outcome}{again}{value}"


def calls_of(context: ExecutionContext[Any]) -> list[RecordedCall]:
    """The calls of an execution, in the order in which they were started.

    Example:
        >>> [(call.name, call.outcome) for call in calls_of(context)]
        [('charge', 'completed'), ('ship', 'failed')]
    """
    return list(_calls(context))


def _calls(context: ExecutionContext[Any]) -> Iterator[RecordedCall]:
    for call_id, record in History(context.events).calls.items():
        if record.started is None:
            continue  # A timer.
        ended, attempts = record.outcome, sum(event.type is Type.TASK_RETRY_STARTED for event in record.progress)
        outcome = _OUTCOMES[ended.type] if ended is not None else "open"
        value = ended.value if ended is not None else None
        yield RecordedCall(record.started.name, _arguments(record.started), outcome, value, attempts + 1, call_id)


def _arguments(started: ExecutionEvent) -> Mapping[str, Any]:
    try:
        return started.value or {}
    except NotFoundError:  # A function or class that has no name to be found by.
        return started.display()  # type: ignore[no-any-return]


def assert_called(
    context: ExecutionContext[Any], name: str, *, times: int | None = None, with_: Mapping[str, Any] | None = None
) -> None:
    """Assert that an execution has called a task.

    Args:
        name: Of the task, the pause or the child workflow, as the history shows it.
        times: Exactly so often; 0 for not at all.  By default once or more.
        with_: Only calls with these arguments count; others that they have do not matter.

    Raises:
        AssertionError: It has not; the message lists the calls that it has made.

    Example:
        >>> assert_called(context, "charge", times=1, with_={"amount": 5})
    """
    calls, wanted = calls_of(context), dict(with_ or {})
    found = [call for call in calls if call.name == name and wanted.items() <= dict(call.arguments).items()]
    if len(found) == times or (times is None and found):
        return
    listed = "\n".join(f"  {call}" for call in calls) or "  none at all"
    what = f"{name}({', '.join(f'{key}={value!r}' for key, value in wanted.items())})"
    expected = "at least once" if times is None else often(times)
    raise AssertionError(
        f"{what} was called {often(len(found))}, and was to be {expected}; the execution {context.execution_id!r} is "
        f"{context.state}, and its calls are\n{listed}"
    )


def often(times: int) -> str:
    """A number of times, in words."""
    return {0: "not at all", 1: "once"}.get(times, f"{times} times")


def replay(history: ExecutionContext[Any] | str, workflow: Workflow[Any, Any]) -> None:
    """Replay a recorded history on the code as it is now; no task runs, and nothing is written.

    A team that keeps the histories of real executions with its code finds out before a release whether the executions
    in flight will go on with it.

    Args:
        history: An execution, finished or not, or the text that `export_history` or `flux executions export` gave.
        workflow: The workflow that it is of.

    Raises:
        NonDeterminismError: The code asks for something else than the history has, or ends otherwise; says what, and at
            which line.
        BodyError: The body did what only a task may do.
        InvalidInputError: The text is no history.
        ExecutionConflictError: The history is of another workflow.

    Example:
        >>> replay(Path("histories/order-7.json").read_text(), order)
    """
    context = import_history(history) if isinstance(history, str) else history
    if context.name != workflow.name:
        raise ExecutionConflictError(
            f"the history is of the workflow {context.name!r}, not of {workflow.name!r}: replay it on that one"
        )
    error = divergence_of(workflow.definition, context.events)
    if error is not None:
        raise error
