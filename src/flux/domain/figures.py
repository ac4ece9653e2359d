"""What is measured of a database as a whole."""

from collections.abc import Mapping
from dataclasses import dataclass

from flux.domain.execution import ExecutionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What is worth watching.

    Args:
        states: How many executions there are in each.
        blocked: How many cannot be run.
        oldest_due_at: Since when the execution is due that has been so for longest; None: none is.
        workers: How many are registered.
    """

    states: Mapping[ExecutionState, int]
    blocked: int
    oldest_due_at: int | None
    workers: int
