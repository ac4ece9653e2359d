"""The states of an execution, and the one function that moves it."""

import itertools

import pytest

from flux.domain.execution import FINISHED, ExecutionState, Transition, apply
from flux.errors import ExecutionConflictError

S, T = ExecutionState, Transition
MOVES = {
    (S.SCHEDULED, T.CLAIM): S.RUNNING,
    (S.RUNNING, T.SLEEP): S.SCHEDULED,
    (S.RUNNING, T.RELEASE): S.SCHEDULED,
    (S.RUNNING, T.RESCUE): S.SCHEDULED,
    (S.RUNNING, T.PAUSE): S.PAUSED,
    (S.SCHEDULED, T.MESSAGE): S.SCHEDULED,
    (S.RUNNING, T.MESSAGE): S.RUNNING,
    (S.PAUSED, T.MESSAGE): S.SCHEDULED,
    (S.RUNNING, T.COMPLETE): S.COMPLETED,
    (S.RUNNING, T.FAIL): S.FAILED,
    (S.RUNNING, T.CANCEL): S.CANCELLED,
}


@pytest.mark.parametrize(("state", "transition"), list(itertools.product(S, T)), ids=str)
def test_every_transition_leads_where_it_should_or_is_refused(state: S, transition: T) -> None:
    if (state, transition) in MOVES:
        assert apply(state, transition) is MOVES[state, transition]
        return
    with pytest.raises(ExecutionConflictError, match=f"that is {state} cannot {transition}"):
        apply(state, transition)


def test_nothing_moves_a_finished_execution() -> None:
    assert {S.COMPLETED, S.FAILED, S.CANCELLED} == FINISHED
    assert not any(state.is_finished for state, _ in MOVES)


@pytest.mark.parametrize("enum", [ExecutionState], ids=lambda enum: enum.__name__)
def test_states_are_texts_equal_to_their_names(enum: type[S]) -> None:
    assert all(isinstance(member, str) and member.value == member.name == str(member) for member in enum)
