"""Bodies that nobody thought of: generated programs crash after every event and take the same course all the same.

`FLUX_LAW_EXAMPLES` says how many; what is generated is the same in every run.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flux import ExecutionContext, pause, workflow
from flux.domain.events import ExecutionEventType
from flux.domain.execution import ExecutionState
from flux.workflow import Workflow
from support.simulation import Run, Simulation, cuts, finished_calls, folder_in_memory
from support.world import fail, flaky, work

EXAMPLES = int(os.environ.get("FLUX_LAW_EXAMPLES", "60"))
deterministic = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

Program = tuple[Any, ...]

leaves = st.one_of(
    st.just(("work",)),
    st.just(("caught",)),
    st.tuples(st.just("flaky"), st.integers(0, 4)),
    st.tuples(st.just("sleep"), st.sampled_from([0, 1, 1, 2.5, 30])),
    st.just(("pause",)),
)


def _nodes(inner: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        *(st.tuples(st.just(kind), several) for kind in ("sequence", "gather", "group", "first", "as_completed")),
        st.tuples(st.just("timeout"), st.sampled_from([0.5, 2, 6]), inner),
        st.tuples(st.just("queue"), st.integers(1, 5), st.integers(1, 3)),
        st.tuples(st.just("semaphore"), st.integers(1, 2), several),
    )


programs = st.lists(st.recursive(leaves, _nodes, max_leaves=9), min_size=1, max_size=3).map(lambda p: ("sequence", p))


class Interpreter:
    """Runs a program as a body would be written, and notes everything in the order in which it happens."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    async def run(self, program: Program, path: str) -> None:
        await getattr(self, f"_{program[0]}")(path, *program[1:])
        self.log.append((path, "done"))

    def _each(self, programs: list[Program], path: str) -> Iterator[Any]:
        return (self.run(program, f"{path}.{i}") for i, program in enumerate(programs))

    async def _work(self, path: str) -> None:
        self.log.append(await work(path))

    async def _caught(self, path: str) -> None:
        try:
            await fail(path)
        except ValueError as error:
            self.log.append((path, str(error)))

    async def _flaky(self, path: str, failures: int) -> None:
        try:
            self.log.append(await flaky(path, failures))
        except OSError as error:
            self.log.append((path, str(error)))

    async def _sleep(self, path: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.log.append((path, asyncio.get_running_loop().time()))

    async def _pause(self, path: str) -> None:
        self.log.append((path, await pause(path)))

    async def _sequence(self, path: str, programs: list[Program]) -> None:
        for coroutine in self._each(programs, path):
            await coroutine

    async def _gather(self, path: str, programs: list[Program]) -> None:
        await asyncio.gather(*self._each(programs, path))

    async def _group(self, path: str, programs: list[Program]) -> None:
        async with asyncio.TaskGroup() as group:
            for coroutine in self._each(programs, path):
                group.create_task(coroutine)

    async def _first(self, path: str, programs: list[Program]) -> None:
        tasks = {asyncio.ensure_future(coroutine) for coroutine in self._each(programs, path)}
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for loser in pending:
            loser.cancel()
        if pending:
            await asyncio.wait(pending)
        self.log.append((path, len(done), len(pending)))

    async def _as_completed(self, path: str, programs: list[Program]) -> None:
        for next_ in asyncio.as_completed(list(self._each(programs, path))):
            await next_
            self.log.append((path, "next"))

    async def _timeout(self, path: str, seconds: float, program: Program) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.run(program, f"{path}.0")
        except TimeoutError:
            self.log.append((path, "timeout"))

    async def _queue(self, path: str, items: int, consumers: int) -> None:
        queue: asyncio.Queue[int] = asyncio.Queue(2)

        async def consume(consumer: int) -> None:
            while True:
                item = await queue.get()
                self.log.append((consumer, await work(f"{path}.{item}")))
                queue.task_done()

        workers = [asyncio.create_task(consume(n)) for n in range(consumers)]
        for item in range(items):
            await queue.put(item)
        await queue.join()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _semaphore(self, path: str, limit: int, programs: list[Program]) -> None:
        gate = asyncio.Semaphore(limit)

        async def within(i: int, program: Program) -> None:
            async with gate:
                await self.run(program, f"{path}.{i}")

        await asyncio.gather(*(within(i, program) for i, program in enumerate(programs)))


def body_of(program: Program) -> Workflow[Any, Any]:
    @workflow.with_options(name="generated", version="1")
    async def generated(ctx: ExecutionContext[Any]) -> Any:
        interpreter = Interpreter()
        await interpreter.run(program, "p")
        return interpreter.log

    return generated


def check(program: Program, seed: int, **options: Any) -> None:
    with folder_in_memory() as folder:
        simulation = Simulation(Path(folder), body_of(program), seed=seed)
        run = simulation.run()
        assert run.state is ExecutionState.COMPLETED, run.output
        gives_up_at_once = _gives_up_at_once(run)
        for k in cuts(run.events, 12):
            again = simulation.run_from(run.events[:k], **options)

            assert again.world.called & finished_calls(run.events[:k]) == set()
            assert (again.state, again.shape[:k]) == (run.state, run.shape[:k])
            if not gives_up_at_once:
                assert again.output == run.output
                assert again.shape == run.shape


def _gives_up_at_once(run: Run) -> bool:
    """Whether tasks and pauses were given up at one moment: what is stopped ends later than what never acted."""
    given_up = [e for e in run.events if e.type is ExecutionEventType.TASK_CANCELLED]
    pauses = {e.time_us for e in given_up if e.name == "pause"}
    return any(e.name != "pause" and e.time_us in pauses for e in given_up)


@pytest.mark.slow
@deterministic
@given(programs, st.integers(0, 3))
def test_a_generated_body_that_crashes_after_any_event_takes_the_same_course(program: Program, seed: int) -> None:
    """Same output, same order, the same history; nothing that ended runs again; no divergence."""
    check(program, seed)


@pytest.mark.slow
@settings(deterministic, max_examples=EXAMPLES // 3)
@given(programs, st.integers(0, 3), st.integers(0, 20_000_000))
def test_a_generated_body_loses_nothing_in_a_world_that_forgets(program: Program, seed: int, downtime_us: int) -> None:
    """Whatever becomes of what was open: what is recorded stays, what ended never runs again, no divergence."""
    with folder_in_memory() as folder:
        simulation = Simulation(Path(folder), body_of(program), seed=seed)
        run = simulation.run()
        for k in cuts(run.events, 10):
            again = simulation.run_from(run.events[:k], remembers=False, downtime_us=downtime_us)

            assert again.state is run.state
            assert again.timeless[:k] == run.timeless[:k]
            assert again.world.called & finished_calls(run.events[:k]) == set()


@pytest.mark.slow
@settings(deterministic, max_examples=EXAMPLES // 2)
@given(programs, st.integers(0, 3))
def test_a_generated_body_that_is_forgotten_after_every_step_takes_the_same_course(program: Program, seed: int) -> None:
    with folder_in_memory() as folder:
        simulation = Simulation(Path(folder), body_of(program), seed=seed)
        run = simulation.run()
        again = simulation.run(replay_each_step=True)

        assert again.output == run.output
        assert again.timeless == run.timeless
        assert again.world.ledger == run.world.ledger


def test_control_in_a_world_that_forgets_some_program_takes_another_course() -> None:
    """The first law is not kept by every simulation: it is the engine and the world that keep it together."""
    branch = ("sequence", [("work",), ("work",), ("work",)])
    with pytest.raises(AssertionError):
        check(("gather", [branch, branch]), 1, remembers=False)
