"""Signals: a durable mailbox for each name; none is lost, none is given twice, and their order is kept."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, pause, task, workflow
from flux.errors import (
    BodyError,
    ExecutionConflictError,
    ExecutionContextNotFoundError,
    ExecutionTimeoutError,
    InvalidValueError,
    UnserializableValue,
)
from flux.tasks import parallel, sleep, wait_for_signal
from functional.kit import Kit, run_script, shape, types, whole


@task
async def slow(x: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return x


@workflow
async def waiting(ctx: ExecutionContext[int]) -> Any:
    return [await wait_for_signal("paid") for _ in range(ctx.input)]


def checked(kit: Kit, ctx: Any) -> list[tuple[Any, ...]]:
    """The history, after it was compared with what a fresh app reads from the database."""
    assert whole(ctx) == whole(kit.stored(ctx.execution_id))

    return shape(ctx)


def sending(kit: Kit, flow: Any, sends: list[tuple[float, str, Any]], value: Any = None) -> Any:
    """Run an execution, and send it signals at these times."""

    async def drive() -> Any:
        running = asyncio.ensure_future(flow.run_async(value, execution_id="e"))
        for at, name, sent in sends:
            await asyncio.sleep(at - kit.clock.seconds)
            kit.app.send_signal("e", name, sent)
        return await running

    return kit.drive(drive())


# -- early, late, in order


def test_a_wait_for_a_signal_pauses_the_execution_and_the_signal_continues_it(both: Kit) -> None:
    paused = both.run(waiting, 1, "e")
    both.app.send_signal("e", "paid", 5)
    ctx = both.run(waiting, 1, "e")

    assert paused.state is ExecutionState.PAUSED
    assert checked(both, ctx) == [
        ("WS", "waiting", 1),
        ("TS", "wait_for_signal", {"name": "paid"}),
        ("WP", "waiting", {"name": "paid", "output": None}),
        ("WORKFLOW_SIGNALLED", "waiting", {"name": "paid", "value": 5}),
        ("TC", "wait_for_signal", 5),
        ("WC", "waiting", [5]),
    ]


def test_a_signal_that_was_sent_early_waits(both: Kit) -> None:
    @workflow
    async def late(ctx: ExecutionContext[None]) -> Any:
        await slow(1, 100)
        return await wait_for_signal("paid")

    ctx = sending(both, late, [(10, "paid", "early")])

    assert ctx.output == "early"
    assert "WP" not in types(ctx)
    assert both.clock.seconds == pytest.approx(100, abs=0.01)


def test_a_signal_reaches_an_execution_that_sleeps(both: Kit) -> None:
    @workflow
    async def sleeping(ctx: ExecutionContext[None]) -> Any:
        signal = asyncio.ensure_future(wait_for_signal("paid"))
        await sleep(1_000)
        return [signal.done(), await signal]

    assert sending(both, sleeping, [(10, "paid", "x")]).output == [True, "x"]


@pytest.mark.parametrize("value", [None, 0, "", False, [], {1: (2, {3})}], ids=repr)
def test_any_value_is_delivered_as_what_it_was(both: Kit, value: Any) -> None:
    both.run(waiting, 1, "e")
    both.app.send_signal("e", "paid", value)

    (received,) = both.run(waiting, 1, "e").output

    assert (received, type(received)) == (value, type(value))


def test_signals_of_one_name_are_given_in_the_order_in_which_they_were_sent_and_each_once(both: Kit) -> None:
    both.run(waiting, 5, "e")
    for i in range(3):
        both.app.send_signal("e", "paid", i)
    assert both.run(waiting, 5, "e").is_paused
    for i in range(3, 5):
        both.app.send_signal("e", "paid", i)

    ctx = both.run(waiting, 5, "e")

    assert ctx.output == [0, 1, 2, 3, 4]
    assert types(ctx).count("WORKFLOW_SIGNALLED") == 5
    assert both.store.inbox("e") == []


def test_each_name_has_a_mailbox_of_its_own(both: Kit) -> None:
    @workflow
    async def two(ctx: ExecutionContext[None]) -> Any:
        return [await wait_for_signal("a"), await wait_for_signal("b")]

    both.run(two, None, "e")
    both.app.send_signal("e", "b", "B")
    assert both.run(two, None, "e").is_paused
    both.app.send_signal("e", "a", "A")

    assert both.run(two, None, "e").output == ["A", "B"]


def test_of_two_that_wait_for_one_name_each_gets_one_signal(both: Kit) -> None:
    @workflow
    async def two(ctx: ExecutionContext[None]) -> Any:
        return await parallel(wait_for_signal("a"), wait_for_signal("a"))

    both.run(two, None, "e")
    both.app.send_signal("e", "a", 1)
    assert both.run(two, None, "e").is_paused
    both.app.send_signal("e", "a", 2)

    assert both.run(two, None, "e").output == [1, 2]


def test_a_signal_that_nobody_waits_for_changes_nothing(both: Kit) -> None:
    @workflow
    async def deaf(ctx: ExecutionContext[None]) -> Any:
        return await slow(1, 100)

    ctx = sending(both, deaf, [(10, "whatever", 1)])

    assert (ctx.output, types(ctx)) == (1, ["WS", "TS", "WORKFLOW_SIGNALLED", "TC", "WC"])


def test_a_signal_answers_no_pause_and_a_resume_no_wait_for_a_signal(both: Kit) -> None:
    @workflow
    async def asking(ctx: ExecutionContext[None]) -> Any:
        return [await pause("go"), await wait_for_signal("go")]

    both.run(asking, None, "e")
    both.app.send_signal("e", "go", "signal")
    assert both.run(asking, None, "e").is_paused
    assert both.resume(asking, "e", "resume").output == ["resume", "signal"]

    both.run(waiting, 1, "f")
    with pytest.raises(ExecutionConflictError, match="no open pause"):
        both.app.send_resume("f", "x")


# -- waiting no longer


@pytest.mark.parametrize("timeout", [60, timedelta(minutes=1)], ids=repr)
def test_a_wait_gives_up_after_its_timeout_and_a_late_signal_is_for_the_next_wait(both: Kit, timeout: Any) -> None:
    @workflow
    async def patient(ctx: ExecutionContext[None]) -> Any:
        try:
            return await wait_for_signal("paid", timeout=timeout)
        except ExecutionTimeoutError as error:
            assert isinstance(error, TimeoutError)
            return [str(error), await wait_for_signal("paid")]

    both.run(patient, None, "e")
    assert both.clock.seconds == pytest.approx(60, abs=0.01)
    both.app.send_signal("e", "paid", "late")

    assert both.run(patient, None, "e").output == ["Signal paid did not come in time (60s).", "late"]


def test_a_signal_in_time_wins_over_the_timeout(both: Kit) -> None:
    @workflow
    async def patient(ctx: ExecutionContext[None]) -> Any:
        return await wait_for_signal("paid", timeout=60)

    ctx = sending(both, patient, [(59, "paid", "in time")])

    assert ctx.output == "in time"


def test_a_wait_that_the_body_gives_up_takes_no_signal(both: Kit) -> None:
    @workflow
    async def choosing(ctx: ExecutionContext[None]) -> Any:
        first, second = (asyncio.ensure_future(wait_for_signal("a")), asyncio.ensure_future(wait_for_signal("b")))
        await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
        first.cancel()
        return [await second, await wait_for_signal("a")]

    both.run(choosing, None, "e")
    both.app.send_signal("e", "b", "B")
    both.run(choosing, None, "e")
    both.app.send_signal("e", "a", "A")

    assert both.run(choosing, None, "e").output == ["B", "A"]


# -- crashes


@pytest.mark.parametrize("crash_at", [5, 15, 25, 35])
def test_a_crash_loses_no_signal_and_repeats_none(kit: Kit, crash_at: float) -> None:
    @workflow
    async def collecting(ctx: ExecutionContext[None]) -> Any:
        got = []
        for _ in range(3):
            await slow(1, 12)
            got.append(await wait_for_signal("n"))
        return got

    async def drive() -> Any:
        running = asyncio.ensure_future(collecting.run_async(None, execution_id="e"))
        for i in range(3):
            await asyncio.sleep(2)
            kit.app.send_signal("e", "n", i)
        return await running

    kit.run_for(crash_at, drive())
    if crash_at == 5:
        kit.app.send_signal("e", "n", 2)  # The sender died, too, and had sent two of them.
    ctx = kit.run(collecting, execution_id="e")

    assert ctx.output == [0, 1, 2]
    assert types(ctx).count("WORKFLOW_SIGNALLED") == 3
    assert kit.store.inbox("e") == []


def test_a_signal_that_another_process_sends_is_acknowledged_when_it_is_on_disk(home: Path) -> None:
    program = """
        from flux.tasks import wait_for_signal

        @workflow
        async def job(ctx: ExecutionContext[int]):
            return [await wait_for_signal("a"), await wait_for_signal("a")]

        if sys.argv[1] == "send":
            for i in range(2):
                job.signal("e", "a", i, client_id=f"signal-{i}")
                job.signal("e", "a", i, client_id=f"signal-{i}")
            die()
        ctx = job.run(1, execution_id="e")
        print(ctx.state, ctx.output)
    """
    assert run_script(home, program, "run") == "PAUSED None\n"
    run_script(home, program, "send", code=-9)

    assert run_script(home, program, "run") == "COMPLETED [0, 1]\n"


# -- an execution that has no body to receive them


@pytest.mark.parametrize("when", ["before", "while it ends"])
def test_a_queued_execution_is_cancelled_whatever_signals_it_was_sent(both: Kit, when: str) -> None:
    append = both.store.append

    def late(batch: Any) -> Any:
        if any(each.state.is_finished for each in batch) and len(both.store.inbox("e")) == 1:
            both.app.send_signal("e", "paid", "late")
        return append(batch)

    if when == "while it ends":
        both.store.append = late  # type: ignore[method-assign]

    async def drive() -> Any:
        handle = waiting.start(1, execution_id="e")
        if when == "before":
            handle.signal("paid", "early")
        handle.cancel()
        return await asyncio.wait_for(handle.result(), 60)

    ctx = both.drive(drive())

    signalled = ("WORKFLOW_SIGNALLED", "waiting", {"name": "paid", "value": "early" if when == "before" else "late"})
    assert checked(both, ctx) == [
        ("WORKFLOW_SCHEDULED", "waiting", 1),
        ("WORKFLOW_CANCELLING", "waiting", None),
        signalled,
        ("WORKFLOW_CANCELLED", "waiting", None),
    ]
    assert both.store.inbox("e") == []


# -- repeats, and what is refused


def test_a_repeat_with_the_same_client_id_is_ignored_also_after_it_was_delivered(both: Kit) -> None:
    both.run(waiting, 3, "e")
    for value in ("first", "repeat"):
        both.app.send_signal("e", "paid", value, client_id="c1")
    assert both.run(waiting, 3, "e").is_paused
    both.app.send_signal("e", "paid", "repeat after delivery", client_id="c1")
    both.app.send_signal("e", "paid", "second", client_id="c2")
    both.app.send_signal("e", "paid", "third")

    assert both.run(waiting, 3, "e").output == ["first", "second", "third"]


def test_equal_signals_without_a_client_id_are_different_signals(both: Kit) -> None:
    """The control of the test above."""
    both.run(waiting, 2, "e")
    both.app.send_signal("e", "paid", 1)
    both.app.send_signal("e", "paid", 1)

    assert both.run(waiting, 2, "e").output == [1, 1]


@pytest.mark.parametrize("how", ["signal", "handle"])
def test_a_signal_to_a_finished_execution_is_refused(home: Path, how: str) -> None:
    @workflow
    async def quick(ctx: ExecutionContext[int]) -> int:
        if ctx.input < 0:
            raise ValueError(ctx.input)
        return 1

    for value, state in ((1, "COMPLETED"), (-1, "FAILED")):
        ctx = quick.run(value)
        with pytest.raises(ExecutionConflictError, match=f"is {state}, so a signal would change nothing: start a new"):
            if how == "signal":
                quick.signal(ctx.execution_id, "paid", 1)
            else:
                quick.execution(ctx.execution_id).signal("paid", 1)
        assert types(quick.run(execution_id=ctx.execution_id)) == types(ctx)


def test_a_signal_to_nobody_is_refused(home: Path) -> None:
    with pytest.raises(ExecutionContextNotFoundError, match="there is no execution 'unknown'"):
        waiting.signal("unknown", "paid", 1)
    with pytest.raises(ExecutionContextNotFoundError, match="there is no execution 'unknown'"):
        waiting.execution("unknown")


def test_a_signal_through_another_workflow_is_refused(home: Path) -> None:
    @workflow
    async def other(ctx: ExecutionContext[int]) -> None:
        pass

    waiting.run(1, execution_id="e")

    with pytest.raises(ExecutionConflictError, match="belongs to the workflow 'waiting', not to 'other'"):
        other.signal("e", "paid", 1)
    waiting.signal("e", "paid", 2)
    assert waiting.run(execution_id="e").output == [2]


@pytest.mark.parametrize("name", ["", None, 5, b"paid"], ids=repr)
def test_a_signal_is_named_by_text(both: Kit, name: Any) -> None:
    @workflow
    async def odd(ctx: ExecutionContext[None]) -> Any:
        await wait_for_signal(name)

    both.run(waiting, 1, "e")
    ctx = both.run(odd)

    assert types(ctx) == ["WS", "WF"]
    assert "name it by a text" in str(ctx.output)
    with pytest.raises(InvalidValueError, match="name it by a text"):
        both.app.send_signal("e", name, 1)
    assert both.store.inbox("e") == []


def test_a_value_that_cannot_be_recorded_is_refused(both: Kit) -> None:
    both.run(waiting, 1, "e")

    with pytest.raises(UnserializableValue):
        both.app.send_signal("e", "paid", [object()])
    assert both.store.inbox("e") == []


@pytest.mark.parametrize("timeout", [-1, "soon", float("nan"), True], ids=repr)
def test_a_timeout_that_is_none_is_refused(both: Kit, timeout: Any) -> None:
    @workflow
    async def odd(ctx: ExecutionContext[None]) -> Any:
        await wait_for_signal("paid", timeout=timeout)

    ctx = both.run(odd)

    assert types(ctx) == ["WS", "WF"]
    assert "timeout is" in str(ctx.output)


def test_a_body_sends_no_signal_and_a_task_waits_for_none(both: Kit) -> None:
    @task
    async def wrong() -> Any:
        return await wait_for_signal("paid")

    @workflow
    async def odd(ctx: ExecutionContext[None]) -> Any:
        errors = []
        try:
            both.app.send_signal(ctx.execution_id, "paid", 1)
        except BodyError as error:
            errors.append(str(error))
        try:
            await wrong()
        except BodyError as error:
            errors.append(str(error))
        return errors

    ctx = both.run(odd)

    assert "send it from a @task" in ctx.output[0]
    assert "wait_for_signal() was called in the task 'wrong': it belongs in the body" in ctx.output[1]


def test_a_task_sends_signals(home: Path) -> None:
    @task
    async def tell(execution_id: str) -> None:
        waiting.signal(execution_id, "paid", "from a task")

    @workflow
    async def telling(ctx: ExecutionContext[str]) -> None:
        await tell(ctx.input)

    assert waiting.run(1, execution_id="e").is_paused
    assert telling.run("e").has_succeeded

    assert waiting.run(execution_id="e").output == ["from a task"]
