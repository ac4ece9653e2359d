"""A recorded history, replayed on the code as it is now: nothing is run, and nothing is written."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flux.domain.definitions import WorkflowDefinition
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.domain.history import History
from flux.engine import divergence, guard, patches
from flux.engine.body import Body, Continued, Raised
from flux.engine.calls import Call
from flux.engine.outcomes import encode_outcome
from flux.errors import BodyError, FluxError, NonDeterminismError
from flux.serde.likeness import alike


def divergence_of(
    workflow: WorkflowDefinition, events: Sequence[ExecutionEvent], *, guard_bodies: bool = True
) -> FluxError | None:
    """Why a body cannot go on with a history, or would not have come to its end; None if it fits.

    Args:
        workflow: The code as it is now.
        events: The history, finished or not.
        guard_bodies: See `Parts`.
    """
    history = History(event.undecoded() for event in events)
    started = next((event for event in history.events if event.type is Type.WORKFLOW_STARTED), None)
    if started is None:
        return None
    patches.install()
    if guard_bodies:
        guard.install()
    context: ExecutionContext[Any] = ExecutionContext(
        started.execution_id, workflow.name, history.events, ExecutionState.RUNNING
    )
    idle = _Idle()
    body = Body(workflow, context, history, started.time_us, idle)
    try:
        body.replay()
        if body.divergence is None and history.is_finished:
            return None if history.is_ended_at_once else _other_end(body, history.events[-1], idle)
        return body.divergence or _failed(body)
    finally:
        body.unload()


class _Idle:
    """Carries out nothing of what a body decides."""

    def __init__(self) -> None:
        self.made: list[tuple[str, bytes]] = []

    def call_made(self, call: Call) -> None:
        self.made.append((call.name, call.arguments.data))

    def call_cancelled(self, call: Call) -> None:
        """It does not run."""

    def combinator_began(self, call_id: str, name: str, data: bytes, parent: str | None) -> None:
        self.made.append((name, data))

    def combinator_ended(self, call_id: str, name: str, outcome: Type, data: bytes) -> None:
        """What follows from that is told of."""


def _failed(body: Body) -> BodyError | None:
    """What would end an execution that is under way: a busy wait, SystemExit."""
    if body.failure is None:
        return None
    return BodyError(f"the execution would fail with {type(body.failure).__name__}: {body.failure}")


def _other_end(body: Body, last: ExecutionEvent, idle: _Idle) -> NonDeterminismError | None:
    """How the end of a finished history differs from what the code makes of it."""
    outcome = Raised(body.failure) if body.failure is not None else body.outcome
    if idle.made:
        return divergence.other_ending(last, "made", *idle.made[0], body.line)
    if outcome is None or isinstance(outcome, Continued):
        return divergence.other_ending(last, "began anew" if outcome else "goes on waiting", line=body.line)
    kept = replace(body.workflow, output_storage=None)
    _, type_, data = encode_outcome(outcome, kept, last.execution_id, is_cancelled=body.is_cancelled)
    is_elsewhere = body.workflow.output_storage is not None and type_ is Type.WORKFLOW_COMPLETED
    if type_ is last.type and (is_elsewhere or alike(last.data, data)):
        return None
    return divergence.other_ending(last, "ended with", type_, data)
