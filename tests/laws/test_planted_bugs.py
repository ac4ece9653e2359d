"""Controls: engines with a bug, each of which the law of crashes must find."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import Transition
from flux.domain.history import History
from flux.engine import attempt, children, journal, lineage, open_calls, runner
from flux.ids import child_id
from flux.ports import Append, AppendResult, Message, MessageKind
from flux.store.sqlite import SqliteStore
from support.crashes import Course, Moment, Trial
from support.law import check_same_effects, check_went_on, facts
from support.simulation import folder_in_memory
from support.stories import STORIES, Story

Patch = pytest.MonkeyPatch


def breaches(name: str) -> list[str]:
    """How one story breaks the law, without a crash or with one."""
    story, found = STORIES[name], []
    with folder_in_memory() as folder:
        trial = Trial(Path(folder), story.workflow, story.script, seed=3)
        try:
            course = trial.run()
            assert (course.state, course.output) == story.outcome_after({}), "another result"
        except (AssertionError, RuntimeError) as error:
            return [str(error)]
        for moment in course.moments:
            try:
                check(story, course, moment, trial.run_from(moment))
            except (AssertionError, RuntimeError) as error:
                found.append(str(error))
    return found


def check(story: Story, course: Course, moment: Moment, again: Course) -> None:
    """The law, for one moment of a story."""
    assert (again.state, again.output) == story.outcome_after(moment.stored), "another result"
    check_went_on([moment], again)
    if story.same == "facts" and facts(again) != facts(course):
        raise AssertionError("other facts")  # An `assert` would take long to explain it.
    if story.same != "output":
        check_same_effects(course, [moment], again)


def inner_calls_are_counted(patch: Patch) -> None:
    """Instead of being known by the branch that makes them."""
    counts: dict[Any, Any] = defaultdict(lambda: itertools.count(1))
    patch.setattr(lineage.Branch, "next_call", lambda self: str(next(counts[self.attempt])))


def an_inner_failure_answers_in_every_attempt(patch: Patch) -> None:
    fits = attempt.Attempt._fits

    def answered(self: Any, record: Any, name: str, data: bytes, *, is_pure: bool) -> bool:
        failed = record.outcome is not None and record.outcome.type is Type.TASK_FAILED
        return failed or fits(self, record, name, data, is_pure=is_pure)

    patch.setattr(attempt.Attempt, "_fits", answered)


def an_inner_success_answers_in_no_attempt(patch: Patch) -> None:
    patch.setattr(attempt.Attempt, "_fits", lambda self, record, *_, **__: record.outcome is None)


def every_generation_has_the_same_children(patch: Patch) -> None:
    patch.setattr(children.Children, "id_of", lambda self, call_id: child_id(self._parent.execution_id, 1, call_id))


def a_child_tells_its_parent_before_its_commit(patch: Patch) -> None:
    runners: dict[str, Any] = {}
    begin, park = runner.Runner.begin, runner.Runner._park

    def registered(self: Any, *told: Any) -> None:
        runners[self.execution_id] = self
        begin(self, *told)

    def early(self: Any, transition: Transition, *args: Any, **options: Any) -> None:
        row = self._parts.store.get(self.execution_id)
        if transition is Transition.COMPLETE and row.parent_id is not None:
            last = self._history.events[-1]
            told = {"call_id": row.parent_call, "name": last.type.value, "data": last.data, "sent_at": last.time_us}
            runners[row.parent_id].calls.child_ended(Message(id=-1, kind=MessageKind.CHILD, **told))
        park(self, transition, *args, **options)

    patch.setattr(runner.Runner, "begin", registered)
    patch.setattr(runner.Runner, "_park", early)


def a_message_leaves_the_inbox_one_commit_late(patch: Patch) -> None:
    append = SqliteStore.append
    late: dict[Any, Sequence[int]] = {}

    def delayed(self: SqliteStore, appends: Sequence[Append]) -> list[AppendResult]:
        for each in appends:
            now, before = each.consumed, late.pop((self, each.execution_id), ())
            if each.state.name == "RUNNING":
                late[self, each.execution_id] = now
                each.consumed = before
            else:
                each.consumed = [*before, *now]
        return append(self, appends)

    patch.setattr(SqliteStore, "append", delayed)


def nothing_waits_for_the_disk(patch: Patch) -> None:
    patch.setattr(journal.Log, "when_durable", lambda self, callback: self._journal.soon(callback))


def nobody_knows_that_an_attempt_was_interrupted(patch: Patch) -> None:
    patch.setattr(open_calls.OpenCalls, "was_interrupted", lambda self, call: False)


def an_interrupted_rollback_is_forgotten(patch: Patch) -> None:
    is_to_be_undone = open_calls.OpenCalls._is_to_be_undone

    def forgetful(self: Any, call: Any, task: Any) -> bool:
        has_begun = any(e.type is Type.TASK_ROLLBACK_STARTED for e in self.history.calls[call.id].progress)
        return not has_begun and is_to_be_undone(self, call, task)

    patch.setattr(open_calls.OpenCalls, "_is_to_be_undone", forgetful)


def what_an_interrupted_attempt_has_called_stays_open(patch: Patch) -> None:
    patch.setattr(History, "open_inside", lambda self: {})


def a_rollback_inside_a_task_is_forgotten(patch: Patch) -> None:
    fits = attempt.Attempt._fits

    def forgetful(self: Any, record: Any, name: str, data: bytes, *, is_pure: bool) -> bool:
        return not record.is_rolling_back and fits(self, record, name, data, is_pure=is_pure)

    patch.setattr(attempt.Attempt, "_fits", forgetful)


BUGS: list[tuple[Callable[[Patch], None], str, str]] = [
    (inner_calls_are_counted, "equal_inner_calls_in_a_gather", "another result"),
    (an_inner_failure_answers_in_every_attempt, "an_inner_failure_counts_in_its_attempt_only", "another result"),
    (an_inner_success_answers_in_no_attempt, "inner_calls_in_sequence", "other facts"),
    (every_generation_has_the_same_children, "generations_with_children_and_pauses", "stuck"),
    (a_child_tells_its_parent_before_its_commit, "children_in_a_gather", "stored before the child's end"),
    (a_message_leaves_the_inbox_one_commit_late, "signals_that_come_before_they_are_waited_for", "another result"),
    (nothing_waits_for_the_disk, "inner_calls_in_sequence", "another result"),
    (nobody_knows_that_an_attempt_was_interrupted, "attempts_that_are_made_at_most_once", "another result"),
    (an_interrupted_rollback_is_forgotten, "cancelled_in_a_rollback", "rollback of call 1 has not ended"),
    (what_an_interrupted_attempt_has_called_stays_open, "a_pause_in_a_task_that_the_body_gives_up", "comes after"),
    (a_rollback_inside_a_task_is_forgotten, "a_rollback_of_an_inner_call_that_calls_tasks", "has not ended"),
]


@pytest.mark.parametrize(("plant", "name", "breach"), BUGS, ids=lambda each: getattr(each, "__name__", ""))
def test_control_the_law_finds_an_engine_in_which(plant: Any, name: str, breach: str, monkeypatch: Patch) -> None:
    plant(monkeypatch)

    found = breaches(name)

    assert [each for each in found if breach in each], set(found)
