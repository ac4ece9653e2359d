"""Beginning anew: an execution that lives for ever keeps its id and loses its history."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, pause, serde, task, workflow
from flux.errors import BodyError, InvalidInputError
from flux.tasks import continue_as_new, parallel, sleep, wait_for_signal
from flux.testing import Bed
from functional.kit import Kit, run_script, shape, times, types, whole


@task
async def double(x: int) -> int:
    return 2 * x


@task
async def endless() -> None:
    await asyncio.sleep(10_000)


@workflow
async def counting(ctx: ExecutionContext[int]) -> Any:
    doubled = await double(ctx.input)
    if ctx.input < 3:
        await continue_as_new(ctx.input + 1)
    return doubled


def checked(kit: Kit, ctx: Any) -> list[tuple[Any, ...]]:
    """The history, after it was compared with what a fresh app reads from the database."""
    assert whole(ctx) == whole(kit.stored(ctx.execution_id))

    return shape(ctx)


def test_the_history_begins_anew_and_the_id_stays(both: Kit) -> None:
    ctx = both.run(counting, 0, "e")

    assert checked(both, ctx) == [
        ("WS", "counting", 3),
        ("TS", "double", {"x": 3}),
        ("TC", "double", 6),
        ("WC", "counting", 6),
    ]
    assert (ctx.execution_id, ctx.input, ctx.output) == ("e", 3, 6)
    assert len(both.store.list()) == 1
    assert [e.call_id for e in ctx.events] == ["", "1", "1", ""]  # The calls are counted anew, too.
    assert [e.seq for e in ctx.events] == list(range(ctx.events[0].seq, ctx.events[0].seq + 4))
    assert ctx.events[0].seq > 1  # Seqs go on: whoever watches by them misses nothing.


def test_without_an_input_it_begins_with_none(both: Kit) -> None:
    @workflow
    async def once_more(ctx: ExecutionContext[int | None]) -> Any:
        if ctx.input is not None:
            await continue_as_new()
        return "end"

    ctx = both.run(once_more, 1, "e")

    assert (ctx.input, ctx.output) == (None, "end")


def test_nothing_after_it_runs_and_nothing_that_a_body_catches_stops_it(both: Kit) -> None:
    ran: list[str] = []

    @workflow
    async def careless(ctx: ExecutionContext[int]) -> Any:
        if ctx.input:
            return "end"
        try:
            await continue_as_new(1)
            ran.append("after")
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                ran.append(repr(error))
            raise
        return "never"

    assert both.run(careless, 0).output == "end"
    assert ran == []


def test_calls_that_are_open_are_cancelled(both: Kit) -> None:
    cancelled: list[str] = []

    @task
    async def careful() -> None:
        try:
            await asyncio.sleep(10_000)
        except asyncio.CancelledError:
            cancelled.append("careful")
            raise

    @workflow
    async def restless(ctx: ExecutionContext[int]) -> Any:
        if ctx.input:
            return await double(ctx.input)
        asyncio.ensure_future(careful())
        await sleep(1)
        await continue_as_new(1)
        return None

    ctx = both.run(restless, 0)

    assert ctx.output == 2
    assert cancelled == ["careful"]
    assert types(ctx) == ["WS", "TS", "TC", "WC"]
    assert both.clock.seconds < 10


def test_children_that_are_open_are_cancelled_and_waited_for(both: Kit) -> None:
    both.look_for_news_every(0.1)

    @workflow
    async def child(ctx: ExecutionContext[int]) -> None:
        try:
            await endless()
        finally:
            await double(ctx.input)

    @workflow
    async def restless(ctx: ExecutionContext[int]) -> Any:
        if ctx.input:
            return "end"
        asyncio.ensure_future(child(1))
        await sleep(1)
        await continue_as_new(1)
        return None

    ctx = both.run(restless, 0, "e")

    assert ctx.output == "end"
    (row,) = [row for row in both.store.list() if row.parent_id == "e"]
    assert both.stored(row.execution_id).is_cancelled
    assert both.clock.seconds < 10


def test_it_may_be_asked_for_deep_inside_the_body(both: Kit) -> None:
    @workflow
    async def deep(ctx: ExecutionContext[int]) -> Any:
        async def inner() -> None:
            if not ctx.input:
                await continue_as_new(1)

        await parallel(inner(), double(1))
        return ctx.input

    assert both.run(deep, 0).output == 1


def test_signals_that_were_received_and_not_taken_go_with_it(both: Kit) -> None:
    @workflow
    async def hearing(ctx: ExecutionContext[int]) -> Any:
        if not ctx.input:
            await sleep(8)  # Short enough to stay in memory, and to receive them.
            await continue_as_new(await wait_for_signal("n"))
        return [ctx.input, await wait_for_signal("other"), await wait_for_signal("n"), await wait_for_signal("n")]

    async def drive() -> Any:
        running = asyncio.ensure_future(hearing.run_async(0, execution_id="e"))
        for name, value in (("n", 1), ("n", 2), ("other", "o"), ("n", 3)):
            await asyncio.sleep(1)
            both.app.send_signal("e", name, value)
        return await running

    ctx = both.drive(drive())

    assert ctx.output == [1, "o", 2, 3]
    received = [event.value for event in ctx.events if event.type == "WORKFLOW_SIGNALLED"]
    assert received == [{"name": name, "value": value} for name, value in (("n", 2), ("other", "o"), ("n", 3))]
    checked(both, ctx)


def test_signals_that_nobody_took_are_there_in_the_fresh_history(both: Kit) -> None:
    @workflow
    async def hearing(ctx: ExecutionContext[list[int]]) -> Any:
        if not ctx.input:
            await double(1)  # Meanwhile three signals come, of which one is taken.
            first = await wait_for_signal("n")
            await continue_as_new([first])
        return [*ctx.input, await wait_for_signal("n"), await wait_for_signal("other"), await wait_for_signal("n")]

    both.run(hearing, [], "e")
    for name, value in (("n", 1), ("n", 2), ("other", "o")):
        both.app.send_signal("e", name, value)
    paused = both.run(hearing, execution_id="e")
    both.app.send_signal("e", "n", 3)
    ctx = both.run(hearing, execution_id="e")

    assert paused.is_paused
    assert types(paused)[0] == "WS"
    assert ctx.output == [1, 2, "o", 3]
    assert both.store.inbox("e") == []


def test_a_repeat_of_a_signal_is_ignored_in_the_fresh_history_too(both: Kit) -> None:
    @workflow
    async def hearing(ctx: ExecutionContext[Any]) -> Any:
        if ctx.input == "begin":
            await continue_as_new(await wait_for_signal("n"))
        return [ctx.input, await wait_for_signal("n")]

    both.run(hearing, "begin", "e")
    both.app.send_signal("e", "n", 1, client_id="c")
    both.run(hearing, execution_id="e")
    both.app.send_signal("e", "n", 1, client_id="c")
    assert both.run(hearing, execution_id="e").is_paused
    both.app.send_signal("e", "n", 2, client_id="d")

    assert both.run(hearing, execution_id="e").output == [1, 2]


def test_a_pause_belongs_to_its_history(both: Kit) -> None:
    @workflow
    async def asking(ctx: ExecutionContext[int]) -> Any:
        answer = await pause(f"pause {ctx.input}")
        if ctx.input < 2:
            await continue_as_new(ctx.input + 1)
        return [ctx.input, answer]

    both.run(asking, 0, "e")
    for answer in range(2):
        assert both.resume(asking, "e", answer).is_paused
    ctx = both.resume(asking, "e", 2)

    assert ctx.output == [2, 2]
    assert [e.value for e in ctx.events if e.type == "TASK_PAUSED"] == ["pause 2"]


def test_a_resume_that_came_as_its_pause_timed_out_and_the_history_ended_is_recorded_in_the_fresh_one(
    kit: Kit, monkeypatch: Any
) -> None:
    @workflow
    async def moving(ctx: ExecutionContext[int]) -> Any:
        if ctx.input:
            return await pause("second")
        try:
            await pause("first", timeout=5)
        except TimeoutError:
            await continue_as_new(1)

    append = kit.store.append

    def late(appends: Any) -> Any:
        if any(event.type == "TASK_CANCELLED" for each in appends for event in each.events):
            # The pause is open until this commit, so it is acknowledged; read it is when the history has begun anew.
            kit.store.resume("e", data=serde.encode("yes"), now=kit.app.clock.now())
        return append(appends)

    monkeypatch.setattr(kit.store, "append", late)
    monkeypatch.setattr(kit.store, "try_append", late)
    ctx = kit.run(moving, 0, "e")
    monkeypatch.undo()

    assert ctx.is_paused  # The answer was not for this pause.
    assert [(e.type, e.value) for e in ctx.events if e.type == "WORKFLOW_RESUMED"] == [("WORKFLOW_RESUMED", "yes")]
    assert kit.store.inbox("e") == []
    assert kit.resume(moving, "e", "no").output == "no"


def test_children_of_each_history_are_executions_of_their_own(both: Kit) -> None:
    @workflow
    async def child(ctx: ExecutionContext[int]) -> int:
        return await double(ctx.input)

    @workflow
    async def parent(ctx: ExecutionContext[int]) -> Any:
        result = await child(ctx.input)
        if ctx.input < 2:
            await continue_as_new(ctx.input + 1)
        return result

    ctx = both.run(parent, 0, "e")

    assert ctx.output == 4
    rows = [row for row in both.store.list() if row.parent_id == "e"]
    assert len({row.execution_id for row in rows}) == 3
    assert sorted(both.stored(row.execution_id).output for row in rows) == [0, 2, 4]


def test_a_child_that_begins_anew_answers_its_parent_at_its_end(both: Kit) -> None:
    @workflow
    async def parent(ctx: ExecutionContext[int]) -> Any:
        return [await counting(ctx.input)]

    ctx = both.run(parent, 0, "e")

    assert ctx.output == [6]
    assert types(ctx) == ["WS", "TS", "TC", "WC"]


def test_the_keys_of_calls_differ_between_histories(both: Kit) -> None:
    keys: list[str] = []

    @task.with_options(metadata=True)
    async def keyed(metadata: Any) -> None:
        keys.append(metadata.idempotency_key)

    @workflow
    async def again(ctx: ExecutionContext[int]) -> None:
        await keyed()
        if ctx.input < 2:
            await continue_as_new(ctx.input + 1)

    both.run(again, 0, "e")

    assert len(set(keys)) == 3


def test_a_cancelled_execution_does_not_begin_anew(both: Kit) -> None:
    @workflow
    async def stubborn(ctx: ExecutionContext[int]) -> None:
        try:
            await endless()
        finally:
            await continue_as_new(ctx.input + 1)

    async def drive() -> Any:
        running = asyncio.ensure_future(stubborn.run_async(0, execution_id="e"))
        await asyncio.sleep(5)
        both.app.send_cancel("e")
        return await running

    ctx = both.drive(drive())

    assert ctx.state is ExecutionState.CANCELLED
    assert ctx.input == 0


# -- crashes


@pytest.mark.parametrize("crash_at", [5, 15, 25])
def test_a_crash_repeats_no_history_that_is_over(kit: Kit, crash_at: float) -> None:
    ran: list[int] = []

    @task
    async def step(x: int) -> int:
        ran.append(x)
        await asyncio.sleep(10)
        return x

    @workflow
    async def again(ctx: ExecutionContext[int]) -> Any:
        await step(ctx.input)
        if ctx.input < 2:
            await continue_as_new(ctx.input + 1)
        return "end"

    kit.run_for(crash_at, again.run_async(0, execution_id="e"))
    ctx = kit.run(again, execution_id="e")

    assert ctx.output == "end"
    assert sorted(ran) == sorted([0, 1, 2, int(crash_at // 10)])


def test_a_supervisor_that_repeats_the_first_input_continues_what_began_anew(kit: Kit) -> None:
    """The request is the one that it was started with, whatever its input is now."""

    @workflow
    async def again(ctx: ExecutionContext[int]) -> Any:
        await sleep(5)
        if ctx.input < 3:
            await continue_as_new(ctx.input + 1)
        return ctx.input

    kit.run_for(12, again.run_async(0, execution_id="e"))

    assert kit.run(again, 0, "e").output == 3
    with pytest.raises(InvalidInputError, match="was started with another input"):
        kit.run(again, 2, "e")


def test_many_fresh_starts_survive_kill_9(home: Path) -> None:
    program = """
        from flux.tasks import continue_as_new

        @task
        async def step(n):
            count(f"step{n}")
            if n == 7 and once("died"):
                die()
            return n

        @workflow
        async def job(ctx: ExecutionContext[int]):
            n = await step(ctx.input)
            if n < 20:
                await continue_as_new(n + 1)
            return n

        print(job.run(0, execution_id="e").output)
    """
    run_script(home, program, code=-9)

    assert run_script(home, program) == "20\n"
    assert [times(home, f"step{n}") for n in range(21)] == [2 if n == 7 else 1 for n in range(21)]


# -- what is refused


def test_an_input_that_does_not_fit_is_refused_and_the_execution_is_what_it_was(both: Kit) -> None:
    @workflow
    async def strict(ctx: ExecutionContext[int]) -> str:
        await double(ctx.input)
        try:
            await continue_as_new("many")
        except InvalidInputError as error:
            return str(error)

    ctx = both.run(strict, 1)

    assert types(ctx) == ["WS", "TS", "TC", "WC"]
    assert "the input does not fit the workflow 'strict'" in ctx.output


def test_outside_a_body_it_is_refused(both: Kit) -> None:
    @task
    async def wrong() -> None:
        await continue_as_new(1)

    @workflow
    async def calling(ctx: ExecutionContext[int]) -> None:
        await wrong()

    with pytest.raises(BodyError, match=r"continue_as_new\(\) was called in plain code"):
        asyncio.run(continue_as_new(1))
    ctx = both.run(calling, 1)
    assert isinstance(ctx.output, BodyError)
    assert "in the task 'wrong': it belongs in the body of a workflow" in str(ctx.output)


# -- long histories


@task.with_options(pure=True)
async def tick(i: int) -> int:
    return i


@workflow
async def ticking(ctx: ExecutionContext[int]) -> int:
    for i in range(ctx.input):
        await tick(i)
    return ctx.input


@pytest.mark.slow
def test_a_history_of_ten_thousand_events_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    assert ticking.run(4_900).output == 4_900
    assert caplog.records == []
    assert ticking.run(5_200).output == 5_200

    (warning,) = [record.getMessage() for record in caplog.records]
    assert "has 10000 events: let it begin anew with continue_as_new()" in warning


@pytest.mark.parametrize("limit", [50, 10_020])
def test_a_history_has_a_hard_limit_that_can_be_set(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setenv("FLUX_HISTORY_LIMIT_EVENTS", str(limit))
    ctx = ticking.run(limit, execution_id="e")

    assert ctx.has_failed
    assert isinstance(ctx.output, BodyError)
    reason = f"the history has reached its limit of {limit:,} events: let it begin anew with continue_as_new()"
    assert str(ctx.output).startswith(reason)
    assert limit <= len(ctx.events) < limit + 10


def test_a_history_below_the_limit_is_none_of_its_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_HISTORY_LIMIT_EVENTS", "50")

    assert ticking.run(20).output == 20


def test_whoever_begins_anew_in_time_never_meets_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_HISTORY_LIMIT_EVENTS", "50")

    @workflow
    async def for_ever(ctx: ExecutionContext[int]) -> int:
        for _ in range(20):
            await tick(1)
        if ctx.input < 10:
            await continue_as_new(ctx.input + 1)
        return ctx.input

    assert for_ever.run(0).output == 10


def test_a_pause_in_a_rollback_that_the_body_left_behind_is_answered_before_the_history_begins_anew() -> None:
    async def undo() -> None:
        await asyncio.sleep(10)  # Longer than the grace for which the body waits.
        await pause("undone?")

    @task.with_options(rollback=undo)
    async def failing() -> None:
        raise ValueError("no")

    @task
    async def outer() -> None:
        await failing()

    @workflow
    async def leaving(ctx: ExecutionContext[int]) -> Any:
        if ctx.input:
            return "end"
        try:
            async with asyncio.timeout(1):
                await asyncio.gather(outer(), endless())
        except TimeoutError:
            await continue_as_new(1)

    async def scenario() -> Any:
        handle = leaving.start(0)
        await asyncio.sleep(20)
        bed.app.send_resume(handle.execution_id, None)
        return await asyncio.wait_for(handle.result(), 100)

    with Bed().installed() as bed:
        assert bed.run(scenario()).output == "end"
