"""Pauses at the edge of time: an answer, a timeout and a failing database that meet in the same moment."""

import asyncio
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, pause, serde, task, workflow
from flux.errors import StoreError
from functional.kit import Kit, types

ENOUGH = 100  # Appends: far more than a run of these tests needs.


# -- an answer between the timeout and its commit


def test_a_resume_between_a_timeout_and_its_commit_is_recorded_and_the_execution_falls_asleep(both: Kit) -> None:
    """It used to be parked over the message again and again."""
    appends: list[Any] = []
    accepted: list[Any] = []
    append = both.store.append

    def watched(batch: Any) -> Any:
        appends.append(batch)
        if len(appends) > ENOUGH:
            raise StoreError("it spins")
        if any(each.closed for each in batch) and not accepted:
            accepted.append(both.store.resume("e", data=serde.encode("late"), now=both.clock.now()))
        return append(batch)

    both.store.append = watched  # type: ignore[method-assign]

    @workflow
    async def impatient(ctx: ExecutionContext[int]) -> Any:
        try:
            return await pause("approval", timeout=1)
        except TimeoutError:
            await asyncio.sleep(30)  # Longer than an execution stays loaded.
            return "gave up"

    ctx = both.run(impatient, 1, "e")

    assert [one.name for one in accepted] == ["approval"]
    assert ctx.output == "gave up"
    assert types(ctx).count("WORKFLOW_RESUMED") == 1
    assert both.store.inbox("e") == []
    assert len(appends) < 15


# -- an answer that was accepted while nobody ran the execution


@workflow
async def approval(ctx: ExecutionContext[int]) -> Any:
    try:
        return await pause("approval", timeout=60)
    except TimeoutError:
        return "timed out"


def fall_asleep(kit: Kit) -> None:
    """Start `approval`, and leave it to itself."""

    async def started() -> None:
        running = asyncio.ensure_future(approval.run_async(1, execution_id="e"))
        await asyncio.sleep(5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    kit.drive(started())
    row = kit.store.get("e")
    assert row is not None
    assert row.state is ExecutionState.SCHEDULED
    assert kit.clock.seconds == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize(
    ("sent_at", "expected"), [(10, "yes"), (59.999, "yes"), (60.001, "timed out"), (90, "timed out")]
)
def test_a_resume_answers_its_pause_if_it_was_accepted_in_time_whenever_the_execution_is_run(
    both: Kit, sent_at: float, expected: str
) -> None:
    fall_asleep(both)
    both.clock.seconds = sent_at
    both.app.send_resume("e", "yes")
    both.clock.seconds = 100

    ctx = both.run(approval, 1, "e")

    assert ctx.output == expected
    assert types(ctx).count("WORKFLOW_RESUMED") == 1
    assert both.store.inbox("e") == []


def test_a_timer_that_came_due_before_the_resume_fires_before_it(both: Kit) -> None:
    @workflow
    async def racing(ctx: ExecutionContext[int]) -> Any:
        order: list[str] = []

        async def wait(seconds: float) -> None:
            await asyncio.sleep(seconds)
            order.append(f"{seconds:g}s")

        async def answer() -> None:
            order.append(await pause("answer"))

        await asyncio.gather(wait(20), answer(), wait(40))
        return order

    async def started() -> None:
        running = asyncio.ensure_future(racing.run_async(1, execution_id="e"))
        await asyncio.sleep(5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    both.drive(started())
    both.clock.seconds = 30
    both.app.send_resume("e", "answer")
    both.clock.seconds = 100

    assert both.run(racing, 1, "e").output == ["20s", "answer", "40s"]


# -- a database that cannot be asked for a while


@task
async def step(n: int) -> int:
    await asyncio.sleep(1)
    return n


@workflow
async def beside_a_pause(ctx: ExecutionContext[int]) -> Any:
    asking = asyncio.ensure_future(pause("answer"))
    done = [await step(n) for n in range(5)]
    asking.cancel()
    return done


@workflow
async def asleep(ctx: ExecutionContext[int]) -> Any:
    await asyncio.sleep(30)
    return "awake"


@pytest.mark.parametrize("job", [beside_a_pause, asleep], ids=lambda job: job.definition.name)
def test_a_run_that_only_looks_for_news_outlives_a_database_that_cannot_be_asked(both: Kit, job: Any) -> None:
    both.look_for_news_every(0.05)
    refused: list[float] = []
    news = both.store.news

    def sometimes() -> int:
        if 1.5 < both.clock.seconds < 3.5:
            refused.append(both.clock.seconds)
            raise StoreError("the disk cannot be read")
        return news()

    both.store.news = sometimes  # type: ignore[method-assign]

    ctx = both.run(job, 1, "e")

    assert len(refused) > 5
    assert ctx.output == ([0, 1, 2, 3, 4] if job is beside_a_pause else "awake")


def test_an_answer_that_came_while_the_database_could_not_be_asked_is_found_afterwards(both: Kit) -> None:
    both.look_for_news_every(0.05)
    news = both.store.news

    def sometimes() -> int:
        if 1.5 < both.clock.seconds < 3.5:
            raise StoreError("the disk cannot be read")
        return news()

    both.store.news = sometimes  # type: ignore[method-assign]

    @task
    async def long() -> float:
        await asyncio.sleep(10)
        return 10

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        async def answered() -> Any:
            answer = await pause("answer")
            return answer, asyncio.get_running_loop().time()

        return await asyncio.gather(answered(), long())

    async def scene() -> Any:
        running = asyncio.ensure_future(job.run_async(1, execution_id="e"))
        await asyncio.sleep(2)
        both.store.resume("e", data=serde.encode("yes"), now=both.clock.now())  # As another process does.
        return await running

    (answer, when), _ = both.drive(scene()).output

    assert answer == "yes"
    assert 3.4 < when < 3.7
