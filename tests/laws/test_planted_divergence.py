"""Controls: code that changed is noticed and nothing is lost; and the law of exact replay can fail."""

import asyncio
import itertools
import random
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, task, workflow
from flux.domain.execution import ExecutionState
from flux.engine import loop as body_loop
from flux.engine import patches
from flux.errors import ExecutionConflictError, NonDeterminismError
from flux.tasks import parallel, pause, sleep, wait_for_signal
from flux.testing.virtual_time import VirtualLoop
from flux.workflow import Workflow
from support.constructs import TABLE
from support.simulation import EXECUTION, Process, Simulation, cuts, litter, plant
from support.world import World, work

Context = ExecutionContext[Any]


@task
async def play(x: Any, seconds: float | None = None) -> Any:
    """Another task that takes what `work` takes."""
    world = World.current
    await world.spend(world.act(x), seconds)
    return x


@workflow
async def child(ctx: Context) -> Any:
    """An execution where there was a task."""
    return await work(ctx.input, 1)


@task.with_options(name="work")
async def with_more_parameters(x: Any, seconds: float | None = None, label: str = "") -> Any:
    """`work` with another signature."""
    return [await work(x, seconds), label]


async def original(ctx: Context) -> Any:
    a = await work("a", 1)  # Call 1.
    b = await work("b", 1)  # 2.
    c, d = await asyncio.gather(work("c", 1), work("d", 2))  # 3 and 4.
    await sleep(5)  # 5.
    e, f = await parallel(work("e", 1), work("f", 1.5))  # 6, and in it 7 and 8.
    return [a, b, c, d, e, f, await work("g", 1)]  # 9.


async def inserted(ctx: Context) -> Any:
    a = await work("a", 1)
    await work("new", 1)
    return [a, await work("b", 1), *await asyncio.gather(work("c", 1), work("d", 2))]


async def removed(ctx: Context) -> Any:
    a = await work("a", 1)
    return [a, *await asyncio.gather(work("c", 1), work("d", 2))]


async def reordered(ctx: Context) -> Any:
    b = await work("b", 1)
    return [await work("a", 1), b, *await asyncio.gather(work("c", 1), work("d", 2))]


async def reordered_in_a_gather(ctx: Context) -> Any:
    a, b = await work("a", 1), await work("b", 1)
    return [a, b, *await asyncio.gather(work("d", 2), work("c", 1))]


async def renamed(ctx: Context) -> Any:
    return [await work("a", 1), await play("b", 1), await work("c", 1)]


async def other_argument(ctx: Context) -> Any:
    return [await work("a", 1), await work("B", 1)]


async def other_branch(ctx: Context) -> Any:
    a = await work("a", 1)
    if a == "a":
        return [a]
    return [a, await work("b", 1)]


async def timer_made_a_task(ctx: Context) -> Any:
    order = [await work("a", 1), await work("b", 1), *await asyncio.gather(work("c", 1), work("d", 2))]
    return [*order, await work("instead of the timer", 5)]


async def task_made_a_timer(ctx: Context) -> Any:
    await work("a", 1)
    await sleep(1)
    return await asyncio.gather(work("c", 1), work("d", 2))


async def timer_removed(ctx: Context) -> Any:
    order = [await work("a", 1), await work("b", 1), *await asyncio.gather(work("c", 1), work("d", 2))]
    return [*order, *await parallel(work("e", 1), work("f", 1.5)), await work("g", 1)]


async def parallel_made_a_gather(ctx: Context) -> Any:
    order = [await work("a", 1), await work("b", 1), *await asyncio.gather(work("c", 1), work("d", 2))]
    await sleep(5)
    return [*order, *await asyncio.gather(work("e", 1), work("f", 1.5)), await work("g", 1)]


async def end_removed(ctx: Context) -> Any:
    order = [await work("a", 1), await work("b", 1), *await asyncio.gather(work("c", 1), work("d", 2))]
    await sleep(5)
    return [*order, *await parallel(work("e", 1), work("f", 1.5))]


async def task_made_a_pause(ctx: Context) -> Any:
    return [await work("a", 1), await pause("b")]


async def task_made_a_signal(ctx: Context) -> Any:
    await work("a", 1)
    try:
        return await wait_for_signal("b", timeout=1)
    except TimeoutError:
        return "nobody signalled"


async def task_made_a_child(ctx: Context) -> Any:
    return [await work("a", 1), await child("b")]


async def argument_added(ctx: Context) -> Any:
    return [await work("a", 1), await with_more_parameters("b", 1, "second")]


async def moved_into_a_parallel(ctx: Context) -> Any:
    return [await work("a", 1), *await parallel(work("b", 1), work("c", 1), work("d", 2))]


async def gather_grown_at_the_front(ctx: Context) -> Any:
    a, b = await work("a", 1), await work("b", 1)
    return [a, b, *await asyncio.gather(work("new", 1), work("c", 1), work("d", 2))]


async def loop_made_longer(ctx: Context) -> Any:
    order = [await work("a", 1), await work("b", 1), *await asyncio.gather(work("c", 1), work("d", 2))]
    for _ in range(2):
        await sleep(5)
    return [*order, *await parallel(work("e", 1), work("f", 1.5)), await work("g", 1)]


async def options_renamed(ctx: Context) -> Any:
    return [await work("a", 1), await work.with_options(name="labour")("b", 1)]


# Each change, and the call from whose first event on it can be seen.
CHANGES: list[tuple[Callable[[Context], Any], str]] = [
    (inserted, "2"),
    (removed, "2"),
    (reordered, "1"),
    (reordered_in_a_gather, "3"),
    (renamed, "2"),
    (other_argument, "2"),
    (other_branch, "2"),
    (timer_made_a_task, "5"),
    (task_made_a_timer, "2"),
    (timer_removed, "5"),
    (parallel_made_a_gather, "6"),
    (end_removed, "9"),
    (task_made_a_pause, "2"),
    (task_made_a_signal, "2"),
    (task_made_a_child, "2"),
    (argument_added, "2"),
    (moved_into_a_parallel, "2"),
    (gather_grown_at_the_front, "3"),
    (loop_made_longer, "6"),
    (options_renamed, "2"),
]

SAME_OUTPUT = (parallel_made_a_gather, timer_removed, loop_made_longer)


def made(func: Callable[[Context], Any], version: str) -> Workflow[Any, Any]:
    return workflow.with_options(name="planted", version=version)(func)


@pytest.mark.parametrize(("changed", "call_id"), CHANGES, ids=lambda c: getattr(c, "__name__", c))
def test_changed_code_blocks_the_execution_and_appends_nothing(
    changed: Callable[[Context], Any], call_id: str, tmp_path: Path
) -> None:
    """From the moment at which the change can be seen; then the old code continues as if nothing had been."""
    old = Simulation(tmp_path, made(original, "1"), seed=1)
    run = old.run()
    new = made(changed, "2")
    first = next(e.seq for e in run.events if e.call_id == call_id)
    for k in (k for k in cuts(run.events) if k >= first):
        events = run.events[:k]
        process = Process(tmp_path / f"{changed.__name__}-{k}", seed=1, past=events, starts_at=events[-1].time_us)
        with closing(process):
            plant(process, old.workflow, events)

            with pytest.raises(NonDeterminismError) as caught:
                process.run(new)

            row = process.store.get(EXECUTION)
            assert row is not None
            assert (row.state, row.blocked_version, row.blocked_reason) == (
                ExecutionState.SCHEDULED,
                "2",
                str(caught.value),
            )
            assert row.last_seq == k
            assert process.world.ledger == []
            with pytest.raises(ExecutionConflictError, match="blocked"):
                _run_engine(process, new)
            assert process.run(old.workflow).output == run.output
            assert [e.data for e in process.store.events(EXECUTION)] == [e.data for e in run.events]


@pytest.mark.parametrize(("changed", "call_id"), CHANGES, ids=lambda c: getattr(c, "__name__", c))
def test_control_changed_code_goes_on_as_long_as_history_has_not_come_to_the_change(
    changed: Callable[[Context], Any], call_id: str, tmp_path: Path
) -> None:
    run = Simulation(tmp_path, made(original, "1"), seed=1).run()
    first = next(e.seq for e in run.events if e.call_id == call_id)

    again = Simulation(tmp_path, made(changed, "2"), seed=1).run_from(run.events[: first - 1])

    assert again.state is ExecutionState.COMPLETED
    assert again.output != run.output or changed in SAME_OUTPUT


def test_the_message_of_a_divergence_names_both_calls_and_the_line(tmp_path: Path) -> None:
    run = Simulation(tmp_path, made(original, "1"), seed=1).run()
    changed = Simulation(tmp_path, made(other_argument, "2"), seed=1)

    with pytest.raises(NonDeterminismError) as caught:
        changed.run_from(run.events[:6])

    message = str(caught.value)
    assert "x='b'" in message
    assert "x='B'" in message
    assert "test_planted_divergence.py:" in message


def test_a_body_that_swallows_every_error_cannot_swallow_a_divergence(tmp_path: Path) -> None:
    async def swallowing(ctx: Context) -> Any:
        try:
            return [await work("a", 1), await work("B", 1)]
        except BaseException:  # noqa: BLE001 - that is the point.
            return "swallowed"

    run = Simulation(tmp_path, made(original, "1"), seed=1).run()
    with pytest.raises(NonDeterminismError):
        Simulation(tmp_path, made(swallowing, "2"), seed=1).run_from(run.events[:6])


# -- the law can fail


def exact_continuations(folder: Path, name: str, seed: int) -> list[bool]:
    """For up to 20 crashes of a body: whether it was continued exactly."""
    simulation = Simulation(folder, TABLE[name], seed=seed)
    run = simulation.run()
    exact = []
    for k in cuts(run.events, 20):
        ballast = litter(k * 37)
        try:
            exact.append(simulation.run_from(run.events[:k]).shape == run.shape)
        except NonDeterminismError:
            exact.append(False)
        del ballast
    return exact


ORDERED_BY_HASH = ["set_of_tasks_cancelled", "task_group_aborted_by_two_failures", "wait_for_all_in_a_set"]


@pytest.mark.parametrize("name", ORDERED_BY_HASH)
def test_control_without_numbered_hashes_bodies_that_use_sets_do_not_replay(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashes as addresses are: others in every run."""
    addresses = random.Random(5)
    numbers = itertools.count()
    assert all(exact_continuations(tmp_path, name, 3))

    def address(self: Any) -> int:
        if not hasattr(self, "address"):
            self.address = addresses.getrandbits(48) * 16 + next(numbers) % 2
        return int(self.address)

    monkeypatch.setattr(body_loop.BodyTask, "__hash__", address)

    assert not all(exact_continuations(tmp_path, name, 3))


@pytest.mark.parametrize("name", ["as_completed_with_coroutines", "set_of_gatherings"])
def test_control_without_the_patches_of_asyncio_the_law_fails(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(exact_continuations(tmp_path, name, 3))
    monkeypatch.setattr(patches, "install", lambda: None)
    patches.remove()
    try:
        assert not all(exact_continuations(tmp_path, name, 3))
    finally:
        monkeypatch.undo()
        patches.install()


def _run_engine(process: Process, new: Workflow[Any, Any]) -> None:
    """As a worker does, which asks for nothing to be tried again."""
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(process.time)) as runner:
        runner.run(process.app.engine.run(new.definition, EXECUTION))
