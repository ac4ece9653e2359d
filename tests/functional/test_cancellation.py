"""Cancelling an execution: its cause comes first, it is cleaned up once, and it ends in one way."""

import asyncio
import threading
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, pause, task, telemetry, workflow
from flux.errors import ExecutionConflictError, ExecutionContextNotFoundError, NonDeterminismError
from flux.tasks import sleep, wait_for_signal
from functional.kit import Kit, types, whole

CANCELLED = ["WORKFLOW_CANCELLING", "WORKFLOW_CANCELLED"]


@task
async def endless(x: int) -> int:
    await asyncio.sleep(10_000)
    return x


@task
async def note(text: str) -> str:
    return text


def cancelled_after(kit: Kit, workflow: Any, seconds: float, execution_id: str = "e") -> Any:
    """Run an execution, and cancel it when it has run for so long."""

    async def drive() -> Any:
        running = asyncio.ensure_future(workflow.run_async(1, execution_id=execution_id))
        await asyncio.sleep(seconds)
        kit.app.send_cancel(execution_id)
        return await running

    ctx = kit.drive(drive())
    assert whole(ctx) == whole(kit.stored(execution_id))
    return ctx


def test_a_running_task_is_cancelled_after_the_reason_is_recorded(both: Kit) -> None:
    @workflow
    async def busy(ctx: ExecutionContext[int]) -> int:
        return await endless(1)

    ctx = cancelled_after(both, busy, 5)

    assert types(ctx) == ["WS", "TS", "WORKFLOW_CANCELLING", "TASK_CANCELLED", "WORKFLOW_CANCELLED"]
    assert (ctx.state, ctx.output, ctx.is_cancelled, ctx.has_finished) == (ExecutionState.CANCELLED, None, True, True)


def test_the_body_may_call_tasks_to_clean_up(both: Kit) -> None:
    @workflow
    async def careful(ctx: ExecutionContext[int]) -> int:
        try:
            return await endless(1)
        finally:
            await note("cleaned")

    ctx = cancelled_after(both, careful, 5)

    assert types(ctx)[2:] == ["WORKFLOW_CANCELLING", "TASK_CANCELLED", "TS", "TC", "WORKFLOW_CANCELLED"]


def test_a_body_that_swallows_the_cancellation_has_its_way(both: Kit) -> None:
    @workflow
    async def stubborn(ctx: ExecutionContext[int]) -> str:
        try:
            await endless(1)
        except asyncio.CancelledError:
            return await note("all the same")
        return "never"

    ctx = cancelled_after(both, stubborn, 5)

    assert (ctx.state, ctx.output) == (ExecutionState.COMPLETED, "all the same")


def test_a_cancelled_task_is_rolled_back_once_and_neither_retried_nor_replaced(both: Kit) -> None:
    undone: list[int] = []

    def undo(x: int) -> str:
        undone.append(x)
        return "undone"

    @task.with_options(retry_max_attempts=5, rollback=undo)
    async def charge(x: int) -> None:
        await asyncio.sleep(10_000)

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> None:
        await charge(7)

    ctx = cancelled_after(both, busy, 5)

    rolled_back = ["TASK_CANCELLED", "ROLLBACK_STARTED", "ROLLBACK_COMPLETED"]
    assert types(ctx) == ["WS", "TS", "WORKFLOW_CANCELLING", *rolled_back, "WORKFLOW_CANCELLED"]
    assert undone == [7]


def test_a_fallback_is_cut_short_and_no_other_takes_its_place(both: Kit) -> None:
    async def instead(x: int) -> int:
        await asyncio.sleep(10_000)
        return x

    @task.with_options(fallback=instead)
    async def broken(x: int) -> int:
        raise ValueError(x)

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> int:
        return await broken(1)

    ctx = cancelled_after(both, busy, 5)

    assert types(ctx)[1:] == ["TS", "FALLBACK_STARTED", "WORKFLOW_CANCELLING", "TASK_CANCELLED", "WORKFLOW_CANCELLED"]


def test_a_rollback_under_way_is_finished_and_not_repeated(both: Kit) -> None:
    undone: list[int] = []

    async def undo(x: int) -> None:
        await asyncio.sleep(60)
        undone.append(x)

    @task.with_options(rollback=undo)
    async def broken(x: int) -> int:
        raise ValueError(x)

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> int:
        return await broken(1)

    ctx = cancelled_after(both, busy, 5)

    ended = ["ROLLBACK_STARTED", "WORKFLOW_CANCELLING", "ROLLBACK_COMPLETED", "TASK_CANCELLED", "WORKFLOW_CANCELLED"]
    assert types(ctx)[2:] == ended
    assert undone == [1]


def test_a_wait_between_two_attempts_ends(both: Kit) -> None:
    @task.with_options(retry_max_attempts=3, retry_delay=100)
    async def broken(x: int) -> int:
        raise ValueError(x)

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> int:
        return await broken(1)

    ctx = cancelled_after(both, busy, 5)

    assert types(ctx)[2:] == ["RETRY_FAILED", "WORKFLOW_CANCELLING", "TASK_CANCELLED", "WORKFLOW_CANCELLED"]


def test_a_paused_execution_is_cancelled(both: Kit) -> None:
    @workflow
    async def approval(ctx: ExecutionContext[int]) -> Any:
        return await pause("approval")

    assert both.run(approval, 1, "e").is_paused
    ctx = both.drive(approval.cancel_async("e"))

    assert types(ctx)[-3:] == ["WORKFLOW_CANCELLING", "TASK_CANCELLED", "WORKFLOW_CANCELLED"]
    assert ctx.is_cancelled
    assert both.store.pauses("e") == []


def test_a_sleeping_execution_is_cancelled(both: Kit) -> None:
    @workflow
    async def sleeper(ctx: ExecutionContext[int]) -> None:
        await sleep(1_000_000)

    both.run_for(5, sleeper.run_async(1, execution_id="e"))
    ctx = both.drive(sleeper.cancel_async("e"))

    assert types(ctx) == ["WS", *CANCELLED]


def test_an_execution_that_waits_for_a_signal_is_cancelled(both: Kit) -> None:
    @workflow
    async def waiter(ctx: ExecutionContext[int]) -> Any:
        return await wait_for_signal("go")

    assert both.run(waiter, 1, "e").is_paused
    ctx = both.drive(waiter.cancel_async("e"))

    assert types(ctx)[-3:] == ["WORKFLOW_CANCELLING", "TASK_CANCELLED", "WORKFLOW_CANCELLED"]


def test_a_queued_execution_is_cancelled_and_its_body_never_runs(both: Kit) -> None:
    ran: list[int] = []

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> None:
        ran.append(1)

    async def drive() -> Any:
        handle = busy.start(1, execution_id="e")
        handle.cancel()
        return await handle.result()

    ctx = both.drive(drive())

    assert types(ctx) == ["WORKFLOW_SCHEDULED", *CANCELLED]
    assert ran == []


def test_an_interrupted_rollback_of_a_cancelled_task_goes_on(both: Kit) -> None:
    begun: list[int] = []

    async def undo(x: int) -> str:
        begun.append(x)
        await asyncio.sleep(60)
        return "undone"

    @task.with_options(rollback=undo)
    async def charge(x: int) -> None:
        await asyncio.sleep(10_000)

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> None:
        try:
            await charge(7)
        finally:
            await note("after")

    async def cancel_later() -> Any:
        running = asyncio.ensure_future(busy.run_async(1, execution_id="e"))
        await asyncio.sleep(5)
        both.app.send_cancel("e")
        return await running

    both.run_for(30, cancel_later())
    ctx = both.run(busy, 1, "e")

    undoing = ["TASK_CANCELLED", "ROLLBACK_STARTED", "ROLLBACK_COMPLETED"]
    assert types(ctx)[2:] == ["WORKFLOW_CANCELLING", *undoing, "TS", "TC", "WORKFLOW_CANCELLED"]
    assert begun == [7, 7]


def test_a_blocked_execution_is_cancelled_without_its_clean_up(both: Kit) -> None:
    def version(name: str) -> Any:
        @task.with_options(name=name)
        async def step() -> None:
            await asyncio.sleep(100)

        @workflow.with_options(name="changing", version=name)
        async def changing(ctx: ExecutionContext[int]) -> None:
            await note("first")
            await step()

        return changing

    both.run_for(5, version("one").run_async(1, execution_id="e"))
    with pytest.raises(NonDeterminismError):
        both.run(version("two"), 1, "e")
    ctx = both.drive(version("two").cancel_async("e"))

    assert ctx.is_cancelled
    assert types(ctx)[-2:] == CANCELLED


def test_a_finished_execution_cannot_be_cancelled(both: Kit) -> None:
    @workflow
    async def quick(ctx: ExecutionContext[int]) -> int:
        return 1

    both.run(quick, 1, "e")
    before = whole(both.stored("e"))

    with pytest.raises(ExecutionConflictError, match="COMPLETED"):
        both.drive(quick.cancel_async("e"))
    with pytest.raises(ExecutionContextNotFoundError):
        both.drive(quick.cancel_async("unknown"))

    assert whole(both.stored("e")) == before
    assert both.store.inbox("e") == []


def test_a_task_that_ignores_its_cancellation_is_given_up_after_the_grace(both: Kit) -> None:
    @task
    async def stubborn(x: int) -> int:
        while True:
            try:
                await asyncio.sleep(60)
                return x
            except asyncio.CancelledError:
                continue

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> int:
        return await stubborn(1)

    ctx = cancelled_after(both, busy, 3)

    assert types(ctx) == ["WS", "TS", "WORKFLOW_CANCELLING", "TASK_CANCELLED", "WORKFLOW_CANCELLED"]
    assert ctx.events[3].value == "It did not stop within 5 s, and was left behind."
    assert both.clock.seconds == pytest.approx(3 + 5)


def test_a_thread_that_cannot_be_stopped_is_left_behind_at_once_and_its_late_result_is_dropped(both: Kit) -> None:
    gate, ended = threading.Event(), threading.Event()
    begin: list[Any] = []

    @task
    def blocking(x: int) -> int:
        begin[0]()
        gate.wait()
        ended.set()
        return x

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> int:
        return await blocking(1)

    async def drive() -> Any:
        loop, began = asyncio.get_running_loop(), asyncio.Event()
        begin.append(lambda: loop.call_soon_threadsafe(began.set))
        running = asyncio.ensure_future(busy.run_async(1, execution_id="e"))
        await began.wait()
        both.app.send_cancel("e")
        return await running

    heard: list[tuple[str, Any]] = []
    detach = telemetry.attach(lambda name, fields: heard.append((name, fields)) if "left" in name else None)
    ctx = both.drive(drive())
    detach()
    gate.set()

    assert ended.wait(5)
    assert types(ctx) == ["WS", "TS", "WORKFLOW_CANCELLING", "TASK_CANCELLED", "WORKFLOW_CANCELLED"]
    assert ctx.events[3].value == "Its thread was left behind, because Python cannot stop a thread."
    assert heard == [("task.left_behind", {"execution_id": "e", "call_id": "1", "task": "blocking"})]
    assert both.clock.seconds < 1
    assert whole(both.stored("e")) == whole(ctx)


def test_a_second_cancel_does_not_disturb_the_clean_up(both: Kit) -> None:
    @workflow
    async def careful(ctx: ExecutionContext[int]) -> None:
        try:
            await endless(1)
        finally:
            await sleep(20)
            await note("cleaned")

    async def drive() -> Any:
        running = asyncio.ensure_future(careful.run_async(1, execution_id="e"))
        for _ in range(2):
            await asyncio.sleep(5)
            both.app.send_cancel("e")
        return await running

    ctx = both.drive(drive())

    assert types(ctx).count("WORKFLOW_CANCELLING") == 1
    assert types(ctx)[-3:] == ["TS", "TC", "WORKFLOW_CANCELLED"]


def test_a_cancel_and_the_end_at_the_same_moment_give_one_end(both: Kit) -> None:
    """The cancel comes between the body's end and its commit."""
    append = both.store.append

    def late(batch: Any) -> Any:
        if any(each.state.is_finished for each in batch) and not both.store.inbox("e"):
            both.app.send_cancel("e")
        return append(batch)

    both.store.append = late  # type: ignore[method-assign]

    @workflow
    async def quick(ctx: ExecutionContext[int]) -> int:
        return await note("x") and 1

    ctx = both.run(quick, 1, "e")

    assert types(ctx) == ["WS", "TS", "TC", "WC"]
    assert whole(ctx) == whole(both.stored("e"))


def test_the_context_says_that_a_cancellation_is_under_way(both: Kit) -> None:
    seen: list[bool] = []

    @workflow
    async def careful(ctx: ExecutionContext[int]) -> None:
        seen.append(ctx.is_cancelling)
        try:
            await endless(1)
        finally:
            seen.append(ctx.is_cancelling)

    ctx = cancelled_after(both, careful, 5)

    assert (seen[0], seen[-1], ctx.is_cancelling) == (False, True, False)
