"""Release: a cancelled run gives its execution back whole, and does nothing more for it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, pause, serde, task, workflow
from flux.engine.committer import InlineCommitter, Results
from flux.engine.engine import Engine
from flux.ports import Append
from functional.kit import Kit, types

SLOW_SECONDS = 2  # How long a task of these tests cleans up after itself; the grace is 5.


class Gate:
    """Commits at once, but holds back what a test names until the test lets it through."""

    def __init__(self, kit: Kit) -> None:
        self._inline = InlineCommitter(kit.store)
        self._type = ""
        self._held: list[tuple[Sequence[Append], Callable[[Results], None]]] = []
        kit.app.engine = Engine(kit.app.engine._parts, self)

    def hold(self, type_: str) -> None:
        """Hold the next commit that has an event of this type."""
        self._type = type_

    async def holding(self) -> None:
        """Wait until it is held."""
        while not self._held:
            await asyncio.sleep(0.001)

    def open(self) -> None:
        """Let it through."""
        held, self._held, self._type = self._held, [], ""
        for appends, done in held:
            self._inline.submit(appends, done)

    def try_commit(self, appends: Sequence[Append]) -> None:
        """Never on the loop's own thread: a commit is under way while the loop turns."""

    def submit(self, appends: Sequence[Append], done: Callable[[Results], None]) -> None:
        if any(event.type == self._type for append in appends for event in append.events):
            self._held.append((appends, done))
        else:
            self._inline.submit(appends, done)

    def close(self) -> None:
        self.open()


@pytest.fixture
def gate(kit: Kit) -> Gate:
    return Gate(kit)


async def turns() -> None:
    """Let the loop turn until everybody waits."""
    for _ in range(30):
        await asyncio.sleep(0)


async def cancelled(running: asyncio.Future[Any]) -> None:
    """Wait until a run that was cancelled has ended."""
    with pytest.raises(asyncio.CancelledError):
        await running


@task
async def slow_to_stop() -> None:
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        await asyncio.sleep(SLOW_SECONDS)
        raise


class Effect:
    """A task, and how often it began and ended."""

    def __init__(self, seconds: float = 1) -> None:
        self.begun = self.ended = 0

        @task
        async def effect() -> str:
            self.begun += 1
            await asyncio.sleep(seconds)
            self.ended += 1
            return "done"

        self.task = effect


def is_free(kit: Kit) -> bool:
    row = kit.store.get("e")
    assert row is not None
    return (row.state, row.worker, row.wake_at) == (ExecutionState.SCHEDULED, None, None)


def test_an_effect_whose_start_is_being_committed_when_the_run_is_cancelled_does_not_begin(
    kit: Kit, gate: Gate
) -> None:
    effect = Effect()

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        return await effect.task()

    async def interrupted() -> None:
        gate.hold("TASK_STARTED")
        running = asyncio.ensure_future(job.run_async(1, execution_id="e"))
        await gate.holding()
        running.cancel()
        await turns()
        gate.open()
        await cancelled(running)
        await asyncio.sleep(60)

    kit.drive(interrupted())

    assert effect.begun == 0
    assert is_free(kit)
    assert types(kit.stored("e")) == ["WS", "TS"]
    assert kit.run(job, 1, "e").output == "done"
    assert (effect.begun, effect.ended) == (1, 1)


def test_no_timer_starts_an_effect_while_the_execution_is_released(kit: Kit) -> None:
    effect = Effect()

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        async def later() -> str:
            await asyncio.sleep(1.5)
            return await effect.task()

        answer, _ = await asyncio.gather(later(), slow_to_stop() if ctx.input else asyncio.sleep(0))
        return answer

    async def interrupted() -> None:
        running = asyncio.ensure_future(job.run_async(1, execution_id="e"))
        await asyncio.sleep(1)
        running.cancel()
        await cancelled(running)
        assert kit.clock.seconds == pytest.approx(1 + SLOW_SECONDS, abs=0.1), "the timer came due meanwhile"
        await asyncio.sleep(60)

    kit.drive(interrupted())

    assert effect.begun == 0
    assert is_free(kit)
    assert types(kit.stored("e")) == ["WS", "TS"]


def test_a_resume_that_waits_in_the_inbox_of_a_released_execution_is_kept_and_holds_nothing_up(kit: Kit) -> None:
    effect = Effect(seconds=30)

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        return await asyncio.gather(pause("answer"), effect.task())

    async def interrupted() -> None:
        running = asyncio.ensure_future(job.run_async(1, execution_id="e"))
        await asyncio.sleep(1)
        kit.store.resume("e", data=serde.encode("yes"), now=kit.clock.now())  # As another process does.
        running.cancel()
        await cancelled(running)

    kit.drive(interrupted())

    assert kit.clock.seconds == pytest.approx(1, abs=0.1)
    assert is_free(kit)
    assert [message.name for message in kit.store.inbox("e")] == ["answer"]
    assert kit.run(job, 1, "e").output == ["yes", "done"]
    assert kit.store.inbox("e") == []


def test_an_end_that_is_being_committed_when_the_run_is_cancelled_is_the_end(kit: Kit, gate: Gate) -> None:
    effect = Effect()

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        return await effect.task()

    async def interrupted() -> None:
        gate.hold("WORKFLOW_COMPLETED")
        running = asyncio.ensure_future(job.run_async(1, execution_id="e"))
        await gate.holding()
        running.cancel()
        await turns()
        gate.open()
        await cancelled(running)

    kit.drive(interrupted())

    assert types(kit.stored("e")) == ["WS", "TS", "TC", "WC"]
    assert kit.run(job, 1, "e").output == "done"
    assert effect.begun == 1


def test_a_task_that_ends_in_the_very_turn_of_the_cancellation_has_ended(kit: Kit) -> None:
    ran: list[int] = []
    running: list[asyncio.Future[Any]] = []

    @task
    async def last_act() -> str:
        ran.append(1)
        running[0].cancel()
        return "done"

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        answer = await last_act()
        await asyncio.sleep(1)
        return answer

    async def interrupted() -> None:
        running.append(asyncio.ensure_future(job.run_async(1, execution_id="e")))
        await cancelled(running[0])

    kit.drive(interrupted())

    assert is_free(kit)
    assert types(kit.stored("e")) == ["WS", "TS", "TC"]
    assert kit.run(job, 1, "e").output == "done"
    assert len(ran) == 1


@pytest.mark.parametrize("who", ["the caller", "every task of the loop"])
def test_a_second_cancellation_during_release_leaves_nothing_running(kit: Kit, who: str) -> None:
    effect = Effect()

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        async def later() -> str:
            await asyncio.sleep(2)
            return await effect.task()

        return await asyncio.gather(slow_to_stop(), later())

    async def interrupted() -> None:
        running = asyncio.ensure_future(job.run_async(1, execution_id="e"))
        await asyncio.sleep(1)
        running.cancel()
        await asyncio.sleep(0.5)
        for each in [running] if who == "the caller" else asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
        await cancelled(running)
        await asyncio.sleep(60)

    kit.drive(interrupted())

    assert effect.begun == 0
    assert kit.app.engine._runners == {}
    assert is_free(kit) or who != "the caller"  # Else it is freed by the next who asks.
    assert types(kit.stored("e")) == ["WS", "TS"]
