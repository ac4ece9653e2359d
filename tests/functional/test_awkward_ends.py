"""Ends that meet each other: releases, resumes, generators and forks at awkward moments."""

import asyncio
from typing import Any

import pytest

from flux import ExecutionContext, pause, task, workflow
from flux.errors import StoreError
from functional.conftest import both, home, kit  # noqa: F401
from functional.kit import Kit, run_script, types
from functional.test_release import Effect, Gate, cancelled, is_free, turns


@pytest.fixture
def gate(kit: Kit) -> Gate:  # noqa: F811
    return Gate(kit)


# 4: live
def test_a_resume_that_was_accepted_just_before_the_timeout_answers_the_pause_of_a_running_execution(both: Kit) -> None:  # noqa: F811
    @workflow
    async def approval(ctx: ExecutionContext[int]) -> Any:
        try:
            return await pause("approval", timeout=5.03)
        except TimeoutError:
            return "timed out"

    async def scene() -> Any:
        running = asyncio.ensure_future(approval.run_async(1, execution_id="e"))
        await asyncio.sleep(5.02)  # The inbox is looked at every 50 ms: at 5.00 and at 5.05.
        both.app.send_resume("e", "yes")
        return await running

    assert both.drive(scene()).output == "yes"


# 1c: parking under way
def test_a_resume_that_undoes_a_parking_under_release_starts_nothing(kit: Kit, gate: Gate) -> None:  # noqa: F811
    effect = Effect(60)

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        asked = asyncio.ensure_future(pause("answer"))
        await asyncio.sleep(1)
        await asked
        return await effect.task()

    async def scene() -> Any:
        gate.hold("WORKFLOW_PAUSED")
        running = asyncio.ensure_future(job.run_async(1, execution_id="e"))
        await gate.holding()
        kit.app.send_resume("e", "yes")
        running.cancel()
        await turns()
        gate.open()
        await cancelled(running)

    kit.drive(scene())
    assert effect.begun == 0, effect.begun
    assert kit.clock.seconds < 2
    assert is_free(kit)


# 15
def test_a_background_task_that_iterates_over_a_generator_does_not_fail_the_body(both: Kit) -> None:  # noqa: F811
    @task
    async def one() -> int:
        return 1

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        async def ticks() -> Any:
            while True:
                yield 1
                await asyncio.sleep(3600)

        async def watch() -> None:
            async for _ in ticks():
                pass

        watching = asyncio.create_task(watch())
        await one()
        return "ok"

    assert both.run(job, 1).output == "ok"


def test_the_clean_up_of_a_generator_that_fails_does_not_replace_the_end_of_the_body(both: Kit) -> None:  # noqa: F811
    closed: list[str] = []

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        async def bad() -> Any:
            try:
                yield 1
            finally:
                raise ValueError("clean-up")

        async def good() -> Any:
            try:
                yield 1
            finally:
                closed.append("good")

        async for _ in bad():
            break
        async for _ in good():
            break
        return "ok"

    assert both.run(job, 1).output == "ok"
    assert closed[-1:] == ["good"]


# 10
def test_many_timers_at_once_are_no_busy_wait(kit: Kit) -> None:  # noqa: F811
    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(100_001)))
        return "ok"

    assert kit.run(job, 1).output == "ok"


# 7
def test_a_fork_in_another_thread_leaves_the_idle_loop_of_the_main_thread_alone(tmp_path: Any) -> None:
    out = run_script(
        tmp_path,
        """
        import warnings
        warnings.simplefilter("ignore")
        signal.alarm(8)

        @task
        def effect():
            return 1

        @workflow
        async def job(ctx: ExecutionContext[int]):
            return await effect()

        def fork():
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)

        print(job.run(1).output, flush=True)
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        print(job.run(1).output, flush=True)
        """,
    )
    assert out == "1\n1\n"


# 8: OSError outside the writer thread
def test_a_file_lock_that_fails_for_good_is_a_store_error_of_the_run(home: Any) -> None:  # noqa: F811
    import contextlib

    from flux.app import App
    from flux.settings import Settings

    @task
    async def echo() -> int:
        return 1

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        return await echo()

    with contextlib.closing(App(Settings(database=home / "own.db", store_patience_seconds=0))) as app:
        app._lease.acquire()
        app.store.list()
        lock = app.store._database._lock
        orig = lock.acquire

        def failing(**o: Any) -> bool:
            raise OSError(37, "No locks available")

        lock.acquire, lock.try_acquire = failing, failing
        try:
            with pytest.raises(StoreError):
                asyncio.run(asyncio.wait_for(app.run_async(job.definition, 1, "e"), 5))
        finally:
            lock.acquire = orig
            del lock.try_acquire


# 12: asleep while it wakes, and waiting for another owner
def test_news_that_fail_at_the_moment_of_waking_do_not_fail_the_run(kit: Kit) -> None:  # noqa: F811
    news = kit.store.news

    def sometimes() -> int:
        if 29 < kit.clock.seconds < 31:
            raise StoreError("the disk cannot be read")
        return news()

    kit.store.news = sometimes  # type: ignore[method-assign]

    @workflow
    async def asleep(ctx: ExecutionContext[int]) -> Any:
        await asyncio.sleep(30)
        return "awake"

    assert kit.run(asleep, 1).output == "awake"


# shutdown is no fact
@pytest.mark.parametrize("n", range(2))
def test_a_task_that_turns_its_cancellation_into_an_error_has_not_failed_when_its_loop_closes(kit: Kit, n: int) -> None:  # noqa: F811
    @task
    async def stubborn() -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            raise ValueError("interrupted") from None
        return "done"

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        return await stubborn()

    async def scene() -> None:
        running = asyncio.ensure_future(job.run_async(1, execution_id="e"))
        await asyncio.sleep(1)
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
        await asyncio.wait([running])

    kit.drive(scene())
    assert types(kit.stored("e")) == ["WS", "TS"]
