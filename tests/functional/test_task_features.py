"""What a task may ask for beside attempts: progress, caching, its call's identity, to run at most once, its name."""

import asyncio
import concurrent.futures
import contextvars
import dataclasses
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, TaskMetadata, pause, task, workflow
from flux.domain.retry import RetryPolicy
from flux.errors import BodyError, InvalidValueError, TaskInterruptedError, UnserializableValue
from flux.tasks import progress
from functional.kit import Kit, failure, plain, run_script, shape, times, types, whole


def calling(function: Any, *arguments: Any, **keywords: Any) -> Any:
    """A workflow that calls one task."""

    @workflow
    async def caller(ctx: ExecutionContext[Any]) -> Any:
        return await function(*arguments, **keywords)

    return caller


def checked(kit: Kit, ctx: Any) -> list[tuple[Any, ...]]:
    """The history, after it was compared with what a fresh app reads from the database."""
    assert whole(ctx) == whole(kit.stored(ctx.execution_id))

    return shape(ctx)


def test_without_options_a_task_is_tried_once_without_a_limit_and_neither_cached_nor_told_of_its_call() -> None:
    @task
    async def bare() -> None:
        pass

    definition = bare.definition

    assert (bare.name, bare.func.__name__) == ("bare", "bare")
    assert definition.retry == RetryPolicy(max_attempts=0, delay_seconds=1, backoff=2, max_delay_seconds=600)
    assert (definition.timeout_seconds, definition.cache_seconds, definition.metadata) == (0, None, False)
    assert (definition.pure, definition.at_most_once, definition.in_process) == (False, False, False)
    assert (definition.fallback, definition.rollback, definition.output_storage) == (None, None, None)


# -- progress


def test_progress_is_an_event_of_the_call(both: Kit) -> None:
    @task
    async def loading() -> str:
        for done in (0.5, {"done": 1}):
            await progress(done)
            await asyncio.sleep(1)
        return "loaded"

    ctx = both.run(calling(loading))

    assert checked(both, ctx) == [
        ("WS", "caller", None),
        ("TS", "loading", {}),
        ("TASK_PROGRESS", "loading", 0.5),
        ("TASK_PROGRESS", "loading", {"done": 1}),
        ("TC", "loading", "loaded"),
        ("WC", "caller", "loaded"),
    ]
    assert [e.call_id for e in ctx.events if e.type == "TASK_PROGRESS"] == ["1", "1"]


def test_progress_need_not_be_awaited_and_comes_from_threads_too(both: Kit) -> None:
    def helping() -> None:
        progress("helper")

    @task
    def loading() -> str:
        progress("task")
        helping()
        return threading.current_thread().name

    @task
    async def spreading() -> None:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            told = asyncio.get_running_loop().run_in_executor(
                pool, contextvars.copy_context().run, progress, "thread of its own"
            )
            await told
        progress("not awaited")

    @workflow
    async def both_ways(ctx: ExecutionContext[None]) -> Any:
        return [await loading(), await spreading()]

    ctx = both.run(both_ways)

    assert ctx.output[0].startswith("flux-task")
    told = [(e.name, e.value) for e in ctx.events if e.type == "TASK_PROGRESS"]
    assert told == [
        ("loading", "task"),
        ("loading", "helper"),
        ("spreading", "thread of its own"),
        ("spreading", "not awaited"),
    ]
    checked(both, ctx)


def test_progress_inside_a_nested_call_is_that_calls(both: Kit) -> None:
    @task
    async def inner() -> None:
        progress("inner")

    @task
    async def outer() -> None:
        await inner()
        progress("outer")

    ctx = both.run(calling(outer))

    assert [(e.call_id, e.value) for e in ctx.events if e.type == "TASK_PROGRESS"] == [("1/1", "inner"), ("1", "outer")]


def test_progress_does_not_disturb_retries_and_survives_a_crash(kit: Kit) -> None:
    attempts: list[str] = []

    @task.with_options(retry_max_attempts=2, retry_delay=10)
    async def loading() -> str:
        attempts.append("x")
        progress(len(attempts))
        if len(attempts) < 3:
            raise ValueError(len(attempts))
        return "loaded"

    kit.run_for(5, calling(loading).run_async(None, execution_id="e"))
    ctx = kit.run(calling(loading), execution_id="e")

    assert ctx.output == "loaded"
    assert [e.value for e in ctx.events if e.type == "TASK_PROGRESS"] == [1, 2, 3]
    assert len(attempts) == 3


def test_progress_in_a_body_is_refused_and_outside_a_workflow_does_nothing(both: Kit) -> None:
    @workflow
    async def wrong(ctx: ExecutionContext[None]) -> None:
        progress(1)

    @task
    async def anywhere() -> int:
        await progress(1)
        return 1

    ctx = both.run(wrong)

    assert isinstance(ctx.output, BodyError)
    assert "it belongs in a @task" in str(ctx.output)
    assert asyncio.run(anywhere()) == 1  # type: ignore[arg-type]


def test_progress_that_cannot_be_recorded_is_refused(both: Kit) -> None:
    @task
    async def wrong() -> None:
        progress([object()])

    ctx = both.run(calling(wrong))

    assert isinstance(ctx.output, UnserializableValue)
    assert "TASK_PROGRESS" not in types(ctx)


# -- cache


class Counted:
    """A task that counts how often it really ran."""

    def __init__(self, value: Any = "result", **options: Any) -> None:
        self.ran: list[Any] = []

        @task.with_options(**{"cache": True, **options})
        async def counted(x: Any) -> Any:
            self.ran.append(x)
            return value

        self.task = counted


@pytest.mark.parametrize("value", ["result", None, 0, False, [], (1, {2})], ids=repr)
def test_a_cached_result_answers_equal_calls_of_every_execution_none_too(both: Kit, value: Any) -> None:
    counted = Counted(value)

    outputs = [both.run(calling(counted.task, 1)).output for _ in range(3)]

    assert outputs == [value] * 3
    assert [type(output) for output in outputs] == [type(value)] * 3
    assert counted.ran == [1]


def test_a_cached_call_has_the_same_history_as_another(both: Kit) -> None:
    counted = Counted()

    first, second = both.run(calling(counted.task, 1)), both.run(calling(counted.task, 1))

    assert checked(both, first) == checked(both, second)
    assert types(second) == ["WS", "TS", "TC", "WC"]


def test_other_arguments_another_name_and_another_function_are_other_calls(both: Kit) -> None:
    counted, other = Counted("a"), Counted("b")

    for function, argument in (
        (counted.task, 1),
        (counted.task, 2),
        (counted.task, True),
        (counted.task, "1"),
        (counted.task.with_options(name="renamed"), 1),
    ):
        both.run(calling(function, argument))

    assert counted.ran == [1, 2, True, "1", 1]
    assert both.run(calling(other.task.with_options(name="other"), 1)).output == "b"


def test_arguments_that_are_given_otherwise_are_equal(both: Kit) -> None:
    counted = Counted()

    both.run(calling(counted.task, 1))
    both.run(calling(counted.task, x=1))

    assert counted.ran == [1]


def test_a_cached_result_expires_after_its_time(both: Kit) -> None:
    counted = Counted(cache=timedelta(minutes=1))

    for at in (0, 59.9, 60.1, 119, 121):
        both.clock.seconds = at
        both.run(calling(counted.task, 1))

    assert len(counted.ran) == 3  # At 0, at 60.1, and at 121.


def test_a_cached_result_without_a_time_never_expires(both: Kit) -> None:
    counted = Counted()

    for at in (0, 10 * 365 * 86400.0):
        both.clock.seconds = at
        both.run(calling(counted.task, 1))

    assert len(counted.ran) == 1


def test_failures_are_not_cached(both: Kit) -> None:
    ran: list[int] = []

    @task.with_options(cache=True)
    async def flaky(x: int) -> int:
        ran.append(x)
        if len(ran) < 2:
            raise ValueError(x)
        return x

    assert both.run(calling(flaky, 1)).has_failed
    assert both.run(calling(flaky, 1)).output == 1
    assert both.run(calling(flaky, 1)).output == 1
    assert len(ran) == 2


def test_what_a_fallback_gave_is_not_cached(both: Kit) -> None:
    """It stands in for a result that may be there the next time."""
    ran: list[int] = []

    @task.with_options(cache=True, fallback=lambda x: "instead")
    async def flaky(x: int) -> str:
        ran.append(x)
        if len(ran) < 2:
            raise ValueError(x)
        return "result"

    assert [both.run(calling(flaky, 1)).output for _ in range(3)] == ["instead", "result", "result"]
    assert len(ran) == 2


def test_a_cached_result_is_a_copy(both: Kit) -> None:
    counted = Counted([1])

    @workflow
    async def changing(ctx: ExecutionContext[None]) -> Any:
        mine = await counted.task(1)
        mine.append(2)
        return [mine, await counted.task(1)]

    assert both.run(changing).output == [[1, 2], [1]]


def test_a_cached_result_is_one_of_another_process_too(home: Path) -> None:
    program = """
        @task.with_options(cache=timedelta(hours=1))
        async def costly(x):
            count("ran")
            return os.getpid()

        @workflow
        async def job(ctx: ExecutionContext[int]):
            return await costly(ctx.input)

        print(job.run(1).output)
    """
    assert run_script(home, program) == run_script(home, program)
    assert times(home, "ran") == 1


@pytest.mark.parametrize("value", [60, "1h", None, timedelta(seconds=-1)], ids=repr)
def test_a_cache_that_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(InvalidValueError, match="cache is"):
        Counted(cache=value)


# -- the identity of a call


class Keyed:
    """A task that notes what it is told about its call."""

    def __init__(self, failures: int = 0, **options: Any) -> None:
        self.told: list[TaskMetadata] = []

        @task.with_options(**{"metadata": True, "retry_delay": 0, **options})
        async def keyed(x: int, metadata: TaskMetadata) -> int:
            self.told.append(metadata)
            if len(self.told) <= failures:
                raise ValueError(x)
            return x

        self.task = keyed


def test_a_task_is_told_who_it_is(both: Kit) -> None:
    keyed = Keyed(name="named_{x}")

    ctx = both.run(calling(keyed.task, 7), None, "e")

    (told,) = keyed.told
    assert (told.task_id, told.task_name, told.execution_id, told.attempt) == ("1", "named_7", "e", 1)
    assert checked(both, ctx)[1] == ("TS", "named_7", {"x": 7})  # What Flux gives is no argument of the call.


def test_the_key_is_the_same_in_every_attempt_and_after_a_crash(kit: Kit) -> None:
    keyed = Keyed(failures=2, retry_max_attempts=3, retry_delay=10)

    kit.run_for(5, calling(keyed.task, 1).run_async(None, execution_id="e"))
    kit.run(calling(keyed.task, 1), execution_id="e")

    assert [told.attempt for told in keyed.told] == [1, 2, 3]
    assert len({told.idempotency_key for told in keyed.told}) == 1


def test_an_interrupted_attempt_keeps_its_number_and_its_key(kit: Kit) -> None:
    told: list[TaskMetadata] = []

    @task.with_options(metadata=True)
    async def slow(metadata: TaskMetadata) -> None:
        told.append(metadata)
        await asyncio.sleep(10)

    kit.run_for(5, calling(slow).run_async(None, execution_id="e"))
    kit.run(calling(slow), execution_id="e")

    assert told[0] == told[1]
    assert told[0].attempt == 1


def test_each_call_has_a_key_of_its_own(both: Kit) -> None:
    keyed = Keyed()

    @task
    async def outer() -> None:
        await keyed.task(1)

    @workflow
    async def many(ctx: ExecutionContext[None]) -> None:
        await asyncio.gather(keyed.task(1), keyed.task(1))
        await keyed.task.map([1, 1])
        await outer()

    both.run(many, None, "a")
    both.run(many, None, "b")

    assert len(keyed.told) == 10
    assert len({told.idempotency_key for told in keyed.told}) == 10


def test_the_key_survives_a_pause_inside_the_task(both: Kit) -> None:
    keys: list[str] = []

    @task.with_options(metadata=True)
    async def asking(metadata: TaskMetadata) -> Any:
        keys.append(metadata.idempotency_key)
        return await pause("p")

    flow = calling(asking)
    both.run(flow, None, "e")
    both.resume(flow, "e", 1)

    assert len(keys) == 2
    assert len(set(keys)) == 1


def test_outside_a_workflow_a_task_is_told_that_it_is_nowhere() -> None:
    keyed = Keyed(failures=1, retry_max_attempts=1)

    assert asyncio.run(keyed.task(1)) == 1
    assert [(told.execution_id, told.attempt) for told in keyed.told] == [("", 1), ("", 2)]
    assert len({told.idempotency_key for told in keyed.told}) == 1


def test_a_task_that_does_not_take_its_metadata_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="does not take: add a parameter metadata"):

        @task.with_options(metadata=True)
        async def deaf(x: int) -> None:
            pass


# -- at most once


def test_an_interrupted_attempt_that_may_run_once_is_not_repeated(kit: Kit) -> None:
    ran: list[int] = []

    @task.with_options(at_most_once=True)
    async def send(x: int) -> None:
        ran.append(x)
        await asyncio.sleep(10)

    flow = calling(send, 1)
    kit.run_for(5, flow.run_async(None, execution_id="e"))
    ctx = kit.run(flow, execution_id="e")

    why = "attempt 1 of 'send' was interrupted, and it may run at most once"
    assert ran == [1]
    assert ctx.output == plain(TaskInterruptedError, f"{why}: find out how far it came before you repeat it")
    assert types(ctx) == ["WS", "TS", "TF", "WF"]


def test_a_body_may_decide_what_follows_from_an_interruption(kit: Kit) -> None:
    ran: list[str] = []

    @task.with_options(at_most_once=True)
    async def send() -> None:
        ran.append("send")
        await asyncio.sleep(10)

    @task
    async def ask() -> str:
        return "it was sent"

    @workflow
    async def careful(ctx: ExecutionContext[None]) -> Any:
        try:
            return await send()
        except TaskInterruptedError:
            return await ask()

    kit.run_for(5, careful.run_async(None, execution_id="e"))

    assert kit.run(careful, execution_id="e").output == "it was sent"
    assert ran == ["send"]


def test_a_failure_is_no_interruption_and_is_tried_again(kit: Kit) -> None:
    ran: list[str] = []

    @task.with_options(at_most_once=True, retry_max_attempts=2, retry_delay=10)
    async def send() -> str:
        ran.append("send")
        if len(ran) < 3:
            raise ValueError("refused")
        return "sent"

    flow = calling(send)
    kit.run_for(5, flow.run_async(None, execution_id="e"))  # Between two attempts: none was interrupted.

    assert kit.run(flow, execution_id="e").output == "sent"
    assert len(ran) == 3


def test_an_interruption_counts_as_a_failed_attempt_and_is_tried_again_if_that_is_asked_for(kit: Kit) -> None:
    ran: list[str] = []

    @task.with_options(at_most_once=True, retry_max_attempts=1, retry_delay=0)
    async def send() -> str:
        ran.append("send")
        await asyncio.sleep(10)
        return "sent"

    flow = calling(send)
    kit.run_for(5, flow.run_async(None, execution_id="e"))
    ctx = kit.run(flow, execution_id="e")

    assert ctx.output == "sent"
    assert types(ctx) == ["WS", "TS", "RETRY_FAILED", "RETRY_STARTED", "RETRY_COMPLETED", "TC", "WC"]
    assert len(ran) == 2  # Once in each attempt.


def test_a_call_that_never_began_is_no_interruption(kit: Kit) -> None:
    ran: list[str] = []

    @task.with_options(at_most_once=True)
    async def send() -> str:
        ran.append("send")
        return "sent"

    @workflow
    async def later(ctx: ExecutionContext[None]) -> Any:
        await asyncio.sleep(10)
        return await send()

    kit.run_for(5, later.run_async(None, execution_id="e"))

    assert kit.run(later, execution_id="e").output == "sent"


def test_a_result_that_was_recorded_is_no_interruption(both: Kit) -> None:
    @task.with_options(at_most_once=True)
    async def send() -> str:
        return "sent"

    @workflow
    async def pausing(ctx: ExecutionContext[None]) -> Any:
        return [await send(), await pause("p"), await send()]

    both.run(pausing, None, "e")

    assert both.resume(pausing, "e", 1).output == ["sent", 1, "sent"]


@pytest.mark.parametrize("how", ["itself", "further inside"])
def test_a_task_that_may_run_once_cannot_pause_because_it_would_run_again(both: Kit, how: str) -> None:
    ran: list[str] = []

    @task
    async def ask() -> Any:
        return await pause("p")

    @task.with_options(at_most_once=True)
    async def send() -> Any:
        ran.append("send")
        return await (pause("p") if how == "itself" else ask())

    ctx = both.run(calling(send))

    assert isinstance(ctx.output, BodyError)
    assert "pause() was called in the task 'send', which may run at most once" in str(ctx.output)
    assert "TASK_PAUSED" not in [str(event.type) for event in ctx.events]
    assert ran == ["send"]


def test_a_task_killed_while_it_may_run_once_ran_once(home: Path) -> None:
    program = """
        from flux.errors import TaskInterruptedError

        @task.with_options(at_most_once=True)
        def send():
            count("sent")
            die()

        @workflow
        async def job(ctx: ExecutionContext[int]):
            try:
                await send()
            except TaskInterruptedError:
                return "interrupted"

        print(job.run(1, execution_id="e").output)
    """
    run_script(home, program, code=-9)

    assert run_script(home, program) == "interrupted\n"
    assert times(home, "sent") == 1


# -- names


@dataclasses.dataclass
class Repository:
    owner: str
    tags: list[str]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("get_{repo.owner}", "get_ada"),
        ("get_{repo.tags[1]}", "get_b"),
        ("get_{page:03d}", "get_007"),
        ("{repo.owner}/{page}", "ada/7"),
        ("get_{repo.owner!r}", "get_'ada'"),
        ("{{literal}}", "{literal}"),
        ("{{{page}}}", "{7}"),
        ("no template", "no template"),
        ("100%", "100%"),
    ],
)
def test_a_name_is_a_template_over_the_arguments(both: Kit, template: str, expected: str) -> None:
    @task.with_options(name=template)
    async def get(repo: Repository, page: int) -> int:
        return page

    ctx = both.run(calling(get, Repository("ada", ["a", "b"]), 7))

    assert shape(ctx)[1][:2] == ("TS", expected)
    assert shape(ctx)[2] == ("TC", expected, 7)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("get_{repository}", "no parameter 'repository': it has repo, page"),
        ("get_{}", "no parameter ''"),
        ("get_{0}", "no parameter '0'"),
        ("get_{repo", r"write \{\{ and \}\} for braces"),
        ("get_}", r"write \{\{ and \}\} for braces"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused_at_once(template: str, says: str) -> None:
    with pytest.raises(InvalidValueError, match=says):

        @task.with_options(name=template)
        async def get(repo: str, page: int) -> None:
            pass


@pytest.mark.parametrize("template", ["get_{repo.owner}", "get_{repo[owner]}", "get_{repo:03d}"])
def test_a_template_that_does_not_fit_its_arguments_is_refused_and_no_call_is_recorded(
    both: Kit, template: str
) -> None:
    @task.with_options(name=template)
    async def get(repo: Any) -> None:
        pass

    ctx = both.run(calling(get, "text"))

    assert types(ctx) == ["WS", "WF"]
    assert isinstance(ctx.output, InvalidValueError)
    assert template in str(ctx.output)


def test_a_template_fills_in_what_was_left_to_its_default(both: Kit) -> None:
    @task.with_options(name="get_{repo}_{page}")
    async def get(repo: str, page: int = 1) -> str:
        return f"{repo}{page}"

    ctx = both.run(calling(get, "flux"))

    assert ctx.output == "flux1"
    assert shape(ctx)[1] == ("TS", "get_flux_1", {"repo": "flux"})


# -- methods


class Shop:
    city = "Bath"

    @task
    async def price(self, sku: str) -> str:
        return f"{sku} at {type(self).__name__}"

    @classmethod
    @task
    async def branch(cls, number: int) -> str:
        return f"{cls.__name__} {number} in {cls.city}"

    @classmethod
    @task
    def branch_in_thread(cls, number: int) -> str:
        return f"{cls.__name__} {number}"

    @staticmethod
    @task
    async def currency(country: str) -> str:
        return country.upper()

    @task.with_options(name="price_of_{sku}", retry_max_attempts=1, retry_delay=0, metadata=True)
    async def described(self, sku: str, metadata: TaskMetadata) -> str:
        if metadata.attempt == 1:
            raise ValueError(sku)
        return metadata.task_name


class Cafe(Shop):
    city = "York"


def test_methods_class_methods_and_static_methods_are_tasks(both: Kit) -> None:
    @workflow
    async def shopping(ctx: ExecutionContext[None]) -> Any:
        return [
            await Shop().price("tea"),
            await Cafe().price("tea"),
            await Shop.branch(1),
            await Cafe.branch(2),
            await Cafe().branch(3),
            await Cafe.branch_in_thread(4),
            await Shop.currency("uk"),
            await Cafe().currency("fr"),
            await Shop().described("tea"),
        ]

    ctx = both.run(shopping)

    assert ctx.output == [
        "tea at Shop",
        "tea at Cafe",
        "Shop 1 in Bath",
        "Cafe 2 in York",
        "Cafe 3 in York",
        "Cafe 4",
        "UK",
        "FR",
        "price_of_tea",
    ]
    checked(both, ctx)


@pytest.mark.parametrize("kind", [classmethod, staticmethod])
def test_a_task_below_a_class_method_is_refused_saying_which_comes_first(kind: Any) -> None:
    def method(x: int) -> int:
        return x

    with pytest.raises(InvalidValueError, match=f"write @{kind.__name__} above @task"):
        task(kind(method))
    with pytest.raises(InvalidValueError, match=f"write @{kind.__name__} above @task"):
        task.with_options(name="x")(kind(method))


# -- tasks that hand on the call of another


def test_a_task_may_return_the_call_of_another_without_awaiting_it(both: Kit) -> None:
    @task
    async def double(x: int) -> int:
        return 2 * x

    @task
    async def handing_on(x: int) -> Any:
        return double(x)

    ctx = both.run(calling(handing_on, 2))

    assert checked(both, ctx) == [
        ("WS", "caller", None),
        ("TS", "handing_on", {"x": 2}),
        ("TS", "double", {"x": 2}),
        ("TC", "double", 4),
        ("TC", "handing_on", 4),
        ("WC", "caller", 4),
    ]
    assert asyncio.run(handing_on(3)) == 6


def test_the_failure_of_a_call_that_was_handed_on_is_the_tasks(both: Kit) -> None:
    @task
    async def broken() -> None:
        raise ValueError("no")

    @task
    async def handing_on() -> Any:
        return broken()

    ctx = both.run(calling(handing_on))

    assert ctx.output == failure(ValueError, "no")
