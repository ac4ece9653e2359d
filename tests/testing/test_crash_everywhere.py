"""`crash_everywhere`: it finds what a crash would do, says where, and lets in peace what is right."""

import asyncio
import random
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, TaskMetadata, patched, pause, task, workflow
from flux.engine.attempt import Attempt
from flux.errors import ExecutionConflictError, ExecutionTimeoutError, InvalidValueError, TaskInterruptedError
from flux.output_storage import InlineOutputStorage
from flux.tasks import continue_as_new, now, parallel, randint, sleep, uuid4, wait_for_signal
from flux.testing import CrashTestError, Ledger, Signal, crash_everywhere, fake

LEDGER = Ledger()


@task.with_options(metadata=True)
async def act(what: str, seconds: float = 1, *, metadata: TaskMetadata) -> str:
    """As it should be: the outside world knows a repeat."""
    LEDGER.act(what, key=metadata.idempotency_key)
    await asyncio.sleep(seconds)
    return what


def failure(*args: Any, **options: Any) -> str:
    began = time.monotonic()
    with pytest.raises(CrashTestError) as caught:
        crash_everywhere(*args, ledger=LEDGER, **options)

    assert time.monotonic() - began < 10
    return str(caught.value)


def line_of(function: Any, offset: int) -> str:
    return f"{__file__}:{function.func.__code__.co_firstlineno + offset}"


# -- what it finds


@workflow
async def acting_in_the_body(ctx: ExecutionContext[Any]) -> None:
    await act("first")
    LEDGER.act("mail", ctx.input)
    await act("second")


def test_an_effect_of_the_body_is_found():
    text = failure(acting_in_the_body, "Ann")

    assert "dies right before the append of TASK_COMPLETED of 'act', TASK_STARTED of 'act' (events 4-5)" in text
    assert "mail('Ann') was done 2 times, and once without the crash: by the body, at " in text
    assert f"{line_of(acting_in_the_body, 3)}: LEDGER.act(" in text
    assert "What helps: a body runs again at every replay: do it in a @task" in text


@task
async def charge(amount: int) -> int:
    LEDGER.act("charge", amount)
    return amount


@workflow
async def charging(ctx: ExecutionContext[int]) -> int:
    await act("before")
    return await charge(ctx.input)


def test_a_double_charge_is_found_at_the_first_point_with_its_lines_and_what_helps():
    text = failure(charging, 5)

    assert text.startswith(
        "crash point 7 of 8 fails: the process dies right before the append of TASK_COMPLETED of 'charge', "
    )
    assert f"\n  at {line_of(charging, 3)}: return await charge(ctx.input)\n" in text
    assert "\n  charge(5) was done 2 times, and once without the crash: by the task 'charge', at " in text
    assert f"{line_of(charge, 2)}: LEDGER.act(" in text
    assert "What helps: a task that was interrupted runs again: give the outside world its idempotency key" in text


@task
async def charge_and_book(amount: int) -> None:
    LEDGER.act("charge", amount)
    await act("book")


@workflow
async def booking(ctx: ExecutionContext[int]) -> None:
    await charge_and_book(ctx.input)


def test_a_task_that_acts_and_then_awaits_another_is_found():
    text = failure(booking, 5)

    assert "dies right before the append of TASK_STARTED of 'act' (event 4)" in text
    assert "charge(5) was done 2 times" in text


@task.with_options(retry_max_attempts=2)
async def charge_and_fail(amount: int) -> None:
    LEDGER.act("charge", amount)
    raise ConnectionError("no answer")


@workflow
async def failing(ctx: ExecutionContext[int]) -> None:
    await charge_and_fail(ctx.input)


def test_a_task_that_acts_and_then_fails_is_found():
    text = failure(failing, 5)

    assert "right before the append of TASK_RETRY_FAILED of 'charge_and_fail'" in text
    assert "charge(5) was done 4 times, and 3 times without the crash" in text


@workflow
async def drawing_lots(ctx: ExecutionContext[Any]) -> str:
    await act("first")
    return await act(f"number {random.randint(1, 1_000_000)}")


def test_a_body_that_draws_lots_is_found():
    text = failure(drawing_lots)

    assert "not at all, and once without the crash" in text
    assert "What helps: what ran again did not do the same" in text


CALLS: list[int] = []


@workflow
async def of_two_minds(ctx: ExecutionContext[Any]) -> str:
    await act("first")
    CALLS.append(len(CALLS))
    return await (charge(1) if len(CALLS) % 2 else act("other"))  # type: ignore[return-value]


def test_a_body_that_does_not_fit_its_own_history_is_found():
    CALLS.clear()
    text = failure(of_two_minds)

    assert "'act'" in text or "history has" in text


@workflow
async def by_two_ways(ctx: ExecutionContext[Any]) -> int:
    CALLS.append(len(CALLS))
    return await (one_way(1) if len(CALLS) % 2 else other_way(1))


@task
async def one_way(x: int) -> int:
    return x


@task
async def other_way(x: int) -> int:
    return x


def test_another_way_to_the_same_end_is_found():
    CALLS.clear()

    assert "the body of 'by_two_ways' called one_way(x=1) not at all, and once without the crash" in failure(
        by_two_ways
    )


REMEMBERED: list[str] = []


@task
async def remember(what: str) -> None:
    REMEMBERED.append(what)


@workflow
async def remembering(ctx: ExecutionContext[Any]) -> list[str]:
    await remember("a")
    return list(REMEMBERED)


def test_what_depends_on_a_global_variable_is_found():
    REMEMBERED.clear()
    text = failure(remembering)

    assert "it ended COMPLETED with ['a', 'a'], and COMPLETED with ['a'] without the crash" in text
    assert "keep in the body's variables what a global variable forgets" in text


@task
async def act_if_new(what: str) -> None:
    if what not in REMEMBERED:
        REMEMBERED.append(what)
        await act("greeted")


@workflow
async def greeting(ctx: ExecutionContext[Any]) -> None:
    await act_if_new("Ann")


def test_an_effect_that_is_left_out_is_found():
    REMEMBERED.clear()

    assert "greeted() was done not at all, and once without the crash" in failure(greeting)


@task.with_options(at_most_once=True, retry_max_attempts=1)
async def transfer_carelessly(amount: int) -> None:
    LEDGER.act("transfer", amount)


@workflow
async def transferring(ctx: ExecutionContext[int]) -> None:
    await transfer_carelessly(ctx.input)


def test_at_most_once_that_is_tried_again_is_found():
    assert "transfer(7) was done 2 times" in failure(transferring, 7)


ORDER = ["a", "b"]


@task
async def unsteady() -> None:
    names = ORDER.copy()
    ORDER.reverse()
    for name in names:
        await charge(len(name))
        await remember(name)


@workflow
async def unsteadily(ctx: ExecutionContext[Any]) -> None:
    await unsteady()


def test_a_fake_that_is_asked_for_something_else_after_a_crash_is_found():
    ORDER[:] = ["a", "b"]
    with fake(charge, returns=1), fake(remember, returns=None):
        text = failure(unsteadily)

    assert "'remember' was asked for what it is not without a crash: call 1/2~2 with {'what': 'b'}, attempt 1" in text
    assert "What helps: what a task has called is found again by the order" in text


def test_an_engine_that_runs_finished_tasks_again_is_found(monkeypatch: pytest.MonkeyPatch):
    """The control of the check of fakes: calls inside tasks are never answered from the history."""

    def forgetful(self: Any, place: str, target: Any, name: str, data: bytes) -> tuple[str, None]:
        return place, None

    monkeypatch.setattr(Attempt, "_look_up", forgetful)
    with fake(charge, returns=1), fake(remember, returns=None):
        text = failure(steadily)

    assert "'charge' was asked again for what was finished: call 1/1 with {'amount': 1}, attempt 1" in text


@task
async def steady() -> None:
    await charge(1)
    await remember("charged")


@workflow
async def steadily(ctx: ExecutionContext[Any]) -> None:
    await steady()


# -- what it lets in peace


@task.with_options(retry_max_attempts=3, retry_delay=5, metadata=True)
async def flaky(what: str, failures: int, *, metadata: TaskMetadata) -> int:
    LEDGER.act(what, metadata.attempt, key=f"{metadata.idempotency_key} {metadata.attempt}")
    await asyncio.sleep(0.5)
    if metadata.attempt <= failures:
        raise ConnectionError(what)
    return metadata.attempt


async def instead(what: str) -> str:
    LEDGER.act("instead", what, key=what)
    return f"instead of {what}"


@task.with_options(name="with_fallback", retry_max_attempts=1, fallback=instead, timeout=2)
async def too_slow(what: str) -> str:
    await asyncio.sleep(3)
    return what


@task.with_options(name="with_rollback", rollback=instead)
async def undone(what: str) -> str:
    raise ValueError(what)


@task.with_options(metadata=True)
def sync_act(what: str, *, metadata: TaskMetadata) -> str:
    LEDGER.act(what, key=metadata.idempotency_key)
    return what


@task.with_options(executor="process")
def cube(x: int) -> int:
    return x**3


@task.with_options(retry_max_attempts=1, retry_delay=1, metadata=True)
async def outer(*, metadata: TaskMetadata) -> list[Any]:
    await asyncio.sleep(1)
    first = await act("inner", 2)
    await asyncio.sleep(1)
    others = await asyncio.gather(act("left", 0.5), act("right", 0.25))
    if metadata.attempt == 1:
        raise ConnectionError("lost")
    return [first, *others, await approved()]


@task
async def approved() -> str:
    return await pause("inside")


@task.with_options(at_most_once=True)
async def transfer(amount: int) -> str:
    LEDGER.act("transfer", amount)
    return "done"


@task.with_options(cache=True)
async def looked_up(x: int) -> int:
    await asyncio.sleep(1)
    return x * x


@workflow
async def in_parallel(ctx: ExecutionContext[Any]) -> Any:
    return await parallel(act("a", 3), act("b", 1), sync_act("c"), cube(3), max_concurrent=2)


@workflow
async def racing(ctx: ExecutionContext[Any]) -> Any:
    slow = asyncio.create_task(act("slow", 4))
    await act("first", 1)
    late = asyncio.create_task(act("late", 3.5))
    await act("second", 2)  # Begun later, `late` would be the first if both began anew after a crash here.
    done, pending = await asyncio.wait({slow, late}, return_when=asyncio.FIRST_COMPLETED)
    for each in pending:
        each.cancel()
    return await act(f"the winner is {[each.result() for each in done]}")


@task
async def slow_outside(seconds: float) -> str:
    await asyncio.sleep(seconds)
    await act("inside", 2)
    await asyncio.sleep(seconds)
    return "outside"


@workflow
async def racing_with_calls_inside(ctx: ExecutionContext[Any]) -> Any:
    racers = {asyncio.create_task(slow_outside(1)), asyncio.create_task(act("rival", 3.5))}
    done, pending = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
    for each in pending:
        each.cancel()
    return await act(f"the winner is {[each.result() for each in done]}")


@workflow
async def racing_at_one_time(ctx: ExecutionContext[Any]) -> Any:
    return [await each for each in asyncio.as_completed([act(f"of {n}", 2) for n in range(7)])]


@workflow
async def retrying(ctx: ExecutionContext[Any]) -> Any:
    async with asyncio.timeout(60):
        kept = await parallel(flaky("x", 2), too_slow("y"), undone("z"), flaky("w", 9), raise_on_error=False)
    try:
        async with asyncio.timeout(7):
            await flaky("given up", 9)
    except TimeoutError:
        kept.append("given up")
    return kept


@workflow
async def pausing(ctx: ExecutionContext[Any]) -> Any:
    answers = [await pause("plain"), await pause("in time", timeout=60)]
    try:
        await pause("never", timeout=timedelta(days=1))
    except ExecutionTimeoutError:
        answers.append("nobody")
    return answers, await parallel(outer(), pause("beside"), act("while waiting", 5))


@workflow
async def pausing_twice_at_once(ctx: ExecutionContext[Any]) -> Any:
    order = []

    async def in_a_race() -> None:
        work, answer = asyncio.create_task(act("slow", 5)), asyncio.create_task(pause("one", timeout=60))
        await asyncio.wait({work, answer}, return_when=asyncio.FIRST_COMPLETED)
        work.cancel()
        await asyncio.wait({work})
        order.append(answer.result())

    async def beside() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        order.append(await pause("two", timeout=60))

    await asyncio.gather(in_a_race(), beside())
    return await act(f"answers {order}")


@workflow
async def taking_signals(ctx: ExecutionContext[Any]) -> Any:
    bids = []
    try:
        async with asyncio.timeout(timedelta(days=2).total_seconds()):
            while True:
                bids.append(await wait_for_signal("bid"))
                await act(f"note {len(bids)}")
    except TimeoutError:
        return bids, await wait_for_signal("closed")


@workflow
async def child_that_pauses(ctx: ExecutionContext[int]) -> Any:
    await act(f"child {ctx.input}", ctx.input)
    if ctx.input == 2:
        raise ValueError(ctx.input)
    return ctx.input, await pause("in a child")


@workflow
async def with_children(ctx: ExecutionContext[Any]) -> Any:
    results = await asyncio.gather(*(child_that_pauses(n) for n in range(1, 4)), return_exceptions=True)
    try:
        async with asyncio.timeout(0.5):
            await child_that_pauses(1)
    except TimeoutError:
        pass
    return [result if isinstance(result, tuple) else str(result) for result in results]


@workflow
async def beginning_anew(ctx: ExecutionContext[int]) -> Any:
    await act(f"month {ctx.input}", 3)
    if ctx.input == 3:
        await pause("third")
    try:
        reason = await wait_for_signal("end", timeout=timedelta(days=30))
    except ExecutionTimeoutError:
        await continue_as_new(ctx.input + 1)
    return ctx.input, reason


@workflow
async def at_most_once(ctx: ExecutionContext[Any]) -> Any:
    try:
        return await transfer(5)
    except TaskInterruptedError:
        return await act("asked the bank")


@workflow
async def with_cached_results(ctx: ExecutionContext[Any]) -> Any:
    return await looked_up(3), await parallel(looked_up(4), looked_up(3))


@workflow
async def with_chance(ctx: ExecutionContext[Any]) -> Any:
    await sleep(3600)
    await act(f"order {await uuid4()} at {await now()}")
    return await randint(1, 1_000_000) if patched("lots") else None


@workflow.with_options(output_storage=InlineOutputStorage())
async def with_storage(ctx: ExecutionContext[Any]) -> Any:
    return await large("x")


@task.with_options(output_storage=InlineOutputStorage())
async def large(x: str) -> str:
    return x * 1000


PEACEFUL: dict[Any, dict[str, Any]] = {
    in_parallel: {},
    racing: {},
    racing_with_calls_inside: {},
    racing_at_one_time: {},
    retrying: {},
    pausing: {"resumes": {"plain": 1, "in time": [2], "beside": None, "inside": {"ok": True}}},
    pausing_twice_at_once: {"resumes": {"one": 1, "two": 2}},
    taking_signals: {
        "signals": [
            Signal("bid", 1),
            Signal("bid", 2),
            Signal("bid", 3, after=timedelta(days=1)),
            Signal("closed", "late", after=timedelta(days=3)),
        ]
    },
    with_children: {"resumes": {"in a child": "yes"}},
    beginning_anew: {
        "input": 1,
        "resumes": {"third": "yes"},
        "signals": [Signal("end", "moved", after=timedelta(days=100))],
    },
    at_most_once: {},
    with_cached_results: {},
    with_chance: {},
    with_storage: {},
}


@pytest.mark.parametrize("workflow_", PEACEFUL, ids=lambda each: each.name)
def test_what_survives_a_crash_is_left_in_peace(workflow_: Any, workdir: Path):
    options = {"input": None, **PEACEFUL[workflow_]}

    report = crash_everywhere(workflow_, ledger=LEDGER, **options)

    assert str(report) == f"crash points {report.points}/{report.points}"
    assert report.points >= 5
    assert (report.interrupted > 0) == (workflow_ is at_most_once)


@pytest.mark.parametrize(
    ("workflow_", "done"),
    [
        (racing, "the winner is ['slow']"),
        (racing_with_calls_inside, "the winner is ['rival']"),
        (pausing_twice_at_once, "answers [1, 2]"),
    ],
)
def test_what_is_let_in_peace_did_what_it_should(workflow_: Any, done: str):
    crash_everywhere(workflow_, ledger=LEDGER, **PEACEFUL[workflow_])

    assert LEDGER.count(done) == 1


@workflow
async def with_fakes(ctx: ExecutionContext[Any]) -> Any:
    kept = await parallel(flaky("a", 0), flaky("b", 0), raise_on_error=False)
    return kept, await child_that_pauses(7), [await charge(x) for x in range(3)]


def test_fakes_answer_an_interrupted_call_as_they_did_before():
    script = [ConnectionError("1"), "a", "b"]
    with (
        fake(flaky, script=script) as asked,
        fake(child_that_pauses, returns="child"),
        fake(charge, script=[10, 20, 30]) as charged,
    ):
        crash_everywhere(with_fakes)

        assert [call.arguments["amount"] for call in charged.calls] == [0, 1, 2]
        assert sorted(call.attempt for call in asked.calls) == [1, 1, 2]


def test_the_ledger_has_the_effects_of_the_run_without_a_crash_afterwards():
    LEDGER.act("earlier")
    crash_everywhere(in_parallel, ledger=LEDGER)

    assert sorted(map(str, LEDGER.effects)) == ["a()", "b()", "c()"]


@pytest.mark.parametrize(
    ("workflow_", "said"),
    [(pausing, "resumes={'plain'"), (taking_signals, "signals={'closed'"), (with_children, "resumes={'in a child'")],
)
def test_an_execution_that_nobody_answers_is_told_apart(workflow_: Any, said: str):
    with pytest.raises(ExecutionConflictError, match=f"nobody brings it: give crash_everywhere {said}"):
        crash_everywhere(workflow_)


# -- ledgers


def test_a_ledger_does_not_do_again_what_has_a_known_key():
    ledger = Ledger()

    assert ledger.act("charge", 5, key="k")
    assert not ledger.act("charge", 5, key="k")
    assert ledger.act("charge", 5) and ledger.act("charge", 7)
    assert (ledger.count("charge"), ledger.count("charge", 5), ledger.count("refund")) == (3, 2, 0)
    assert repr(ledger) == "<ledger: charge(5), charge(5), charge(7)>"


def test_a_key_that_is_given_for_something_else_is_refused():
    ledger = Ledger()
    ledger.act("charge", 5, key="k")

    with pytest.raises(InvalidValueError, match=r"the key 'k' belongs to charge\(5\), and is given for charge\(6\)"):
        ledger.act("charge", 6, key="k")
