"""`patched()`: every change proceeds with a marker; old executions keep to the old code, new ones to the new."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, patched, task, workflow
from flux.domain.execution import ExecutionState
from flux.errors import BodyError, InvalidValueError, NonDeterminismError
from flux.tasks import parallel, sleep
from laws.test_planted_divergence import CHANGES, made, original
from support.simulation import Simulation, cuts
from support.world import work

Context = ExecutionContext[Any]


@pytest.mark.parametrize("changed", [changed for changed, _ in CHANGES], ids=lambda changed: changed.__name__)
def test_with_a_marker_every_change_proceeds_in_old_executions(
    changed: Callable[[Context], Any], tmp_path: Path
) -> None:
    async def both(ctx: Context) -> Any:
        return await changed(ctx) if patched("change") else await original(ctx)

    run = Simulation(tmp_path, made(original, "1"), seed=1).run()
    new = Simulation(tmp_path, made(both, "2"), seed=1)
    for k in (k for k in cuts(run.events) if k > 1):
        assert new.run_from(run.events[:k]).output == run.output


async def before(ctx: Context) -> Any:
    a = await work("a", 1)
    await sleep(2)
    b = await work("b", 1)
    return [a, b]


async def after(ctx: Context) -> Any:
    a = await work("a", 1)
    if patched("check"):
        a = a + await work("checked", 1)
    await sleep(2)
    b, c = await parallel(work("b", 1), work("c", 1)) if patched("wide") else (await work("b", 1), None)
    return [a, b, c]


def test_the_first_place_that_history_has_not_reached_runs_the_new_code(tmp_path: Path) -> None:
    run = Simulation(tmp_path, made(before, "1"), seed=1).run()
    new = Simulation(tmp_path, made(after, "2"), seed=1)

    outputs = [new.run_from(run.events[:k]).output for k in cuts(run.events)]

    assert outputs[0] == ["achecked", "b", "c"]
    assert outputs[-1] == ["a", "b", None]
    assert all(output in (["achecked", "b", "c"], ["a", "b", "c"], ["a", "b", None]) for output in outputs)
    assert [outputs.index(output) for output in outputs] == sorted(outputs.index(output) for output in outputs)


@pytest.mark.parametrize("old_events", [0, 3, 5, 6])
def test_the_answer_is_the_same_in_every_replay(tmp_path: Path, old_events: int) -> None:
    """Crash after every event of an execution that the change met after so many events."""
    run = Simulation(tmp_path, made(before, "1"), seed=1).run()
    new = Simulation(tmp_path, made(after, "2"), seed=1)
    continued = new.run_from(run.events[:old_events]) if old_events else new.run()

    for k in (k for k in cuts(continued.events) if k >= old_events):
        assert new.run_from(continued.events[:k]).shape == continued.shape


def test_the_first_answer_counts_in_a_loop(tmp_path: Path) -> None:
    async def old(ctx: Context) -> Any:
        return [await work(i, 1) for i in range(4)]

    async def new(ctx: Context) -> Any:
        return [await work(i + (10 if patched("ten") else 0), 1) for i in range(4)]

    run = Simulation(tmp_path, made(old, "1"), seed=1).run()
    simulation = Simulation(tmp_path, made(new, "2"), seed=1)

    assert simulation.run_from(run.events[:5]).output == [0, 1, 2, 3]
    assert simulation.run().output == [10, 11, 12, 13]


def test_a_marker_that_was_taken_out_too_early_is_a_divergence(tmp_path: Path) -> None:
    run = Simulation(tmp_path, made(after, "2"), seed=1).run()

    with pytest.raises(NonDeterminismError, match="patched"):
        Simulation(tmp_path, made(before, "3"), seed=1).run_from(run.events[:7])


def test_concurrent_branches_ask_in_the_order_of_the_first_time(tmp_path: Path) -> None:
    async def branch(x: str) -> Any:
        await work(x, 1)
        return await work("new " + x if patched(x) else "old " + x, 1)

    async def wide(ctx: Context) -> Any:
        return await asyncio.gather(*(branch(x) for x in "abc"))

    simulation = Simulation(tmp_path, made(wide, "1"), seed=4)
    run = simulation.run()

    assert run.state is ExecutionState.COMPLETED
    assert run.output == ["new a", "new b", "new c"]
    for k in cuts(run.events):
        assert simulation.run_from(run.events[:k]).shape == run.shape


def test_it_belongs_in_a_body_and_has_an_id() -> None:
    with pytest.raises(BodyError, match=r"patched\(\) was called in plain code"):
        patched("x")

    @workflow
    async def nameless(ctx: Context) -> Any:
        return patched("")

    @task
    async def asks() -> bool:
        return patched("x")

    @workflow
    async def by_a_task(ctx: Context) -> Any:
        return await asks()

    assert isinstance(nameless.run().output, InvalidValueError)
    assert "the task 'asks'" in str(by_a_task.run().output)
