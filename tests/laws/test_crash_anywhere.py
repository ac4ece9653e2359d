"""A crash before or after any commit changes nothing, with tasks in tasks, children, signals, pauses and cancellation.

Each story of the table is told without a crash, then again from every moment at which its process could have died:
right after each commit, and right before the next.  Its result is what a reader of its body expects; no effect that
had ended is repeated, no answer is swapped, nothing diverges.
"""

import dataclasses
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.crashes import ENDS, Course, Moment, Trial
from support.law import answers, check_replays, check_same_effects, check_went_on, facts, outcome, place_of
from support.simulation import folder_in_memory
from support.stories import STORIES, Story
from support.world import EXECUTION

SEED = 3
AT_MOST_ONCE = {"once", "once_an_attempt"}

Told = tuple[Story, Trial, Course]


@pytest.fixture(scope="module", params=STORIES)
def told(request: pytest.FixtureRequest) -> Iterator[Told]:
    """A story, and its course without a crash; the fixture is of the module, so that one of them is kept at a time."""
    story = STORIES[request.param]
    with folder_in_memory() as folder:
        trial = Trial(Path(folder), story.workflow, story.script, seed=SEED)
        yield story, trial, trial.run()


def children_alive(moment: Moment) -> list[str]:
    return [each for each, events in moment.stored.items() if each != EXECUTION and events[-1].type not in ENDS]


def test_without_a_crash_a_story_ends_as_a_reader_of_its_body_expects(told: Told) -> None:
    story, _, course = told

    assert outcome(course) == story.outcome_after({})
    check_replays(course, prefixes=True)


def test_from_every_moment_it_goes_on_as_if_nothing_had_happened(told: Told) -> None:
    story, trial, course = told
    assert len(course.moments) > 3
    for moment in course.moments:
        again = trial.run_from(moment)

        check_went_on([moment], again)
        assert outcome(again) == story.outcome_after(moment.stored)
        times = Counter(place_of(e) for e in [*moment.ledger, *again.ledger] if e.name in AT_MOST_ONCE)
        assert max(times.values(), default=0) <= 1
        if story.same == "facts":
            assert facts(again) == facts(course)
        else:
            check_replays(again, prefixes=False)
        if story.same != "output":
            check_same_effects(course, [moment], again)


def test_in_a_world_that_forgets_the_result_is_the_same(told: Told) -> None:
    """What was under way begins anew there, after any downtime."""
    story, trial, course = told
    chance = random.Random(SEED)
    for moment in chance.sample(course.moments, min(5, len(course.moments))):
        forgetful = dataclasses.replace(moment, begun={})
        again = trial.run_from(forgetful, downtime_us=chance.randrange(4_000_000))

        check_went_on([moment], again)
        assert outcome(again) == story.outcome_after(moment.stored)
        check_replays(again, prefixes=False)


def test_it_survives_a_crash_in_the_recovery_from_a_crash(told: Told) -> None:
    story, trial, course = told
    chance = random.Random(SEED)
    for _ in range(2):
        died, again = [], course
        while again.moments and len(died) < 3:
            died.append(chance.choice(again.moments))
            again = trial.run_from(died[-1], keeps_moments=True)

            check_went_on(died, again)
        if not callable(story.expected):
            assert outcome(again) == story.outcome_after({})


def test_it_takes_the_same_course_when_nothing_is_kept_in_memory(told: Told) -> None:
    """The body is dropped after every step, or when it waits."""
    story, trial, course = told
    dropped, unloaded = trial.run(replay_each_step=True), trial.run(unload_after_seconds=10)

    assert outcome(dropped) == outcome(unloaded) == outcome(course)
    assert answers(dropped) == answers(course)
    check_same_effects(course, [], dropped)
    check_same_effects(course, [], unloaded)


def test_a_child_goes_on_while_its_parent_is_dead(told: Told) -> None:
    """Another process has taken up the child only, and dies in its turn."""
    story, trial, course = told
    if any(send.to for send in story.script.sends):
        return  # What is sent to the child would come too late.
    for moment in course.moments[::3]:
        for child in children_alive(moment)[:1]:
            later = trial.run_child_from(moment, child)
            again = trial.run_from(later)

            check_went_on([moment, later] if later is not moment else [moment], again)
            assert outcome(again) == story.outcome_after(moment.stored)


def test_a_parent_goes_on_while_its_children_are_held_by_a_process_that_dies(told: Told) -> None:
    story, trial, course = told
    for moment in course.moments[::3]:
        if children_alive(moment):
            again = trial.run_from(moment, held_seconds=2.5)

            check_went_on([moment], again)
            assert outcome(again) == story.outcome_after(moment.stored)
