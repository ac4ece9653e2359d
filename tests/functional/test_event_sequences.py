"""The exact history of each case: types, names and values, also as replayed and as reloaded from the database."""

import asyncio
import dataclasses
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, pause, task, workflow
from flux.errors import ExecutionError, ExecutionTimeoutError, RetryError
from flux.tasks import now, parallel, pipeline, sleep
from functional.kit import Error, Kit, failure, plain, shape, types, whole


@task
async def double(x: int) -> int:
    return 2 * x


@task
def double_in_thread(x: int) -> int:
    return 2 * x


@task
async def broken(x: int) -> int:
    raise ValueError(f"no {x}")


@task
async def slow(x: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return x


def checked(kit: Kit, ctx: ExecutionContext[Any]) -> list[tuple[Any, ...]]:
    """The history, after it was compared with what a fresh app reads from the database."""
    assert whole(ctx) == whole(kit.stored(ctx.execution_id))

    return shape(ctx)


@pytest.mark.parametrize("function", [double, double_in_thread], ids=["async", "sync"])
def test_success(both: Kit, function: Any) -> None:
    @workflow
    async def simple(ctx: ExecutionContext[int]) -> int:
        return await function(ctx.input)

    ctx = both.run(simple, 1)

    assert checked(both, ctx) == [
        ("WS", "simple", 1),
        ("TS", function.name, {"x": 1}),
        ("TC", function.name, 2),
        ("WC", "simple", 2),
    ]
    assert (ctx.state, ctx.output, ctx.has_succeeded) == (ExecutionState.COMPLETED, 2, True)


def test_a_workflow_may_be_a_plain_function(both: Kit) -> None:
    @workflow
    def plain_body(ctx: ExecutionContext[int]) -> int:
        return ctx.input + 1

    assert checked(both, both.run(plain_body, 1)) == [("WS", "plain_body", 1), ("WC", "plain_body", 2)]


def test_events_say_where_they_come_from(both: Kit) -> None:
    @workflow
    async def simple(ctx: ExecutionContext[int]) -> int:
        return await double(1) + await double(1)

    ctx = both.run(simple, 1)

    of_workflow = f"simple_{ctx.execution_id}"
    assert [e.source_id for e in ctx.events] == [of_workflow, "1", "1", "2", "2", of_workflow]
    assert len({e.id for e in ctx.events}) == 6
    assert [e.time for e in ctx.events] == sorted(e.time for e in ctx.events)
    assert len(ctx.execution_id) == 32


def test_a_failed_task_fails_the_workflow(both: Kit) -> None:
    @workflow
    async def failing(ctx: ExecutionContext[int]) -> int:
        return await broken(ctx.input)

    ctx = both.run(failing, 1)

    error = failure(ValueError, "no 1")
    assert checked(both, ctx) == [
        ("WS", "failing", 1),
        ("TS", "broken", {"x": 1}),
        ("TF", "broken", error),
        ("WF", "failing", error),
    ]
    assert ctx.output == error
    assert ctx.output.args == ("no 1",)
    assert (ctx.state, ctx.has_failed) == (ExecutionState.FAILED, True)


def test_a_body_that_raises_fails_with_the_error_itself(both: Kit) -> None:
    @workflow
    async def raising(ctx: ExecutionContext[int]) -> int:
        raise KeyError("k", 1)

    ctx = both.run(raising, 1)

    assert checked(both, ctx) == [("WS", "raising", 1), ("WF", "raising", plain(KeyError, str(KeyError("k", 1))))]
    assert ctx.output.args == ("k", 1)


@pytest.mark.parametrize("caught", [ExecutionError, ValueError], ids=["as ExecutionError", "as the original"])
def test_a_body_may_catch_the_failure(both: Kit, caught: type[Exception]) -> None:
    seen: list[Any] = []

    @workflow
    async def catching(ctx: ExecutionContext[int]) -> str:
        try:
            return str(await broken(1))
        except caught as error:
            seen.append(error)
            return f"{type(error.inner_exception).__name__}: {error.inner_exception}"  # type: ignore[attr-defined]

    ctx = both.run(catching, 1)

    assert checked(both, ctx) == [
        ("WS", "catching", 1),
        ("TS", "broken", {"x": 1}),
        ("TF", "broken", failure(ValueError, "no 1")),
        ("WC", "catching", "ValueError: no 1"),
    ]
    assert all(error == failure(ValueError, "no 1") for error in seen)


# -- retries


def flaky(good_call: int, **options: Any) -> Any:
    """A task that fails until its n-th call."""
    calls: list[int] = []

    @task.with_options(retry_max_attempts=3, **options)
    async def attempt(x: int) -> int:
        calls.append(x)
        if len(calls) < good_call:
            raise ValueError(f"call {len(calls)}")
        return 2 * x

    return attempt


def of_retry(number: int, delay: float, **more: Any) -> dict[str, Any]:
    return {"current_attempt": number, "max_attempts": 3, "current_delay": delay, "backoff": 2, **more}


ORIGINAL = {"current_attempt": 0, "max_attempts": 3, "current_delay": 0, "backoff": 2, "original_attempt": True}


def using(function: Any) -> Any:
    @workflow
    async def calling(ctx: ExecutionContext[int]) -> Any:
        return await function(ctx.input)

    return calling


def test_a_retry_that_succeeds(both: Kit) -> None:
    ctx = both.run(using(flaky(3)), 1)

    assert checked(both, ctx) == [
        ("WS", "calling", 1),
        ("TS", "attempt", {"x": 1}),
        ("RETRY_FAILED", "attempt", ORIGINAL),
        ("RETRY_STARTED", "attempt", of_retry(1, 1)),
        ("RETRY_FAILED", "attempt", of_retry(1, 1)),
        ("RETRY_STARTED", "attempt", of_retry(2, 2)),
        ("RETRY_COMPLETED", "attempt", of_retry(2, 2, output=2)),
        ("TC", "attempt", 2),
        ("WC", "calling", 2),
    ]
    assert both.clock.seconds == pytest.approx(1 + 2, abs=0.01)


def exhausted(text: str) -> Error:
    """What a task raises whose retries are used up."""
    why = f"failed after 3 retries: {text}"
    return failure(ValueError, text, plain(RetryError, why, plain(ValueError, text)))


RETRIES = [
    ("RETRY_FAILED", "attempt", ORIGINAL),
    ("RETRY_STARTED", "attempt", of_retry(1, 1)),
    ("RETRY_FAILED", "attempt", of_retry(1, 1)),
    ("RETRY_STARTED", "attempt", of_retry(2, 2)),
    ("RETRY_FAILED", "attempt", of_retry(2, 2)),
    ("RETRY_STARTED", "attempt", of_retry(3, 4)),
    ("RETRY_FAILED", "attempt", of_retry(3, 4)),
]


def test_retries_that_are_used_up(both: Kit) -> None:
    ctx = both.run(using(flaky(99)), 1)

    assert checked(both, ctx) == [
        ("WS", "calling", 1),
        ("TS", "attempt", {"x": 1}),
        *RETRIES,
        ("TF", "attempt", exhausted("call 4")),
        ("WF", "calling", exhausted("call 4")),
    ]


# -- fallback and rollback


async def minus(x: int) -> int:
    return -x


def test_a_fallback_answers_for_the_task(both: Kit) -> None:
    ctx = both.run(using(broken.with_options(fallback=minus)), 1)

    assert checked(both, ctx) == [
        ("WS", "calling", 1),
        ("TS", "broken", {"x": 1}),
        ("FALLBACK_STARTED", "broken", {"x": 1}),
        ("FALLBACK_COMPLETED", "broken", -1),
        ("TC", "broken", -1),
        ("WC", "calling", -1),
    ]


def test_a_fallback_that_fails_fails_the_task_with_its_own_error_and_no_rollback_runs(both: Kit) -> None:
    async def also_broken(x: int) -> int:
        raise KeyError(x)

    rolled_back: list[int] = []
    ctx = both.run(using(broken.with_options(fallback=also_broken, rollback=rolled_back.append)), 1)

    error = failure(KeyError, "1")
    assert checked(both, ctx) == [
        ("WS", "calling", 1),
        ("TS", "broken", {"x": 1}),
        ("FALLBACK_STARTED", "broken", {"x": 1}),
        ("FALLBACK_FAILED", "broken", error),
        ("TF", "broken", error),
        ("WF", "calling", error),
    ]
    assert not rolled_back


def test_a_rollback_runs_and_the_task_still_fails(both: Kit) -> None:
    ctx = both.run(using(broken.with_options(rollback=minus)), 1)

    error = failure(ValueError, "no 1")
    assert checked(both, ctx) == [
        ("WS", "calling", 1),
        ("TS", "broken", {"x": 1}),
        ("ROLLBACK_STARTED", "broken", {"x": 1}),
        ("ROLLBACK_COMPLETED", "broken", -1),
        ("TF", "broken", error),
        ("WF", "calling", error),
    ]


def test_a_rollback_that_fails_keeps_the_original_error(both: Kit) -> None:
    async def also_broken(x: int) -> int:
        raise KeyError(x)

    ctx = both.run(using(broken.with_options(rollback=also_broken)), 1)

    error = failure(ValueError, "no 1")
    assert checked(both, ctx) == [
        ("WS", "calling", 1),
        ("TS", "broken", {"x": 1}),
        ("ROLLBACK_STARTED", "broken", {"x": 1}),
        ("ROLLBACK_FAILED", "broken", failure(KeyError, "1")),
        ("TF", "broken", error),
        ("WF", "calling", error),
    ]


def test_retries_come_before_the_fallback(both: Kit) -> None:
    ctx = both.run(using(flaky(99, fallback=minus)), 1)

    assert checked(both, ctx) == [
        ("WS", "calling", 1),
        ("TS", "attempt", {"x": 1}),
        *RETRIES,
        ("FALLBACK_STARTED", "attempt", {"x": 1}),
        ("FALLBACK_COMPLETED", "attempt", -1),
        ("TC", "attempt", -1),
        ("WC", "calling", -1),
    ]


def test_retries_come_before_the_rollback(both: Kit) -> None:
    ctx = both.run(using(flaky(99, rollback=minus)), 1)

    assert checked(both, ctx) == [
        ("WS", "calling", 1),
        ("TS", "attempt", {"x": 1}),
        *RETRIES,
        ("ROLLBACK_STARTED", "attempt", {"x": 1}),
        ("ROLLBACK_COMPLETED", "attempt", -1),
        ("TF", "attempt", exhausted("call 4")),
        ("WF", "calling", exhausted("call 4")),
    ]


# -- timeouts


def test_a_timeout_is_an_error_of_its_own_and_not_wrapped(both: Kit) -> None:
    @workflow
    async def waiting(ctx: ExecutionContext[int]) -> Any:
        return await slow.with_options(timeout=1)(ctx.input, 5.0)

    ctx = both.run(waiting, 1)

    error = plain(ExecutionTimeoutError, "Task slow (1) timed out (1s).")
    assert checked(both, ctx) == [
        ("WS", "waiting", 1),
        ("TS", "slow", {"x": 1, "seconds": 5.0}),
        ("TF", "slow", error),
        ("WF", "waiting", error),
    ]
    assert isinstance(ctx.output, TimeoutError)


# -- pause and resume


@workflow
async def approval(ctx: ExecutionContext[int]) -> Any:
    first = await double(ctx.input)
    answer = await pause("manual_approval", output={"amount": first})
    return [first, answer]


def test_a_pause_parks_the_execution(both: Kit) -> None:
    ctx = both.run(approval, 1)

    assert checked(both, ctx) == [
        ("WS", "approval", 1),
        ("TS", "double", {"x": 1}),
        ("TC", "double", 2),
        ("TS", "pause", {"name": "manual_approval"}),
        ("TP", "pause", "manual_approval"),
        ("WP", "approval", {"name": "manual_approval", "output": {"amount": 2}}),
    ]
    assert (ctx.state, ctx.is_paused, ctx.output) == (ExecutionState.PAUSED, True, None)


@pytest.mark.parametrize("answer", ["yes", None, 0, "", False, [], {}], ids=repr)
def test_a_resume_continues_after_the_pause_and_finished_tasks_emit_nothing_again(both: Kit, answer: Any) -> None:
    paused = both.run(approval, 1)

    ctx = both.resume(approval, paused.execution_id, answer)

    history = checked(both, ctx)
    assert history[:6] == shape(paused)
    assert history[6:] == [
        ("WORKFLOW_RESUMING", "approval", answer),
        ("WORKFLOW_RESUMED", "approval", answer),
        ("RESUMED", "pause", {"name": "manual_approval", "input": answer}),
        ("TC", "pause", answer),
        ("WC", "approval", [2, answer]),
    ]
    assert not ctx.is_paused


def test_each_pause_is_recorded_and_answered_in_turn(both: Kit) -> None:
    @workflow
    async def twice(ctx: ExecutionContext[None]) -> Any:
        return [await pause("a"), await pause("b")]

    first = both.run(twice)
    second = both.resume(twice, first.execution_id, 1)
    ctx = both.resume(twice, first.execution_id, 2)

    assert second.is_paused
    assert checked(both, ctx) == [
        ("WS", "twice", None),
        ("TS", "pause", {"name": "a"}),
        ("TP", "pause", "a"),
        ("WP", "twice", {"name": "a", "output": None}),
        ("WORKFLOW_RESUMING", "twice", 1),
        ("WORKFLOW_RESUMED", "twice", 1),
        ("RESUMED", "pause", {"name": "a", "input": 1}),
        ("TC", "pause", 1),
        ("TS", "pause", {"name": "b"}),
        ("TP", "pause", "b"),
        ("WP", "twice", {"name": "b", "output": None}),
        ("WORKFLOW_RESUMING", "twice", 2),
        ("WORKFLOW_RESUMED", "twice", 2),
        ("RESUMED", "pause", {"name": "b", "input": 2}),
        ("TC", "pause", 2),
        ("WC", "twice", [1, 2]),
    ]


# -- combinators


def test_parallel_starts_in_order_and_gives_results_in_order_of_input(both: Kit) -> None:
    @workflow
    async def together(ctx: ExecutionContext[None]) -> Any:
        return await parallel(slow(1, 2.0), slow(2, 1.0))

    ctx = both.run(together)

    assert checked(both, ctx) == [
        ("WS", "together", None),
        ("TS", "parallel", {}),
        ("TS", "slow", {"x": 1, "seconds": 2.0}),
        ("TS", "slow", {"x": 2, "seconds": 1.0}),
        ("TC", "slow", 2),
        ("TC", "slow", 1),
        ("TC", "parallel", [1, 2]),
        ("WC", "together", [1, 2]),
    ]
    assert [e.detail.get("parent") for e in ctx.events if e.type == "TASK_STARTED"] == [None, "1", "1"]


def test_parallel_of_nothing(both: Kit) -> None:
    @workflow
    async def together(ctx: ExecutionContext[None]) -> Any:
        return await parallel()

    ctx = both.run(together)

    assert checked(both, ctx) == [
        ("WS", "together", None),
        ("TS", "parallel", {}),
        ("TC", "parallel", []),
        ("WC", "together", []),
    ]


def test_when_one_of_parallel_fails_the_others_have_two_seconds(both: Kit) -> None:
    cancelled: list[float] = []

    @task
    async def endless() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(both.clock.seconds)
            raise

    @workflow
    async def together(ctx: ExecutionContext[None]) -> Any:
        return await parallel(broken(1), slow(2, 1.5), endless())

    ctx = both.run(together)

    error = failure(ValueError, "no 1")
    assert checked(both, ctx) == [
        ("WS", "together", None),
        ("TS", "parallel", {}),
        ("TS", "broken", {"x": 1}),
        ("TS", "slow", {"x": 2, "seconds": 1.5}),
        ("TS", "endless", {}),
        ("TF", "broken", error),
        ("TC", "slow", 2),
        ("TIMER_FIRED", "timer", None),
        ("TASK_CANCELLED", "endless", None),
        ("TF", "parallel", error),
        ("WF", "together", error),
    ]
    assert cancelled == [pytest.approx(2.0, abs=0.001)]


def test_when_one_of_parallel_fails_and_the_others_finish_in_time_nothing_is_cancelled(both: Kit) -> None:
    @workflow
    async def together(ctx: ExecutionContext[None]) -> Any:
        return await parallel(slow(2, 1.9), broken(1))

    ctx = both.run(together)

    assert types(ctx) == ["WS", "TS", "TS", "TS", "TF", "TC", "TF", "WF"]
    assert checked(both, ctx)[-1] == ("WF", "together", failure(ValueError, "no 1"))
    assert both.clock.seconds == pytest.approx(1.9, abs=0.001)


def test_parallel_that_does_not_raise_puts_none_in_the_slot(both: Kit) -> None:
    @workflow
    async def together(ctx: ExecutionContext[None]) -> Any:
        return await parallel(slow(1, 9.0), broken(2), double(3), raise_on_error=False)

    ctx = both.run(together)

    assert checked(both, ctx) == [
        ("WS", "together", None),
        ("TS", "parallel", {}),
        ("TS", "slow", {"x": 1, "seconds": 9.0}),
        ("TS", "broken", {"x": 2}),
        ("TS", "double", {"x": 3}),
        ("TF", "broken", failure(ValueError, "no 2")),
        ("TC", "double", 6),
        ("TC", "slow", 1),
        ("TC", "parallel", [1, None, 6]),
        ("WC", "together", [1, None, 6]),
    ]


def test_parallel_with_a_limit_starts_the_next_when_one_has_ended(both: Kit) -> None:
    @workflow
    async def together(ctx: ExecutionContext[None]) -> Any:
        return await parallel(slow(1, 3.0), slow(2, 1.0), slow(3, 1.0), max_concurrent=2)

    ctx = both.run(together)

    assert types(ctx) == ["WS", "TS", "TS", "TS", "TC", "TS", "TC", "TC", "TC", "WC"]
    assert checked(both, ctx)[-1] == ("WC", "together", [1, 2, 3])
    assert both.clock.seconds == pytest.approx(3.0, abs=0.001)


def test_map_calls_the_task_per_item_without_a_wrapper(both: Kit) -> None:
    @workflow
    async def mapping(ctx: ExecutionContext[list[int]]) -> Any:
        return await double.map(ctx.input)

    ctx = both.run(mapping, [1, 2])

    assert sorted(checked(both, ctx), key=lambda e: e[0] == "TC") == [
        ("WS", "mapping", [1, 2]),
        ("TS", "double", {"x": 1}),
        ("TS", "double", {"x": 2}),
        ("WC", "mapping", [2, 4]),
        ("TC", "double", 2),
        ("TC", "double", 4),
    ]
    assert types(ctx) == ["WS", "TS", "TS", "TC", "TC", "WC"]


def test_map_of_nothing_and_with_a_limit(both: Kit) -> None:
    @workflow
    async def mapping(ctx: ExecutionContext[list[int]]) -> Any:
        return await double.map(ctx.input, max_concurrent=1)

    assert types(both.run(mapping, [])) == ["WS", "WC"]
    assert types(both.run(mapping, [1, 2])) == ["WS", "TS", "TC", "TS", "TC", "WC"]


def test_pipeline_hands_each_result_to_the_next(both: Kit) -> None:
    @workflow
    async def row(ctx: ExecutionContext[int]) -> Any:
        return await pipeline(double, double_in_thread, double, input=ctx.input)

    ctx = both.run(row, 1)

    assert checked(both, ctx) == [
        ("WS", "row", 1),
        ("TS", "pipeline", {}),
        ("TS", "double", {"x": 1}),
        ("TC", "double", 2),
        ("TS", "double_in_thread", {"x": 2}),
        ("TC", "double_in_thread", 4),
        ("TS", "double", {"x": 4}),
        ("TC", "double", 8),
        ("TC", "pipeline", 8),
        ("WC", "row", 8),
    ]


def test_a_pipeline_stops_at_the_first_failure(both: Kit) -> None:
    @workflow
    async def row(ctx: ExecutionContext[int]) -> Any:
        return await pipeline(double, broken, double, input=ctx.input)

    ctx = both.run(row, 1)

    error = failure(ValueError, "no 2")
    assert checked(both, ctx) == [
        ("WS", "row", 1),
        ("TS", "pipeline", {}),
        ("TS", "double", {"x": 1}),
        ("TC", "double", 2),
        ("TS", "broken", {"x": 2}),
        ("TF", "broken", error),
        ("TF", "pipeline", error),
        ("WF", "row", error),
    ]


# -- timers, and what is recorded for the body


@pytest.mark.parametrize("wait", [asyncio.sleep, sleep], ids=["asyncio.sleep", "flux sleep"])
def test_a_sleep_is_one_event_and_lasts_as_long_as_it_says(both: Kit, wait: Any) -> None:
    @workflow
    async def sleeping(ctx: ExecutionContext[None]) -> str:
        await wait(5)
        return "awake"

    ctx = both.run(sleeping)

    assert checked(both, ctx) == [
        ("WS", "sleeping", None),
        ("TIMER_FIRED", "timer", None),
        ("WC", "sleeping", "awake"),
    ]
    assert both.clock.seconds == pytest.approx(5, abs=0.001)


def test_a_timeout_in_the_body_cancels_the_call(both: Kit) -> None:
    @workflow
    async def impatient(ctx: ExecutionContext[None]) -> str:
        try:
            async with asyncio.timeout(1):
                return str(await slow(1, 60.0))
        except TimeoutError:
            return "late"

    ctx = both.run(impatient)

    assert checked(both, ctx) == [
        ("WS", "impatient", None),
        ("TS", "slow", {"x": 1, "seconds": 60.0}),
        ("TIMER_FIRED", "timer", None),
        ("TASK_CANCELLED", "slow", None),
        ("WC", "impatient", "late"),
    ]


def test_now_is_recorded(both: Kit) -> None:
    @workflow
    async def clocked(ctx: ExecutionContext[None]) -> Any:
        return await now()

    ctx = both.run(clocked)

    assert checked(both, ctx) == [
        ("WS", "clocked", None),
        ("TS", "now", {}),
        ("TC", "now", ctx.output),
        ("WC", "clocked", ctx.output),
    ]
    assert ctx.output.utcoffset().total_seconds() == 0


def test_a_task_may_have_another_name(both: Kit) -> None:
    @workflow
    async def calling(ctx: ExecutionContext[None]) -> Any:
        return await double.with_options(name="twice")(1)

    assert checked(both, both.run(calling))[1:3] == [("TS", "twice", {"x": 1}), ("TC", "twice", 2)]


def test_a_task_name_may_be_a_template_over_the_arguments(both: Kit) -> None:
    @task.with_options(name="get_{repo}")
    async def get(repo: str) -> str:
        return repo

    @workflow
    async def calling(ctx: ExecutionContext[None]) -> Any:
        return await get("flux")

    assert checked(both, both.run(calling))[1:3] == [("TS", "get_flux", {"repo": "flux"}), ("TC", "get_flux", "flux")]


# -- reloading errors


class Refusing(Exception):
    """Has arguments that its message does not show, and a field."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"refused with {code}")
        self.code, self.hint = code, hint


@dataclasses.dataclass
class Described(Exception):
    what: str
    where: tuple[int, int] = (0, 0)


def _group() -> BaseException:
    return ExceptionGroup("both", [ValueError("a"), KeyError("b")])


def _chained() -> BaseException:
    try:
        try:
            raise KeyError("cause")
        except KeyError as error:
            raise ValueError("effect") from error
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    "make",
    [
        lambda: ValueError("text"),
        ValueError,
        lambda: ValueError("a", 1, None),
        lambda: KeyError("k"),
        lambda: FileNotFoundError(2, "No such file", "/x"),
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        lambda: Refusing(5, hint="wait"),
        lambda: Described("broken", (1, 2)),
        _group,
        _chained,
    ],
    ids=["one", "empty", "args", "key", "os", "unicode", "init", "dataclass", "group", "chained"],
)
@pytest.mark.parametrize("where", ["body", "task"])
def test_errors_are_equal_after_a_reload(both: Kit, make: Any, where: str) -> None:
    @task
    async def failing() -> None:
        raise make()

    @workflow
    async def erring(ctx: ExecutionContext[None]) -> None:
        if where == "body":
            raise make()
        await failing()

    ctx = both.run(erring)

    checked(both, ctx)
    original = make()
    assert isinstance(ctx.output, type(original))
    assert ctx.output.args == original.args or isinstance(original, ExceptionGroup)
    assert str(ctx.output) == str(original) or not str(original)
    assert str(ctx.output) or where == "body"  # The very error that a body raised may have no text.
    assert isinstance(ctx.output, ExecutionError) == (where == "task")
    for field in ("code", "hint", "what", "where", "errno", "filename", "reason", "start"):
        assert getattr(ctx.output, field, None) == getattr(original, field, None)
