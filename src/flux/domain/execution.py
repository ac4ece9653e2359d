"""The states of an execution, and the one function that moves it between them."""

from enum import StrEnum
from typing import assert_never

from flux.errors import ExecutionConflictError


class ExecutionState(StrEnum):
    """Who must act next: a worker (SCHEDULED), its owner (RUNNING), someone outside (PAUSED), nobody."""

    SCHEDULED = "SCHEDULED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_finished(self) -> bool:
        """Whether nothing can happen to the execution any more."""
        return self in FINISHED


FINISHED = frozenset({ExecutionState.COMPLETED, ExecutionState.FAILED, ExecutionState.CANCELLED})

SUSPECT_TAKEOVERS = 3  # In a row, without getting further: a worker runs one such execution at a time.
POISON_TAKEOVERS = 5  # It ends whatever runs it: it is put aside.
POISON = (
    f"it was taken over {POISON_TAKEOVERS} times from processes that ended or hung while they ran it, and got no "
    "further in between: look in the task that runs then for what ends the process (an exit, a crash of native code, "
    'too much memory), or give that task executor="process"'
)


class Transition(StrEnum):
    """Everything that can move an execution."""

    CLAIM = "claim"  # A worker takes it.
    SLEEP = "sleep"  # Its owner parks it until a timer.
    PAUSE = "pause"  # Its owner parks it until someone outside acts.
    MESSAGE = "message"  # Something arrived in its inbox.
    RELEASE = "release"  # Its owner gives it back.
    RESCUE = "rescue"  # Its owner is dead.
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


def apply(state: ExecutionState, transition: Transition) -> ExecutionState:
    """The state after a transition.  The store's SQL repeats these rules in its WHERE clauses and CHECKs.

    Raises:
        ExecutionConflictError: The transition does not exist from this state.
    """
    running, scheduled = ExecutionState.RUNNING, ExecutionState.SCHEDULED
    match transition:
        case Transition.CLAIM:
            return _move(transition, state, {scheduled: running})
        case Transition.SLEEP | Transition.RELEASE | Transition.RESCUE:
            return _move(transition, state, {running: scheduled})
        case Transition.PAUSE:
            return _move(transition, state, {running: ExecutionState.PAUSED})
        case Transition.MESSAGE:
            return _move(transition, state, {scheduled: scheduled, running: running, ExecutionState.PAUSED: scheduled})
        case Transition.COMPLETE:
            return _move(transition, state, {running: ExecutionState.COMPLETED})
        case Transition.FAIL:
            return _move(transition, state, {running: ExecutionState.FAILED})
        case Transition.CANCEL:
            return _move(transition, state, {running: ExecutionState.CANCELLED})
        case _:
            assert_never(transition)


def _move(transition: Transition, state: ExecutionState, moves: dict[ExecutionState, ExecutionState]) -> ExecutionState:
    try:
        return moves[state]
    except KeyError:
        raise ExecutionConflictError(
            f"an execution that is {state} cannot {transition}: that is only possible when it is {' or '.join(moves)}"
        ) from None
