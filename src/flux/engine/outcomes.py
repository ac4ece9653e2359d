"""How far a runner has come, and how it can end."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from flux import serde
from flux.domain.definitions import Arguments, TaskDefinition, WorkflowDefinition, keep
from flux.domain.events import UNCHECKED, ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import Transition
from flux.domain.execution_context import ExecutionContext
from flux.engine.body import Raised, Returned
from flux.errors import BodyError, FluxError, StoreError
from flux.ports import CachedResult, Store

logger = logging.getLogger("flux.engine")


class Phase(Enum):
    """How far a runner has come."""

    LIVE = "live"  # The body is driven.
    SETTLING = "settling"  # Its end, or its parking, waits for its commit.
    CLOSED = "closed"  # Nothing is recorded, started or delivered any more.


@dataclass(frozen=True, slots=True)
class Settled:
    """Durably finished or paused."""

    context: ExecutionContext[Any]


@dataclass(frozen=True, slots=True)
class Asleep:
    """Unloaded until a timer is due.

    Args:
        wake_at: Microseconds since the epoch.
    """

    wake_at: int


@dataclass(frozen=True, slots=True)
class Superseded:
    """Another owner has it, or its id was taken: nothing that this run did not commit counts."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """The body cannot go on, and no worker will try again until the workflow's version differs or a person asks."""

    error: FluxError


RunOutcome = Settled | Asleep | Superseded | Blocked


def check_beginning(
    workflow: WorkflowDefinition, events: Sequence[ExecutionEvent], secrets: Callable[[Sequence[str]], object]
) -> bytes | None:
    """See that an execution can begin.

    Returns:
        Its input as the workflow's annotation has it, if it was started by who has no code of that.

    Raises:
        FluxError: It must not: the input does not fit, or a secret that the workflow requests is missing.
    """
    if workflow.secret_requests:
        secrets(workflow.secret_requests)
    if not events or events[0].detail_data != UNCHECKED or workflow.encode_input is None:
        return None
    return workflow.encode_input(events[0].value)


def encode_outcome(
    outcome: Returned | Raised, workflow: WorkflowDefinition, execution_id: str, *, is_cancelled: bool
) -> tuple[Transition, Type, bytes]:
    """What is recorded when a body has ended; a result that cannot be recorded fails the execution.

    Args:
        is_cancelled: Whether it was asked to cancel; a body that ends otherwise all the same has its way.
    """
    match outcome:
        case Returned(value):
            try:
                return Transition.COMPLETE, Type.WORKFLOW_COMPLETED, serde.encode(_kept(value, workflow, execution_id))
            except Exception as error:  # noqa: BLE001 - an output storage of the user's may raise anything.
                return Transition.FAIL, Type.WORKFLOW_FAILED, serde.encode(error)
        case Raised(error) if is_cancelled and isinstance(error, asyncio.CancelledError):
            return Transition.CANCEL, Type.WORKFLOW_CANCELLED, serde.encode(None)
        case Raised(error):
            return Transition.FAIL, Type.WORKFLOW_FAILED, serde.encode(error)


def _kept(value: Any, workflow: WorkflowDefinition, execution_id: str) -> Any:
    """The result, or the reference to it where the workflow has an output storage."""
    if workflow.output_storage is None:
        return value
    return keep(workflow.output_storage, f"{workflow.name}_{execution_id}", value)


def waits_for_nothing(workflow: str) -> BodyError:
    """Why a body is blocked that cannot go on."""
    return BodyError(
        f"the body of {workflow!r} waits for something that no task, timer or pause will bring: look for an Event or "
        "Future that nobody sets; the execution continues when the code is changed"
    )


def too_large(execution_id: str) -> StoreError:
    """Why a run ends whose event cannot be stored at all."""
    return StoreError(
        f"an event of execution {execution_id} is too large for the database: return less from the task, for example "
        "the path of a file that it wrote"
    )


def free(store: Store, execution_id: str, fence: int) -> bool:
    """Let others claim an execution; False if the database cannot be written now."""
    try:
        store.release(execution_id, fence=fence)
    except (StoreError, OSError) as error:
        whose = {"execution_id": execution_id}
        logger.warning("execution %s could not be given back: %s", execution_id, error, extra=whose)
        return False
    return True


def warn_of_what_goes_on(execution_id: str) -> None:
    """Say that an execution stays with this process, because a task of it does not stop."""
    logger.warning(
        "a task of execution %s goes on although it was cancelled: others can have it when this process ends",
        execution_id,
        extra={"execution_id": execution_id},
    )


def settle(done: asyncio.Future[RunOutcome], outcome: RunOutcome) -> None:
    """Tell how a run has ended, unless somebody gave it up."""
    if not done.done():
        done.set_result(outcome)


def to_cache(task: TaskDefinition, arguments: Arguments, data: bytes, now: int) -> CachedResult:
    """The result of a task with `cache=`, as equal calls of other executions find it."""
    seconds = task.cache_seconds or 0.0
    expires_at = None if seconds == float("inf") else now + round(seconds * 1_000_000)
    return CachedResult(task.cache_key(arguments), data, expires_at)
