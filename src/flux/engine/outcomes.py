"""How far a runner has come, and how it can end."""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from flux import serde
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import Transition
from flux.domain.execution_context import ExecutionContext
from flux.engine.body import Raised, Returned
from flux.errors import FluxError, UnserializableValue


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


def encode_outcome(outcome: Returned | Raised) -> tuple[Transition, Type, bytes]:
    """What is recorded when a body has ended; a result that cannot be recorded fails the execution."""
    match outcome:
        case Returned(value):
            try:
                return Transition.COMPLETE, Type.WORKFLOW_COMPLETED, serde.encode(value)
            except UnserializableValue as error:
                return Transition.FAIL, Type.WORKFLOW_FAILED, serde.encode(error)
        case Raised(error):
            return Transition.FAIL, Type.WORKFLOW_FAILED, serde.encode(error)
