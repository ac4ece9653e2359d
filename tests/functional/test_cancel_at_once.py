"""A cancel without clean-up: it ends whatever the execution does, in one way, and runs nothing of the body."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, pause, serde, task, workflow
from flux.engine import at_once
from flux.engine.replay import divergence_of
from flux.errors import BodyError, ExecutionConflictError, NonDeterminismError, StoreError
from flux.ports import NOW, MessageKind
from flux.store.sqlite import SqliteStore
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


@workflow
async def careful(ctx: ExecutionContext[int]) -> int:
    try:
        return await endless(1)
    finally:
        await note("cleaned")


def ended(kit: Kit, workflow: Any, *cancels: float, now: bool = True, execution_id: str = "e") -> Any:
    """Run an execution, cancel it at these times in the usual way, and at the last of them at once."""

    async def drive() -> Any:
        running = asyncio.ensure_future(workflow.run_async(1, execution_id=execution_id))
        for number, seconds in enumerate(cancels, 1):
            await asyncio.sleep(seconds)
            kit.app.send_cancel(execution_id, now=now and number == len(cancels))
        return await running

    ctx = kit.drive(drive())
    assert whole(ctx) == whole(kit.stored(execution_id))
    return ctx


def is_at_once(ctx: Any) -> bool:
    return [event.detail for event in ctx.events if event.type == "WORKFLOW_CANCELLING"][-1] == {"now": True}


def test_one_that_runs_ends_without_its_clean_up(both: Kit) -> None:
    ctx = ended(both, careful, 5)

    assert types(ctx) == ["WS", "TS", *CANCELLED]
    assert (ctx.state, is_at_once(ctx), both.clock.seconds) == (ExecutionState.CANCELLED, True, pytest.approx(5))
    assert both.store.inbox("e") == []


def test_it_is_no_divergence_that_the_clean_up_never_ran(both: Kit) -> None:
    at_once_, asked = ended(both, careful, 5), ended(both, careful, 5, now=False, execution_id="asked")

    assert divergence_of(careful.definition, at_once_.events) is None
    assert divergence_of(careful.definition, asked.events) is None

    @workflow.with_options(name="careful")
    async def other(ctx: ExecutionContext[int]) -> str:
        return await note("another call")

    assert divergence_of(other.definition, at_once_.events) is not None


def test_a_replay_does_not_tell_the_body_what_it_was_not_told(both: Kit) -> None:
    told: list[int] = []

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> None:
        try:
            await sleep(1000)
        except asyncio.CancelledError:
            told.append(ctx.input)
            raise

    ctx = ended(both, busy, 5)
    divergence_of(busy.definition, ctx.events)
    assert told == []

    divergence_of(busy.definition, ended(both, busy, 5, now=False, execution_id="asked").events)
    assert told != []


def test_one_that_is_stuck_in_its_clean_up_ends(both: Kit) -> None:
    @workflow
    async def stuck(ctx: ExecutionContext[int]) -> None:
        try:
            await endless(1)
        finally:
            await endless(2)

    ctx = ended(both, stuck, 5, 50)

    assert types(ctx) == ["WS", "TS", "WORKFLOW_CANCELLING", "TASK_CANCELLED", "TS", *CANCELLED]


def test_a_body_that_swallows_every_cancellation_ends(both: Kit) -> None:
    @workflow
    async def stubborn(ctx: ExecutionContext[int]) -> None:
        while True:
            try:
                await endless(1)
            except asyncio.CancelledError:
                await note("no")

    ctx = ended(both, stubborn, 5, 5)

    assert types(ctx)[-3:] == ["TS", *CANCELLED]


def test_a_rollback_under_way_is_cut_off_and_none_is_begun(both: Kit) -> None:
    undone: list[int] = []

    async def undo(x: int) -> None:
        await asyncio.sleep(60)
        undone.append(x)

    @task.with_options(rollback=undo)
    async def charge(x: int) -> None:
        await asyncio.sleep(10_000)

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> None:
        await charge(7)

    assert types(ended(both, busy, 5)) == ["WS", "TS", *CANCELLED]
    ctx = ended(both, busy, 5, 30, execution_id="undoing")

    assert types(ctx)[3:] == ["TASK_CANCELLED", "ROLLBACK_STARTED", *CANCELLED]
    assert undone == []


def test_a_task_that_ignores_its_cancellation_is_not_waited_for(both: Kit) -> None:
    @task
    async def stubborn(x: int) -> int:
        for _ in range(3):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue
        return x

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> int:
        return await stubborn(1)

    ctx = ended(both, busy, 3)

    assert types(ctx) == ["WS", "TS", *CANCELLED]
    assert both.clock.seconds == pytest.approx(3)


def test_the_child_process_of_a_task_is_killed(tmp_path: Path) -> None:
    kit = Kit(tmp_path)

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> None:
        await in_process(str(tmp_path))

    async def drive() -> Any:
        running = asyncio.ensure_future(kit.app.run_async(busy.definition, 1, "e"))
        while not (tmp_path / "began").exists() or not (tmp_path / "began").read_text():
            await asyncio.to_thread(time.sleep, 0.02)
        kit.app.send_cancel("e", now=True)
        ctx = await running
        while is_alive(int((tmp_path / "began").read_text())):
            await asyncio.to_thread(time.sleep, 0.02)
        return ctx

    assert types(asyncio.run(asyncio.wait_for(drive(), 15))) == ["WS", "TS", *CANCELLED]
    kit.close()


@task.with_options(executor="process")
def in_process(directory: str) -> None:
    (Path(directory) / "began").write_text(str(os.getpid()))
    time.sleep(60)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@workflow
async def approval(ctx: ExecutionContext[int]) -> Any:
    try:
        return await pause("approval")
    finally:
        await note("cleaned")


@workflow
async def waiter(ctx: ExecutionContext[int]) -> Any:
    try:
        return await wait_for_signal("go")
    finally:
        await note("cleaned")


@pytest.mark.parametrize("waiting", [approval, waiter])
def test_one_that_waits_for_somebody_outside_ends_without_its_code(both: Kit, waiting: Any) -> None:
    assert both.run(waiting, 1, "e").is_paused

    both.app.send_cancel("e", now=True)

    ctx = both.stored("e")
    assert types(ctx)[-2:] == CANCELLED
    assert (ctx.state, is_at_once(ctx), both.store.inbox("e")) == (ExecutionState.CANCELLED, True, [])
    assert [row.worker for row in both.store.list()] == [None]


def test_the_usual_cancel_does_not_end_what_nobody_runs(both: Kit) -> None:
    both.run(approval, 1, "e")

    both.app.send_cancel("e")

    assert both.store.get("e").state is ExecutionState.SCHEDULED  # type: ignore[union-attr]


def test_one_that_sleeps_or_was_left_by_a_dead_process_ends_without_its_code(both: Kit) -> None:
    @workflow
    async def sleeper(ctx: ExecutionContext[int]) -> None:
        await sleep(1_000_000)

    both.run_for(5, sleeper.run_async(1, execution_id="asleep"))
    both.run_for(5, careful.run_async(1, execution_id="left"))

    for execution_id in ("asleep", "left"):
        both.app.send_cancel(execution_id, now=True)

        assert types(both.stored(execution_id))[-2:] == CANCELLED


def test_a_queued_one_ends_and_its_body_never_runs(both: Kit) -> None:
    ran: list[int] = []

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> None:
        ran.append(1)

    async def drive() -> Any:
        handle = busy.start(1, execution_id="e")
        handle.cancel(now=True)
        return await handle.result()

    assert types(both.drive(drive())) == ["WORKFLOW_SCHEDULED", *CANCELLED]
    assert ran == []


def test_a_blocked_one_ends_by_whoever_asks(both: Kit) -> None:
    def version(name: str) -> Any:
        @task.with_options(name=name)
        async def step() -> None:
            await asyncio.sleep(100)

        @workflow.with_options(name="changing", version=name)
        async def changing(ctx: ExecutionContext[int]) -> None:
            await step()

        return changing

    both.run_for(5, version("one").run_async(1, execution_id="e"))
    with pytest.raises(NonDeterminismError):
        both.run(version("two"), 1, "e")
    ctx = both.drive(version("two").cancel_async("e", now=True))

    assert (types(ctx)[-2:], is_at_once(ctx)) == (CANCELLED, True)


def test_one_that_no_version_can_run_on_ends_without_its_code(both: Kit) -> None:
    @workflow
    async def idle(ctx: ExecutionContext[int]) -> None:
        await asyncio.Event().wait()

    with pytest.raises(BodyError):
        both.run(idle, 1, "e")
    both.app.send_cancel("e", now=True)

    assert types(both.stored("e")) == ["WS", *CANCELLED]


def test_one_whose_owner_is_dead_and_not_noticed_yet_ends(both: Kit) -> None:
    both.run(approval, 1, "e")
    dead = SqliteStore(both._settings.database)
    dead.register_worker("dead", lease_expires_at=0)
    dead.send("e", kind=MessageKind.SIGNAL, name="go", data=serde.encode(1), now=0)  # Wakes it.
    assert dead.claim("e", worker="dead", version=approval.definition.version, now=both.clock.now()) is not None

    both.app.send_cancel("e", now=True)

    assert types(both.stored("e"))[-3:] == ["WORKFLOW_CANCELLING", "WORKFLOW_SIGNALLED", "WORKFLOW_CANCELLED"]
    dead.close()


def test_whoever_finds_the_message_ends_it_without_running_the_body(both: Kit) -> None:
    """The sender was killed between its message and the end."""
    ran: list[str] = []

    @workflow
    async def loud(ctx: ExecutionContext[int]) -> Any:
        ran.append("again")
        return await pause("approval")

    both.run(loud, 1, "e")
    both.store.send("e", kind=MessageKind.CANCEL, name=NOW, data=b"", now=both.clock.now())
    ran.clear()

    assert types(both.run(loud, 1, "e"))[-2:] == CANCELLED
    assert ran == []


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_crash_of_the_sender_leaves_one_end(both: Kit, *, is_stored: bool) -> None:
    """Right before the commit of the end, or right after it."""
    both.run(approval, 1, "e")
    append, app = both.store.append, both.app

    def lost(batch: Any) -> Any:
        if is_stored:
            append(batch)
        both.store.close()  # The proof of life is gone with the process.
        raise KeyboardInterrupt

    both.store.append = lost  # type: ignore[method-assign]
    with pytest.raises((KeyboardInterrupt, StoreError)):
        app.send_cancel("e", now=True)
    both._open()
    assert both.stored("e").has_finished == is_stored

    if is_stored:
        with pytest.raises(ExecutionConflictError, match="CANCELLED"):
            both.app.send_cancel("e", now=True)
    else:
        both.app.send_cancel("e", now=True)
    ctx = both.stored("e")
    assert (types(ctx)[-2:], types(ctx).count("WORKFLOW_CANCELLED")) == (CANCELLED, 1)


@pytest.mark.parametrize("is_stored", [False, True])
def test_a_crash_of_the_owner_leaves_one_end(both: Kit, *, is_stored: bool) -> None:
    append = both.store.append

    def lost(batch: Any) -> Any:
        if not any(each.state.is_finished for each in batch):
            return append(batch)
        if is_stored:
            append(batch)
        both.store.close()
        raise StoreError("the process is killed here")

    async def killed() -> None:
        running = asyncio.ensure_future(careful.run_async(1, execution_id="e"))
        await asyncio.sleep(5)
        both.store.append = both.store.try_append = lost  # type: ignore[method-assign,assignment]
        both.app.send_cancel("e", now=True)
        await running

    with pytest.raises(StoreError):
        both.drive(killed())
    both._runner.close()
    both._open()
    assert both.stored("e").has_finished == is_stored
    ctx = both.run(careful, 1, "e")

    assert types(ctx) == ["WS", "TS", *CANCELLED]


def test_a_message_that_comes_during_the_end_is_in_the_history(both: Kit) -> None:
    both.run(approval, 1, "e")
    append = both.store.append

    def late(batch: Any) -> Any:
        if len(both.store.inbox("e")) == 1:
            both.app.send_signal("e", "go", 7)
        return append(batch)

    both.store.append = late  # type: ignore[method-assign]
    both.app.send_cancel("e", now=True)

    assert types(both.stored("e"))[-3:] == ["WORKFLOW_CANCELLING", "WORKFLOW_SIGNALLED", "WORKFLOW_CANCELLED"]


def test_the_end_of_the_body_at_the_same_moment_is_its_end(both: Kit) -> None:
    append = both.store.append

    def late(batch: Any) -> Any:
        if any(each.state.is_finished for each in batch) and not both.store.inbox("e"):
            both.app.send_cancel("e", now=True)
        return append(batch)

    both.store.append = late  # type: ignore[method-assign]

    @workflow
    async def quick(ctx: ExecutionContext[int]) -> int:
        await note("x")
        return 1

    assert types(both.run(quick, 1, "e")) == ["WS", "TS", "TC", "WC"]


# -- children


@workflow
async def middle(ctx: ExecutionContext[int]) -> Any:
    try:
        return await asyncio.gather(careful(1), approval(1))
    finally:
        await note("cleaned")


@workflow
async def outer(ctx: ExecutionContext[int]) -> Any:
    try:
        return await middle(1)
    finally:
        await note("cleaned")


def test_children_that_run_end_with_their_parent_without_their_clean_up(both: Kit) -> None:
    ctx = ended(both, outer, 5)

    assert types(ctx) == ["WS", "TS", *CANCELLED]
    rows = both.store.list()
    assert [row.state for row in rows] == [ExecutionState.CANCELLED] * 4
    for row in rows:
        assert types(both.stored(row.execution_id))[-2:] == CANCELLED
        assert is_at_once(both.stored(row.execution_id))
    assert both.clock.seconds == pytest.approx(5)


def test_children_that_nobody_runs_end_with_their_parent(both: Kit) -> None:
    both.run_for(5, outer.run_async(1, execution_id="e"))

    both.app.send_cancel("e", now=True)

    assert [row.state for row in both.store.list()] == [ExecutionState.CANCELLED] * 4


def test_children_that_a_crash_after_the_end_of_their_parent_has_left_are_ended_by_a_repeat(
    both: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    both.run_for(5, outer.run_async(1, execution_id="e"))
    with monkeypatch.context() as patch:
        patch.setattr(at_once, "_children", lambda store, execution_id: [])
        both.app.send_cancel("e", now=True)
    assert [row.state.is_finished for row in both.store.list()] == [False, False, False, True]

    both.app.send_cancel("e", now=True)

    assert [row.state for row in both.store.list()] == [ExecutionState.CANCELLED] * 4


def test_a_parent_is_told_that_its_child_was_cancelled(both: Kit) -> None:
    async def drive() -> Any:
        running = asyncio.ensure_future(outer.run_async(1, execution_id="e"))
        await asyncio.sleep(5)
        (child,) = (row for row in both.store.list() if row.workflow == "middle")
        both.app.send_cancel(child.execution_id, now=True)
        return await running

    ctx = both.drive(drive())

    assert ctx.state is ExecutionState.FAILED
    assert types(ctx)[-4:] == ["TF", "TS", "TC", "WF"]
