"""Programs that nobody thought of, with tasks in tasks, children, pauses and signals: crashes change nothing of them.

`FLUX_LAW_EXAMPLES` says how many; what is generated is the same in every run.
"""

import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flux.domain.execution import ExecutionState
from support.crashes import Course, Moment, Script, Trial, cancel
from support.law import check_replays, check_same_effects, check_went_on, facts
from support.programs import Program, expected, gives_up, programs, workflow_of
from support.simulation import folder_in_memory

EXAMPLES = int(os.environ.get("FLUX_LAW_EXAMPLES", "60"))
MOMENTS = 10
deterministic = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
scripts = st.sampled_from([Script(), Script(answers_after=2)])


def some(moments: list[Moment], seed: int) -> list[Moment]:
    """A few of them, others for every seed."""
    chance = random.Random(seed)
    return chance.sample(moments, min(len(moments), MOMENTS))


def check(program: Program, script: Script, seed: int) -> None:
    with folder_in_memory() as folder:
        trial = Trial(Path(folder), workflow_of(program, cleans_up=False), script, seed=seed)
        course = trial.run()
        assert course.output == expected(program)
        check_replays(course, prefixes=True)
        for moment in some(course.moments, seed):
            again = trial.run_from(moment)
            check_went_on([moment], again)
            assert (again.state, again.output) == (ExecutionState.COMPLETED, course.output)
            check_replays(again, prefixes=False)
            if not gives_up(program):
                assert facts(again) == facts(course)
                check_same_effects(course, [moment], again)


@pytest.mark.slow
@deterministic
@given(programs, scripts, st.integers(0, 3))
def test_a_program_gives_what_it_must_after_a_crash_at_any_moment(program: Program, script: Script, seed: int) -> None:
    """Nothing that ended is done again, no answer is swapped, nothing diverges; and the history is the same."""
    check(program, script, seed)


@pytest.mark.slow
@settings(deterministic, max_examples=EXAMPLES // 2)
@given(programs, scripts, st.integers(0, 3))
def test_a_program_gives_what_it_must_after_several_crashes(program: Program, script: Script, seed: int) -> None:
    """Each of them in the recovery from the one before."""
    chance = random.Random(seed)
    with folder_in_memory() as folder:
        trial = Trial(Path(folder), workflow_of(program, cleans_up=False), script, seed=seed)
        course, died = trial.run(), []
        while course.moments and len(died) < 4:
            died.append(chance.choice(course.moments))
            course = trial.run_from(died[-1], keeps_moments=True)
            check_went_on(died, course)
        assert (course.state, course.output) == (ExecutionState.COMPLETED, expected(program))


@pytest.mark.slow
@settings(deterministic, max_examples=EXAMPLES // 2)
@given(programs, st.sampled_from([2, 30]), st.integers(0, 3), st.integers(1, 12_000), st.booleans())
def test_a_program_that_is_cancelled_ends_once_after_a_crash_at_any_moment(
    program: Program, answers_after: int, seed: int, at_ms: int, cleans_up: bool
) -> None:
    """At any time, and with a clean-up that does all that the program does."""
    script = Script(sends=(cancel(at_ms / 1000),), answers_after=answers_after)
    with folder_in_memory() as folder:
        trial = Trial(Path(folder), workflow_of(program, cleans_up=cleans_up), script, seed=seed)
        course = trial.run()
        check_ended(course, program)
        check_replays(course, prefixes=True)
        for moment in some(course.moments, seed):
            again = trial.run_from(moment)
            check_went_on([moment], again)
            check_ended(again, program)
            check_replays(again, prefixes=False)


def check_ended(course: Course, program: Program) -> None:
    ends: Any = [(ExecutionState.CANCELLED, None), (ExecutionState.COMPLETED, expected(program))]
    assert (course.state, course.output) in ends
