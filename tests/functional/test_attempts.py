"""Attempts: what is tried again, when, with what, and what a crash in the middle of it changes (nothing)."""

import asyncio
import contextvars
import dataclasses
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import flux.app
from flux import ExecutionContext, task, workflow
from flux.engine.engine import Engine
from flux.engine.threads import Threads
from flux.errors import ExecutionError, ExecutionTimeoutError, RetryError
from flux.tasks import parallel
from functional.kit import Kit, failure, plain, run_script, shape, times, types


def calling(function: Any, *arguments: Any) -> Any:
    """A workflow that calls one task."""

    @workflow
    async def caller(ctx: ExecutionContext[Any]) -> Any:
        return await function(*arguments)

    return caller


class Attempted:
    """A task that fails until its n-th call, and knows when it was called."""

    def __init__(self, kit: Kit, good_call: int = 99, **options: Any) -> None:
        self.at: list[float] = []

        @task.with_options(**options)
        async def attempted() -> str:
            self.at.append(round(kit.clock.seconds, 3))
            if len(self.at) < good_call:
                raise ValueError(f"call {len(self.at)}")
            return "good"

        self.task = attempted


# -- delays


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0]),
        ({"retry_max_attempts": 3}, [0, 1, 3, 7]),
        ({"retry_max_attempts": 2, "retry_delay": 5}, [0, 5, 15]),
        ({"retry_max_attempts": 3, "retry_delay": 2, "retry_backoff": 1}, [0, 2, 4, 6]),
        ({"retry_max_attempts": 3, "retry_delay": 4, "retry_backoff": 0.5}, [0, 4, 6, 7]),
        ({"retry_max_attempts": 2, "retry_delay": 0}, [0, 0, 0]),
        ({"retry_max_attempts": 3, "retry_delay": timedelta(minutes=10)}, [0, 600, 1200, 1800]),
        ({"retry_max_attempts": 3, "retry_max_delay": 1.5}, [0, 1, 2.5, 4]),
        ({"retry_max_attempts": 2, "retry_max_delay": timedelta(hours=1), "retry_delay": 2000}, [0, 2000, 5600]),
        ({"retry_max_attempts": 3, "retry_backoff": 1e300}, [0, 1, 601, 1201]),
    ],
    ids=str,
)
def test_each_wait_is_the_one_before_times_the_backoff_up_to_a_maximum(
    both: Kit, options: Any, expected: list[float]
) -> None:
    tried = Attempted(both, **options)

    ctx = both.run(calling(tried.task))

    assert tried.at == pytest.approx(expected, abs=0.01)
    assert ctx.has_failed


def test_jitter_draws_each_wait_between_zero_and_the_computed_one(kit: Kit) -> None:
    waits: list[float] = []
    for _ in range(40):
        tried = Attempted(kit, retry_max_attempts=1, retry_delay=100, retry_jitter=True)
        kit.run(calling(tried.task))
        waits.append(tried.at[1] - tried.at[0])

    assert all(0 <= wait <= 100.01 for wait in waits)
    assert len({round(wait) for wait in waits}) > 10
    assert min(waits) < 50 < max(waits)


def test_a_wait_that_was_drawn_is_not_drawn_again_after_a_crash(kit: Kit) -> None:
    tried = Attempted(kit, good_call=2, retry_max_attempts=1, retry_delay=10_000, retry_jitter=True)

    kit.run_for(0.001, calling(tried.task).run_async(None, execution_id="e"))
    failed = next(e for e in kit.stored("e").events if e.type == "TASK_RETRY_FAILED")
    kit.run(calling(tried.task), execution_id="e")

    due = (failed.detail["due_at"] - failed.time_us) / 1e6
    assert tried.at == pytest.approx([0, due], abs=0.01)


# -- which errors


class Temporary(Exception):
    pass


class Worse(Temporary):
    pass


@pytest.mark.parametrize(
    ("options", "error", "calls"),
    [
        ({}, ValueError("x"), 3),
        ({"retry_on": Temporary}, ValueError("x"), 1),
        ({"retry_on": Temporary}, Temporary("x"), 3),
        ({"retry_on": Temporary}, Worse("x"), 3),
        ({"retry_on": (Temporary, ValueError)}, ValueError("x"), 3),
        ({"no_retry_on": ValueError}, ValueError("x"), 1),
        ({"no_retry_on": (KeyError, ValueError)}, Temporary("x"), 3),
        ({"retry_on": Temporary, "no_retry_on": Worse}, Worse("x"), 1),
        ({"retry_on": Temporary, "no_retry_on": Worse}, Temporary("x"), 3),
    ],
    ids=str,
)
def test_only_the_chosen_errors_are_tried_again(both: Kit, options: Any, error: Exception, calls: int) -> None:
    made: list[int] = []

    @task.with_options(retry_max_attempts=2, **options)
    async def failing() -> None:
        made.append(1)
        raise error

    ctx = both.run(calling(failing))

    assert len(made) == calls
    assert ctx.output.inner_exception.__class__ is (type(error) if calls == 1 else RetryError)


def test_an_error_that_is_not_tried_again_ends_the_retries(both: Kit) -> None:
    errors = [Temporary("1"), ValueError("2"), Temporary("3")]

    @task.with_options(retry_max_attempts=5, retry_on=Temporary)
    async def failing() -> None:
        raise errors.pop(0)

    ctx = both.run(calling(failing))

    assert types(ctx) == ["WS", "TS", "RETRY_FAILED", "RETRY_STARTED", "RETRY_FAILED", "TF", "WF"]
    assert isinstance(ctx.output, ValueError)
    assert len(errors) == 1


@pytest.mark.parametrize(
    ("retries", "text"),
    [(0, None), (1, "failed after 1 retry: fatal"), (2, "failed after 2 retries: fatal")],
)
def test_an_error_that_stops_the_retries_says_how_many_there_were(both: Kit, retries: int, text: str | None) -> None:
    errors: list[Exception] = [*(Temporary("not yet") for _ in range(retries)), LookupError("fatal")]

    @task.with_options(retry_max_attempts=5, no_retry_on=LookupError)
    async def failing() -> None:
        raise errors.pop(0)

    ctx = both.run(calling(failing))

    assert errors == []
    assert ctx.output == failure(LookupError, "fatal", text and plain(RetryError, text, plain(LookupError, "fatal")))


def test_after_a_crash_the_retry_error_still_says_how_many_retries_there_were(kit: Kit) -> None:
    async def undo() -> None:
        await asyncio.sleep(10)

    errors: list[Exception] = [Temporary("not yet"), LookupError("fatal")]

    @task.with_options(retry_max_attempts=5, no_retry_on=LookupError, rollback=undo)
    async def failing() -> None:
        raise errors.pop(0)

    kit.run_for(5, calling(failing).run_async(None, execution_id="e"))
    ctx = kit.run(calling(failing), execution_id="e")

    expected = plain(RetryError, "failed after 1 retry: fatal", plain(LookupError, "fatal"))
    assert ctx.output == failure(LookupError, "fatal", expected)


def test_the_chain_of_inner_errors_ends(both: Kit) -> None:
    """A failed task after its retries: the error, within it the RetryError, within that the last error: the end."""
    tried = Attempted(both, retry_max_attempts=1)

    error: Any = both.run(calling(tried.task)).output
    chain = []
    while error is not None and len(chain) < 10:
        chain.append(type(error).__name__)
        error = getattr(error, "inner_exception", None)

    assert chain == ["ValueError", "RetryError", "ValueError"]


def test_a_result_that_cannot_be_recorded_fails_the_task_and_names_the_path(both: Kit) -> None:
    @task.with_options(fallback=lambda: "instead")
    async def returning() -> Any:
        return {"a": [object()]}

    ctx = both.run(calling(returning))

    assert ctx.output == "instead"
    failed = next(e for e in ctx.events if e.type == "TASK_FALLBACK_STARTED")
    assert 'value["a"][0]' in str(failed.detail["error"])


# -- timeouts


def test_the_timeout_is_per_attempt_and_a_timed_out_attempt_is_tried_again(both: Kit) -> None:
    at: list[float] = []

    @task.with_options(timeout=2, retry_max_attempts=2, retry_delay=10, retry_backoff=1)
    async def slow() -> str:
        at.append(round(both.clock.seconds, 2))
        await asyncio.sleep(5 if len(at) < 3 else 1.9)
        return "in time"

    ctx = both.run(calling(slow))

    assert at == [0, 12, 24]
    assert ctx.output == "in time"
    errors = [e.detail["error"] for e in ctx.events if e.type == "TASK_RETRY_FAILED"]
    assert errors == [plain(ExecutionTimeoutError, "Task slow (1) timed out (2s).")] * 2


def test_retry_on_timeout_error_matches_timeouts(both: Kit) -> None:
    at: list[float] = []

    @task.with_options(timeout=1, retry_max_attempts=1, retry_on=TimeoutError)
    async def slow() -> None:
        at.append(both.clock.seconds)
        await asyncio.sleep(5)

    ctx = both.run(calling(slow))

    assert len(at) == 2
    assert isinstance(ctx.output, ExecutionTimeoutError)
    assert isinstance(ctx.output.inner_exception, RetryError)


def test_a_timeout_error_of_the_tasks_own_is_no_timeout_of_flux(both: Kit) -> None:
    @task.with_options(timeout=5)
    async def own() -> None:
        raise TimeoutError("theirs")

    assert both.run(calling(own)).output == failure(TimeoutError, "theirs")


def test_a_value_that_comes_after_the_timeout_is_late_whatever_the_task_does(both: Kit) -> None:
    """As for a sync task, whose late value is dropped as well."""

    @task.with_options(timeout=1)
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "late"
        return "never"

    ctx = both.run(calling(stubborn))

    assert both.clock.seconds == pytest.approx(1, abs=0.01)
    assert isinstance(ctx.output, ExecutionTimeoutError)


def test_a_task_that_will_not_end_at_its_timeout_holds_up_the_workflow_no_longer_than_the_grace(both: Kit) -> None:
    @task.with_options(timeout=1)
    async def stubborn() -> None:
        for _ in range(1000):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                continue

    ctx = both.run(calling(stubborn))

    assert both.clock.seconds <= 1 + both.app.settings.cancel_grace_seconds + 0.1
    assert isinstance(ctx.output, ExecutionTimeoutError)


def test_no_timeout_means_no_limit(both: Kit) -> None:
    @task.with_options(timeout=0)
    async def long() -> str:
        await asyncio.sleep(1_000_000)
        return "done"

    assert both.run(calling(long)).output == "done"


def few_threads(limit: int) -> None:
    """Let the app of this directory have so few threads."""
    app = flux.app.current()
    parts = dataclasses.replace(app.engine._parts, threads=Threads(limit))
    app.engine = Engine(parts, app.engine._committer)


def test_a_timed_out_thread_is_left_behind_and_said_so_and_other_sync_tasks_go_on() -> None:
    few_threads(1)
    release = threading.Event()

    @task.with_options(timeout=0.02)
    def stuck() -> None:
        release.wait(10)

    @task
    def quick() -> str:
        return threading.current_thread().name

    @workflow
    async def mixed(ctx: ExecutionContext[None]) -> Any:
        try:
            await stuck()
        except ExecutionTimeoutError as error:
            return [str(error), await quick()]

    ctx = mixed.run()
    release.set()

    assert ctx.output == [
        "Task stuck (1) timed out (0.02s). Its thread was left behind, because Python cannot stop a thread.",
        "flux-task",
    ]


def test_time_in_the_queue_of_the_threads_does_not_count() -> None:
    few_threads(1)
    order: list[str] = []

    @task
    def first() -> None:
        threading.Event().wait(0.15)
        order.append("first")

    @task.with_options(timeout=0.1)
    def second() -> str:
        order.append("second")
        return "in time"

    @workflow
    async def queueing(ctx: ExecutionContext[None]) -> Any:
        return await parallel(first(), second())

    assert queueing.run().output == [None, "in time"]
    assert order == ["first", "second"]


def test_the_late_result_of_an_abandoned_thread_is_dropped() -> None:
    release, returned = threading.Event(), threading.Event()

    @task.with_options(timeout=0.02)
    def stuck() -> str:
        release.wait(10)
        returned.set()
        return "too late"

    @task
    def free_it() -> bool:
        release.set()
        return returned.wait(5)

    @workflow
    async def mixed(ctx: ExecutionContext[None]) -> Any:
        try:
            return await stuck()
        except ExecutionTimeoutError:
            return await free_it()

    ctx = mixed.run()

    assert ctx.output is True
    assert types(ctx) == ["WS", "TS", "TF", "TS", "TC", "WC"]


# -- crashes


def test_a_crash_in_the_back_off_resumes_in_that_back_off(kit: Kit) -> None:
    tried = Attempted(kit, good_call=3, retry_max_attempts=3, retry_delay=10)

    kit.run_for(4, calling(tried.task).run_async(None, execution_id="e"))
    kit.clock.seconds += 3
    ctx = kit.run(calling(tried.task), execution_id="e")

    assert tried.at == pytest.approx([0, 10, 30], abs=0.01)
    assert types(ctx) == [
        "WS", "TS", "RETRY_FAILED", "RETRY_STARTED", "RETRY_FAILED", "RETRY_STARTED", "RETRY_COMPLETED", "TC", "WC",
    ]  # fmt: skip


def test_a_retry_that_fell_due_while_nobody_was_there_is_made_at_once(kit: Kit) -> None:
    tried = Attempted(kit, good_call=2, retry_max_attempts=3, retry_delay=10)

    kit.run_for(4, calling(tried.task).run_async(None, execution_id="e"))
    kit.clock.seconds = 50
    kit.run(calling(tried.task), execution_id="e")

    assert tried.at == pytest.approx([0, 50], abs=0.01)


@pytest.mark.parametrize(("crash_at", "expected"), [(0.5, [0, 0.5, 4.5]), (3.5, [0, 3, 3.5])])
def test_a_crash_in_an_attempt_repeats_that_attempt_and_does_not_count(
    kit: Kit, crash_at: float, expected: list[float]
) -> None:
    """Each attempt takes 2 s, the back-off 1 s; after the crash attempts take 3 s."""
    at: list[float] = []
    crashed = False

    @task.with_options(retry_max_attempts=1)
    async def attempted() -> None:
        at.append(round(kit.clock.seconds, 2))
        await asyncio.sleep(3 if crashed else 2)
        raise ValueError("no")

    kit.run_for(crash_at, calling(attempted).run_async(None, execution_id="e"))
    crashed = True
    ctx = kit.run(calling(attempted), execution_id="e")

    assert at == pytest.approx(expected, abs=0.01)
    assert types(ctx) == ["WS", "TS", "RETRY_FAILED", "RETRY_STARTED", "RETRY_FAILED", "TF", "WF"]


@pytest.mark.parametrize("handler", ["fallback", "rollback"])
def test_a_crash_in_a_fallback_or_rollback_goes_on_there(kit: Kit, handler: Any) -> None:
    calls: list[str] = []

    async def handle() -> str:
        calls.append(handler)
        await asyncio.sleep(2)
        return "handled"

    @task.with_options(**{handler: handle})
    async def failing() -> None:
        calls.append("task")
        raise ValueError("no")

    kit.run_for(1, calling(failing).run_async(None, execution_id="e"))
    ctx = kit.run(calling(failing), execution_id="e")

    short = handler.upper()
    assert calls == ["task", handler, handler]
    if handler == "fallback":
        assert types(ctx) == ["WS", "TS", f"{short}_STARTED", f"{short}_COMPLETED", "TC", "WC"]
        assert ctx.output == "handled"
    else:
        assert types(ctx) == ["WS", "TS", f"{short}_STARTED", f"{short}_COMPLETED", "TF", "WF"]
        assert ctx.output == failure(ValueError, "no")


@pytest.mark.parametrize("handler", ["fallback", "rollback"])
def test_a_crash_between_retries_and_what_follows_keeps_the_retry_error(kit: Kit, handler: Any) -> None:
    async def handle() -> str:
        await asyncio.sleep(5)
        raise KeyError("handler")

    @task.with_options(retry_max_attempts=1, **{handler: handle})
    async def failing() -> None:
        raise ValueError("no")

    kit.run_for(3, calling(failing).run_async(None, execution_id="e"))
    ctx = kit.run(calling(failing), execution_id="e")

    if handler == "fallback":
        assert ctx.output == failure(KeyError, "'handler'")
    else:
        assert isinstance(ctx.output, ValueError)
        assert isinstance(ctx.output.inner_exception, RetryError)


def test_retries_survive_kill_9(home: Path) -> None:
    """The first process dies in the second attempt, the second one in the back-off after it."""
    program = """
        @task.with_options(retry_max_attempts=3, retry_delay=0.05, retry_backoff=1)
        async def flaky():
            count("calls")
            n = os.path.getsize("calls")
            if n == 2:
                die()
            if n == 3:
                threading.Timer(0.02, die).start()
            if n < 5:
                raise ValueError(n)
            return n

        @workflow
        async def job(ctx: ExecutionContext[int]):
            return await flaky()

        ctx = job.run(1, execution_id="e")
        print(ctx.output, [e.value["current_attempt"] for e in ctx.events if "RETRY_FAILED" in e.type])
    """
    run_script(home, program, code=-9)
    run_script(home, program, code=-9)
    assert run_script(home, program) == "5 [0, 1, 2]\n"

    assert times(home, "calls") == 5


# -- what handlers are called with


def test_a_task_may_be_the_fallback_of_another(both: Kit) -> None:
    @task
    async def spare(a: int, b: int) -> int:
        return a - b

    @task.with_options(fallback=spare)
    async def failing(x: int, y: int) -> int:
        raise ValueError("no")

    ctx = both.run(calling(failing, 5, 3))

    assert shape(ctx)[2:4] == [("FALLBACK_STARTED", "failing", {"x": 5, "y": 3}), ("FALLBACK_COMPLETED", "failing", 2)]


def test_handlers_name_their_parameters_as_they_like(both: Kit) -> None:
    got: list[Any] = []

    async def other_names(first: int, *rest: int, **named: int) -> None:
        got.append((first, rest, named))

    @task.with_options(rollback=other_names)
    async def failing(a: int, b: int = 2, *more: int, c: int = 4, **d: int) -> None:
        raise ValueError("no")

    both.run(calling(failing, 1, 2, 3))

    assert got == [(1, (2, 3), {})]


def test_a_handler_that_does_not_take_the_arguments_fails_like_any_other(both: Kit) -> None:
    def none() -> int:
        return 1

    @task.with_options(fallback=none)
    async def failing(a: int) -> None:
        raise ValueError("no")

    ctx = both.run(calling(failing, 1))

    assert types(ctx) == ["WS", "TS", "FALLBACK_STARTED", "FALLBACK_FAILED", "TF", "WF"]
    assert isinstance(ctx.output, TypeError)


@pytest.mark.parametrize("handler", ["fallback", "rollback"])
def test_handlers_may_be_sync_and_run_off_the_loop(both: Kit, handler: Any) -> None:
    names: list[str] = []

    def sync_handler() -> int:
        names.append(threading.current_thread().name)
        return 7

    @task.with_options(**{handler: sync_handler})
    async def failing() -> None:
        raise ValueError("no")

    both.run(calling(failing))

    assert names == ["flux-task"]


# -- what a task may be


def test_a_plain_function_that_returns_an_awaitable_is_awaited_on_the_loop(both: Kit) -> None:
    async def inner(x: int) -> str:
        await asyncio.sleep(1)
        return f"{x} {threading.current_thread() is threading.main_thread()}"

    @task
    def outer(x: int) -> Any:
        return inner(x)

    lazy: Callable[[int], Any] = lambda x: inner(x + 1)  # noqa: E731

    assert both.run(calling(outer, 1)).output == "1 True"
    assert both.run(calling(task(lazy), 1)).output == "2 True"


class Greeter:
    def __init__(self, word: str) -> None:
        self.word = word

    @task
    async def greet(self, name: str) -> str:
        return f"{self.word} {name}"

    @task.with_options(retry_max_attempts=1, retry_delay=0)
    def greet_in_thread(self, name: str) -> str:
        return f"{self.word} {name}!"

    @staticmethod
    @task
    async def shout(name: str) -> str:
        return name.upper()

    async def apology(self, name: str) -> str:
        return f"{self.word}, sorry, {name}"

    @task.with_options(fallback=apology)
    async def refuse(self, name: str) -> str:
        raise ValueError("no")


def test_methods_are_tasks_and_their_object_is_no_part_of_the_history(both: Kit) -> None:
    hello = Greeter("Hello")

    @workflow
    async def greeting(ctx: ExecutionContext[None]) -> Any:
        return [
            await hello.greet("a"),
            await hello.greet_in_thread(name="b"),
            await hello.shout("c"),
            await hello.refuse("e"),
            await hello.greet.map(["f", "g"]),
        ]

    ctx = both.run(greeting)

    assert ctx.output == ["Hello a", "Hello b!", "C", "Hello, sorry, e", ["Hello f", "Hello g"]]
    started = [(e.name, e.value) for e in ctx.events if e.type == "TASK_STARTED"]
    assert started == [
        ("greet", {"name": "a"}),
        ("greet_in_thread", {"name": "b"}),
        ("shout", {"name": "c"}),
        ("refuse", {"name": "e"}),
        ("greet", {"name": "f"}),
        ("greet", {"name": "g"}),
    ]


def test_a_method_with_other_options_still_has_its_object(both: Kit) -> None:
    hello = Greeter("Hello")

    @workflow
    async def greeting(ctx: ExecutionContext[None]) -> Any:
        return await hello.greet.with_options(name="other")("h")

    ctx = both.run(greeting)

    assert ctx.output == "Hello h"
    assert shape(ctx)[1] == ("TS", "other", {"name": "h"})


def top_level(x: int) -> int:
    return x + 1


def test_functions_and_classes_are_arguments(both: Kit) -> None:
    @task
    async def apply(function: Any, x: int) -> Any:
        return function(x)

    @workflow
    async def applying(ctx: ExecutionContext[None]) -> Any:
        return [await apply(top_level, 1), await apply(str, 2), await apply(lambda x: x * 10, 3)]

    assert both.run(applying).output == [2, "2", 30]


def test_a_task_that_changes_its_argument_does_not_change_the_bodys(both: Kit) -> None:
    @task
    async def spoil(items: list[Any]) -> int:
        items.append("spoilt")
        items[0]["x"] = "spoilt"
        return len(items)

    @workflow
    async def careful(ctx: ExecutionContext[list[Any]]) -> Any:
        mine: list[Any] = [{"x": 1}]
        lengths = [await spoil(mine), await spoil(mine), await spoil(ctx.input)]
        return [lengths, mine, ctx.input]

    assert both.run(careful, [{"x": 0}]).output == [[2, 2, 2], [{"x": 1}], [{"x": 0}]]


def test_each_attempt_gets_the_arguments_as_they_were_given(both: Kit) -> None:
    seen: list[Any] = []

    @task.with_options(retry_max_attempts=1, rollback=lambda items: seen.append(list(items)))
    async def spoil(items: list[int]) -> None:
        seen.append(list(items))
        items.append(9)
        raise ValueError("no")

    both.run(calling(spoil, [1]))

    assert seen == [[1], [1], [1]]


def test_a_result_that_the_task_keeps_and_changes_does_not_change_the_bodys(both: Kit) -> None:
    kept: list[list[int]] = []

    @task
    async def give() -> list[int]:
        kept.append([1])
        return kept[-1]

    @task
    async def spoil() -> None:
        kept[0].append(2)

    @workflow
    async def taking(ctx: ExecutionContext[None]) -> Any:
        got = await give()
        await spoil()
        return got

    assert both.run(taking).output == [1]


# -- errors that would end more than the task


class Odd(BaseException):
    pass


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize(
    "error",
    [SystemExit(3), StopIteration(1), StopAsyncIteration(1), asyncio.CancelledError("own"), GeneratorExit(), Odd("x")],
    ids=lambda error: type(error).__name__,
)
def test_nothing_that_a_task_raises_ends_more_than_the_task(both: Kit, error: BaseException, kind: str) -> None:
    @task
    async def raising() -> None:
        raise error

    @task
    def raising_in_thread() -> None:
        raise error

    @workflow
    async def catching(ctx: ExecutionContext[None]) -> Any:
        try:
            await (raising() if kind == "async" else raising_in_thread())
        except ExecutionError as caught:
            return str(caught)
        return "nothing was raised"

    ctx = both.run(catching)

    assert types(ctx) == ["WS", "TS", "TF", "WC"]
    assert type(error).__name__ in ctx.output or ctx.output == str(error) != ""


@pytest.mark.parametrize("error", [SystemExit(3), asyncio.CancelledError("own"), Odd("x")], ids=repr)
def test_such_an_error_is_tried_again_and_rolled_back_like_others(both: Kit, error: BaseException) -> None:
    @task.with_options(retry_max_attempts=1, rollback=lambda: None)
    async def raising() -> None:
        raise error

    assert types(both.run(calling(raising))) == [
        "WS", "TS", "RETRY_FAILED", "RETRY_STARTED", "RETRY_FAILED", "ROLLBACK_STARTED", "ROLLBACK_COMPLETED",
        "TF", "WF",
    ]  # fmt: skip


# -- around tasks


number: contextvars.ContextVar[int] = contextvars.ContextVar("number", default=0)


def test_context_variables_of_the_body_reach_its_tasks(both: Kit) -> None:
    @task
    async def read() -> int:
        return number.get()

    @task
    def read_in_thread() -> int:
        return number.get()

    @workflow
    async def setting(ctx: ExecutionContext[None]) -> Any:
        number.set(5)
        return [await read(), await read_in_thread()]

    assert both.run(setting).output == [5, 5]
    assert number.get() == 0


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_task_outside_a_workflow_just_runs_with_its_retries(home: Path, kind: str) -> None:
    calls: list[int] = []

    @task.with_options(retry_max_attempts=2, retry_delay=0)
    async def flaky(x: int) -> int:
        calls.append(x)
        if len(calls) < 3:
            raise ValueError("no")
        return 2 * x

    @task.with_options(retry_max_attempts=2, retry_delay=0)
    def flaky_in_thread(x: int) -> int:
        calls.append(x)
        if len(calls) < 3:
            raise ValueError("no")
        return 2 * x

    async def main() -> Any:
        return await (flaky(4) if kind == "async" else flaky_in_thread(4))

    assert asyncio.run(main()) == 8
    assert calls == [4, 4, 4]
    assert not (home / ".flux").exists()


def test_a_task_outside_a_workflow_fails_as_it_would_in_one() -> None:
    @task.with_options(retry_max_attempts=1, retry_delay=0)
    async def failing() -> None:
        raise ValueError("no")

    async def main() -> None:
        await failing()

    with pytest.raises(ExecutionError) as caught:
        asyncio.run(main())

    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value.inner_exception, RetryError)


def test_a_task_outside_a_workflow_has_its_fallback_and_its_timeout() -> None:
    @task.with_options(timeout=0.01, fallback=lambda: "spare")
    async def slow() -> str:
        await asyncio.sleep(60)
        return "never"

    async def main() -> str:
        return await slow()

    assert asyncio.run(main()) == "spare"


def test_the_body_keeps_the_options_of_a_task_apart_from_those_of_its_copies(both: Kit) -> None:
    tried = Attempted(both)
    more = tried.task.with_options(retry_max_attempts=1, retry_delay=0)

    both.run(calling(tried.task))
    assert len(tried.at) == 1

    both.run(calling(more))
    assert len(tried.at) == 3
    assert more.func is tried.task.func
    assert more.name == tried.task.name == "attempted"
