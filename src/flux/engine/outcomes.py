"""How a run of an execution can end."""

from dataclasses import dataclass
from typing import Any

from flux.domain.execution_context import ExecutionContext
from flux.errors import FluxError


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
