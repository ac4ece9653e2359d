"""Replay is exact: a crash at any moment changes nothing that a body sees.

The law, in a world that remembers the work in progress (each call ends when it would have ended): the history that a
continued execution ends up with is the history that it would have had, event by event, times included.

In a world that forgets it, and in which time has passed, what is still open may end otherwise.  Then this holds: what
is recorded stays, what has ended never runs again, no divergence, and the new history replays exactly, too.
"""

import asyncio
import gc
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, pause, task, workflow
from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.domain.execution import ExecutionState
from flux.tasks import pipeline, sleep
from support.constructs import CHANCE, FAILING, ORDER_INSENSITIVE, PAUSING, TABLE, WORLD_DECIDES
from support.simulation import Run, Simulation, cuts, finished_calls, litter
from support.world import compute, work

Live = Any  # See conftest.

NAMES = sorted(TABLE)
KILLED = sorted(PAUSING | {"gather_of_two_sequences", "retries", "fallbacks_and_rollbacks", "timeout_blocks", "queues"})


def assert_kept(events: list[ExecutionEvent], again: Run) -> None:
    """What is recorded stays, and what has ended does not run again."""
    assert [raw(e) for e in again.events[: len(events)]] == [raw(e) for e in events]
    assert again.world.called & finished_calls(events) == set()


def raw(event: ExecutionEvent) -> tuple[Any, ...]:
    """An event, byte for byte."""
    return (event.seq, event.type, event.call_id, event.name, event.data, event.detail_data, event.time_us)


def test_two_sequences_under_one_gather_continue_exactly_from_every_event(tmp_path: Path) -> None:
    """The lines that break engines which count steps, or know a call by its arguments."""

    @workflow
    async def two(ctx: ExecutionContext[Any]) -> Any:
        order = []

        async def sequence(name: str) -> None:
            for step in range(4):
                order.append((name, step, await work("equal")))

        await asyncio.gather(sequence("a"), sequence("b"))
        return order

    for seed in range(3):
        simulation = Simulation(tmp_path, two, seed=seed)
        live = simulation.run()
        for k in cuts(live.events):
            again = simulation.run_from(live.events[:k])

            assert_kept(live.events[:k], again)
            assert (again.output, again.shape) == (live.output, live.shape)


def test_control_the_order_of_two_sequences_is_up_to_the_world(tmp_path: Path, live: Live) -> None:
    """Seeds decide the order, and so does a world that forgets: the exactness above is not a matter of course."""
    orders = [Simulation(tmp_path, TABLE["gather_of_two_sequences"], seed=seed).run().output for seed in range(3)]
    simulation, run = live("gather_of_two_sequences")
    forgetful = [simulation.run_from(run.events[:k], remembers=False).output for k in cuts(run.events)]

    assert len({str(order) for order in orders}) > 1
    assert any(order != run.output for order in forgetful)


def test_control_a_body_sees_the_order_that_is_recorded(live: Live) -> None:
    """With two results of its history exchanged, a body returns another order: it is the record that decides."""
    simulation, run = live("wait_first_completed")
    events = list(run.events[:-1])
    completed = [i for i, e in enumerate(events) if e.type is ExecutionEventType.TASK_COMPLETED][-2:]
    first, second = (events[i] for i in completed)
    for i, event, seat in ((completed[0], second, first), (completed[1], first, second)):
        events[i] = ExecutionEvent(
            event.execution_id, seat.seq, event.type, event.call_id, event.name, event.data, None, time_us=seat.time_us
        )

    again = simulation.run_from(events)

    assert again.world.ledger == []
    assert again.output != run.output
    assert sorted(map(str, again.output)) == sorted(map(str, run.output))


@pytest.mark.parametrize("name", NAMES)
def test_every_body_of_the_table_ends_as_it_should(name: str, live: Live) -> None:
    _, run = live(name)

    assert run.state is (ExecutionState.FAILED if name in FAILING else ExecutionState.COMPLETED), run.output


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_history_replays_without_running_a_task(name: str, live: Live) -> None:
    simulation, run = live(name)
    events = run.events[:-1]  # All but the end: a finished execution would not be replayed at all.

    again = simulation.run_from(events)

    assert_kept(events, again)
    assert again.world.called <= {e.call_id for e in events} - finished_calls(events)
    if finished_calls(events) == {e.call_id for e in events if e.type is ExecutionEventType.TASK_STARTED}:
        assert again.world.ledger == []
    assert again.output == run.output


@pytest.mark.parametrize("name", NAMES)
def test_every_prefix_continues_to_the_same_history(name: str, live: Live) -> None:
    """In a world that remembers."""
    simulation, run = live(name)
    for k in cuts(run.events, 15):
        ballast = litter(k * 37)
        again = simulation.run_from(run.events[:k])
        del ballast

        assert_kept(run.events[:k], again)
        if name in WORLD_DECIDES:
            assert again.state is run.state
        elif name in CHANCE:
            assert (k, again.output) == (k, run.output)
        else:
            assert (k, again.output) == (k, run.output)
            assert (k, again.shape) == (k, run.shape)


@pytest.mark.parametrize("name", NAMES)
def test_in_a_world_that_forgets_nothing_that_ended_runs_again(name: str, live: Live) -> None:
    """After a time of any length; and the history that comes of it replays exactly, too."""
    simulation, run = live(name)
    chance = random.Random(name)
    for k in cuts(run.events, 7):
        downtime_us = chance.randrange(20_000_000)
        again = simulation.run_from(run.events[:k], remembers=False, downtime_us=downtime_us)

        assert_kept(run.events[:k], again)
        assert again.state is run.state
        if name in ORDER_INSENSITIVE:
            assert (k, again.output) == (k, run.output)
    last = simulation.run_from(again.events[:-1])
    assert (last.output, last.timeless) == (again.output, again.timeless)


@pytest.mark.parametrize("name", KILLED)
def test_killed_after_any_commit_it_is_rescued_and_continues_exactly(name: str, tmp_path: Path) -> None:
    """From the files as they were at that moment: the row still says who ran it, the inbox what was sent."""
    simulation = Simulation(tmp_path, TABLE[name], seed=3)
    run, snapshots = simulation.run_with_snapshots()
    assert len(snapshots) > 3
    for snapshot in snapshots:
        events, again = simulation.run_from_snapshot(snapshot)

        assert_kept(events, again)
        assert (again.output, again.shape) == (run.output, run.shape)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["as_completed_with_coroutines", "task_group", "locks", "wait_first_completed"])
def test_every_event_of_other_interleavings_continues_to_the_same_history(name: str, seed: int, tmp_path: Path) -> None:
    simulation = Simulation(tmp_path, TABLE[name], seed=seed)
    run = simulation.run()
    for k in cuts(run.events):
        assert simulation.run_from(run.events[:k]).shape == run.shape


def test_a_month_passes_in_no_time_and_is_not_slept_twice(live: Live) -> None:
    simulation, run = live("durable_sleeps")
    days = [e.time_us // 86_400_000_000 for e in run.events]
    fired = next(e for e in run.events if e.type is ExecutionEventType.TIMER_FIRED)

    again = simulation.run_from(run.events[: fired.seq - 1], downtime_us=86_400_000_000 * 12)
    late = simulation.run_from(run.events[: fired.seq - 1], downtime_us=86_400_000_000 * 45)

    assert days[-1] - days[0] >= 30
    assert again.events[fired.seq - 1].time_us == fired.time_us
    assert late.events[fired.seq - 1].detail["due_at"] == fired.detail["due_at"]
    assert late.events[fired.seq - 1].time_us == run.events[0].time_us + 86_400_000_000 * 45


def test_an_execution_that_is_unloaded_while_it_sleeps_goes_on_the_same(tmp_path: Path) -> None:
    @workflow
    async def sleeper(ctx: ExecutionContext[Any]) -> Any:
        order = []

        async def nap(n: int) -> None:
            for i in range(2):
                await sleep(n + 20)
                order.append((n, i))
            order.append(await work(n))

        await asyncio.gather(nap(1), nap(2))
        return order, await pipeline(work, compute, input=3)

    kept = Simulation(tmp_path, sleeper, seed=1).run()
    unloaded = Simulation(tmp_path, sleeper, seed=1, unload_after_seconds=10).run()

    assert unloaded.output == kept.output
    assert unloaded.timeless == kept.timeless
    assert len(unloaded.world.ledger) == len(unloaded.world.called)


def test_a_call_that_the_body_gave_up_is_not_started_again(live: Live) -> None:
    """The body gave it up in the last step before the crash, and its end was not recorded."""
    simulation, run = live("wait_with_one_given_up")
    given_up = next(e for e in run.events if e.type is ExecutionEventType.TASK_CANCELLED)

    again = simulation.run_from(run.events[: given_up.seq - 1])

    assert given_up.call_id in run.world.called
    assert given_up.call_id not in again.world.called
    assert again.output == run.output


def test_control_a_call_that_was_open_is_started_again(live: Live) -> None:
    simulation, run = live("wait_with_one_given_up")
    given_up = next(e for e in run.events if e.type is ExecutionEventType.TASK_CANCELLED)
    started = next(e for e in run.events if e.call_id == given_up.call_id)

    assert given_up.call_id in simulation.run_from(run.events[: started.seq]).world.called


def test_unloading_a_suspended_async_generator_does_nothing_to_the_world(tmp_path: Path) -> None:
    """Its `finally` awaits a task: when the body is dropped, that must not run as if nobody recorded it."""
    effects = []

    @task
    async def clean_up() -> None:
        effects.append("clean-up")

    @workflow
    async def body(ctx: ExecutionContext[Any]) -> Any:
        async def answers() -> AsyncIterator[Any]:
            try:
                yield await pause("p")
            finally:
                await clean_up()

        return [answer async for answer in answers()]

    run = Simulation(tmp_path, body).run()
    gc.collect()

    assert run.output == ["p"]
    assert effects == ["clean-up"]
