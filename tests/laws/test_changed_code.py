"""Code that changed under executions: told at the first event that does not fit, undone, or let in by a marker."""

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, patched
from flux.domain.events import ExecutionEvent
from flux.domain.execution import ExecutionState
from flux.engine.replay import divergence_of
from flux.errors import NonDeterminismError
from flux.tasks import parallel, sleep
from laws.test_planted_divergence import CHANGES, made, original
from support.simulation import EXECUTION, Process, Run, Simulation, cuts, finished_calls, plant
from support.world import work

Context = ExecutionContext[Any]
Change = Callable[[Context], Any]

# What is said of each change: what history has, and what the code asked for.
SAID = {
    "inserted": ("work(x='b', seconds=1)", "made work(x='new', seconds=1)"),
    "removed": ("work(x='b', seconds=1)", "made work(x='c', seconds=1)"),
    "reordered": ("work(x='a', seconds=1)", "made work(x='b', seconds=1)"),
    "reordered_in_a_gather": ("work(x='c', seconds=1)", "made work(x='d', seconds=2)"),
    "renamed": ("work(x='b', seconds=1)", "made play(x='b', seconds=1)"),
    "other_argument": ("work(x='b', seconds=1)", "made work(x='B', seconds=1)"),
    "other_branch": ("work(x='b', seconds=1)", "did not make that call"),
    "timer_made_a_task": ("a timer", "called 'work'"),
    "task_made_a_timer": ("work(x='b', seconds=1)", "made timer"),
    "timer_removed": ("a timer", "called 'parallel'"),
    "parallel_made_a_gather": ("parallel()", "made work(x='e', seconds=1)"),
    "end_removed": ("work(x='g', seconds=1)", "did not make that call"),
    "task_made_a_pause": ("work(x='b', seconds=1)", "made pause(name='b')"),
    "task_made_a_signal": ("work(x='b', seconds=1)", "made timer"),
    "task_made_a_child": ("work(x='b', seconds=1)", "made child(input='b')"),
    "argument_added": ("work(x='b', seconds=1)", "made work(x='b', seconds=1, label='second')"),
    "moved_into_a_parallel": ("work(x='b', seconds=1)", "made parallel()"),
    "gather_grown_at_the_front": ("work(x='c', seconds=1)", "made work(x='new', seconds=1)"),
    "loop_made_longer": ("parallel()", "made timer"),
    "options_renamed": ("work(x='b', seconds=1)", "made labour(x='b', seconds=1)"),
}
BY_CHANGE = pytest.mark.parametrize(("changed", "call_id"), CHANGES, ids=lambda c: getattr(c, "__name__", c))


def lines_of(function: Change) -> set[str]:
    return {str(number) for *_, number in function.__code__.co_lines() if number is not None}


def histories(run: Run, call_id: str) -> Iterator[list[ExecutionEvent]]:
    """What the change can meet once it can be seen."""
    first = next(event.seq for event in run.events if event.call_id == call_id)
    return (run.events[:k] for k in cuts(run.events) if k >= first)


def continued(folder: Path, code: Change, version: str, events: Sequence[ExecutionEvent]) -> tuple[Run, set[str]]:
    """How the execution ends, and which calls acted on the world meanwhile."""
    run = Simulation(folder, made(code, version), seed=1).run_from(events)
    return run, run.world.called


def test_there_are_twenty_changes_and_something_is_said_of_each():
    assert [changed.__name__ for changed, _ in CHANGES] == list(SAID)
    assert len(SAID) == 20


@BY_CHANGE
def test_a_change_is_told_at_its_first_event_wherever_history_ends(changed: Change, call_id: str, tmp_path: Path):
    """By the replay that `flux check` makes, and by the execution that is blocked for it, in the same words."""
    run = Simulation(tmp_path, made(original, "1"), seed=1).run()
    first = next(event.seq for event in run.events if event.call_id == call_id)
    history, code = SAID[changed.__name__]
    new = made(changed, "2")

    for events in histories(run, call_id):
        error = divergence_of(new.definition, events)
        with pytest.raises(NonDeterminismError) as caught:
            Simulation(tmp_path, new, seed=1).run_from(events)

        text = re.escape(f"history has {history}, the code {code} (event {first}, call {call_id}), at ")
        found = re.match(rf"{text}.*test_planted_divergence\.py:(\d+)\. ", str(error))
        assert found, str(error)
        assert found[1] in lines_of(changed)
        assert str(caught.value) == str(error)


@BY_CHANGE
def test_rolled_back_code_goes_on_without_doing_again_what_is_recorded(changed: Change, call_id: str, tmp_path: Path):
    run = Simulation(tmp_path, made(original, "1"), seed=1).run()
    every = {event.call_id for event in run.events if event.name == "work"}

    for events in histories(run, call_id):
        folder = tmp_path / f"rolled-back-{len(events)}"
        with closing(Process(folder, seed=1, past=events, starts_at=events[-1].time_us)) as process:
            plant(process, made(original, "1"), events)
            with pytest.raises(NonDeterminismError):
                process.run(made(changed, "2"))
            row = process.store.get(EXECUTION)
            assert row is not None and row.blocked_reason is not None
            assert process.world.called == set()

            assert process.run(made(original, "1")).output == run.output

            assert process.world.called == every - finished_calls(events)
            row = process.store.get(EXECUTION)
            assert row is not None and (row.state, row.blocked_reason) == (ExecutionState.COMPLETED, None)


@BY_CHANGE
def test_with_a_marker_an_execution_proceeds_without_doing_again_what_is_recorded(
    changed: Change, call_id: str, tmp_path: Path
):
    async def both(ctx: Context) -> Any:
        return await changed(ctx) if patched("change") else await original(ctx)

    run = Simulation(tmp_path, made(original, "1"), seed=1).run()
    every = {event.call_id for event in run.events if event.name == "work"}

    assert divergence_of(made(both, "2").definition, run.events) is None
    for events in histories(run, call_id):
        assert divergence_of(made(both, "2").definition, events) is None
        again, called = continued(tmp_path, both, "2", events)
        assert again.output == run.output
        assert called == every - finished_calls(events)


def test_control_an_outcome_that_is_not_recorded_is_brought_about_again(tmp_path: Path):
    """What the above count: whatever acts shows."""
    run = Simulation(tmp_path, made(original, "1"), seed=1).run()
    without_its_outcome = run.events[:2]

    _, called = continued(tmp_path, original, "1", without_its_outcome)

    assert "1" in called
    assert "1" not in continued(tmp_path, original, "1", run.events[:3])[1]


async def spins(_: Context) -> Any:
    await work("a", 1)
    await work("b", 1)
    while True:
        await asyncio.sleep(0)


async def exits(_: Context) -> Any:
    await work("a", 1)
    await work("b", 1)
    raise SystemExit("no more")


NO_GOING_ON = pytest.mark.parametrize(("code", "says"), [(spins, "BodyError: the workflow body"), (exits, "no more")])


@NO_GOING_ON
def test_code_that_fails_where_history_went_on_blocks_the_execution_and_does_not_fail_it(
    code: Change, says: str, tmp_path: Path
):
    """There is no catching that, so it would fail an execution that the code of yesterday completes."""
    run = Simulation(tmp_path, made(original, "1"), seed=1).run()
    gone_on = next(event for event in run.events if event.type == "TASK_COMPLETED" and event.call_id == "3")

    for events in histories(run, "3"):
        folder = tmp_path / f"gone-on-{len(events)}"
        with closing(Process(folder, seed=1, past=events, starts_at=events[-1].time_us)) as process:
            plant(process, made(original, "1"), events)
            if len(events) < gone_on.seq:  # It may have failed the first time, too.
                assert process.run(made(code, "2")).has_failed
                continue
            with pytest.raises(NonDeterminismError) as caught:
                process.run(made(code, "2"))
            found = f"history has TASK_COMPLETED of 'work', the code failed before that with .*{says}"
            assert re.match(found, str(caught.value))
            assert process.run(made(original, "1")).output == run.output


async def spins_beside_a_call(_: Context) -> Any:
    asyncio.ensure_future(work("a", 5))
    await spins(_)


@pytest.mark.parametrize("code", [spins, exits, spins_beside_a_call])
def test_an_execution_that_fails_so_and_is_killed_meanwhile_fails_all_the_same(code: Change, tmp_path: Path):
    run = Simulation(tmp_path, made(code, "1"), seed=1).run()
    assert run.events[-1].type == "WORKFLOW_FAILED"

    for k in cuts(run.events):
        again, _called = continued(tmp_path, code, "1", run.events[:k])
        assert [event.type for event in again.events] == [event.type for event in run.events]
    assert divergence_of(made(code, "1").definition, run.events) is None


async def with_other_options(_: Context) -> Any:
    """The body of `original`; how hard its tasks are tried is no part of it."""
    patient = work.with_options(retry_max_attempts=5, retry_delay=1, timeout=600)
    a, b = await patient("a", 1), await patient("b", 1)
    c, d = await parallel_by_hand(patient("c", 1), patient("d", 2))
    await sleep(5)
    e, f = await parallel(patient("e", 1), patient("f", 1.5))
    return [a, b, c, d, e, f, await patient("g", 1)]


async def parallel_by_hand(*calls: Any) -> Any:
    """A refactoring: what is called in which order stays."""
    return await asyncio.gather(*calls)


def test_other_options_of_a_task_and_another_form_of_the_code_are_no_change(tmp_path: Path):
    run = Simulation(tmp_path, made(original, "1"), seed=1).run()

    for k in cuts(run.events):
        assert divergence_of(made(with_other_options, "2").definition, run.events[:k]) is None
        assert continued(tmp_path, with_other_options, "2", run.events[:k])[0].output == run.output
