"""Stories of tasks that call tasks: in branches, in attempts, in fallbacks and rollbacks, and with pauses."""

import asyncio
import contextlib
from typing import Any

from flux import pause, task
from flux.domain.events import ExecutionEventType as Type
from flux.domain.history import History
from flux.errors import ExecutionTimeoutError, TaskInterruptedError
from flux.tasks import parallel, pipeline, progress
from support.crashes import Histories
from support.story import Context, act, branch, gathering, marks, story
from support.world import EXECUTION, LABEL, World, ask, compute, fail, flaky, mark, work, work_in_thread

# -- tasks that call tasks


@task
async def one_after_the_other(x: Any) -> Any:
    act(x)
    return [await work((x, 1)), await ask("first"), await ask("second"), await compute(3), await work_in_thread(x)]


@story([["x", 1], "first", "second", 9, "x"])
async def inner_calls_in_sequence(ctx: Context) -> Any:
    return await one_after_the_other("x")


@story([marks("a"), marks("b"), marks("c")])
async def equal_inner_calls_in_a_gather(ctx: Context) -> Any:
    return await gathering("abc", 3)


@story([[marks("a", 2), marks("b", 2)], [marks("c", 2), marks("d", 2)], marks("e")])
async def equal_inner_calls_of_concurrent_tasks(ctx: Context) -> Any:
    return await asyncio.gather(gathering("ab"), gathering("cd"), branch("e"))


@task
async def grouping() -> Any:
    act("group")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(branch(name)) for name in "abc"]
    return [done.result() for done in tasks]


@story([marks("a"), marks("b"), marks("c")])
async def equal_inner_calls_in_a_task_group(ctx: Context) -> Any:
    return await grouping()


@task
async def grouping_with_a_failure() -> Any:
    act("group")
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(branch("a", 1))
            group.create_task(work("never", 1000))
            group.create_task(fail("boom", 10))
    except* ValueError as failures:
        found = [str(error) for error in failures.exceptions]
    return found


@story([["boom"], "after"], same="output")
async def inner_task_group_aborted(ctx: Context) -> Any:
    return [await grouping_with_a_failure(), await work("after")]


@task
async def as_they_complete() -> Any:
    found = []
    for first in asyncio.as_completed([ask(name) for name in "abcde"]):
        found.append(await first)
    return sorted(found)


@story(["a", "b", "c", "d", "e"])
async def inner_calls_as_completed(ctx: Context) -> Any:
    return await as_they_complete()


@task
async def the_first_of_two() -> Any:
    tasks = {asyncio.ensure_future(work("quick", 1)), asyncio.ensure_future(work("slow", 500))}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for one in pending:
        one.cancel()
    await asyncio.wait(pending)
    return [one.result() for one in done]


@story([["quick"], "after"], same="output")
async def first_completed_inner_call(ctx: Context) -> Any:
    return [await the_first_of_two(), await work("after")]


@task
async def waiting_for() -> Any:
    order = [await asyncio.wait_for(work(1, 1), 600)]
    with contextlib.suppress(TimeoutError):
        order.append(await asyncio.wait_for(work(2, 600), 2))
    async with asyncio.timeout(600):
        order.append(await work(3))
    return order


@story([[1, 3], "after"], same="output")
async def inner_wait_for(ctx: Context) -> Any:
    return [await waiting_for(), await work("after")]


@task
async def queueing() -> Any:
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    found: list[Any] = []

    async def consume() -> None:
        while True:
            item = await queue.get()
            found.append(await work(item))
            queue.task_done()

    workers = [asyncio.create_task(consume()) for _ in range(2)]
    for item in range(5):
        await queue.put(item)
    await queue.join()
    for worker in workers:
        worker.cancel()
    return sorted(found)


@story([[0, 1, 2, 3, 4], "after"], same="output")
async def inner_worker_pool(ctx: Context) -> Any:
    return [await queueing(), await work("after")]


@task
async def tree(depth: int) -> Any:
    act(depth)
    if not depth:
        return await mark()

    async def grow(side: str) -> Any:
        LABEL.set(f"{LABEL.get()}{side}")
        return await tree(depth - 1)

    return await asyncio.gather(grow("l"), grow("r"))


@story([[["ll", "lr"], ["rl", "rr"]], "after"])
async def inner_calls_as_deep_as_a_tree(ctx: Context) -> Any:
    LABEL.set("")
    return [await tree(2), await work("after")]


@task
async def down(depth: int) -> Any:
    return [depth, await down(depth - 1)] if depth else await ask("bottom")


@story([4, [3, [2, [1, "bottom"]]]])
async def inner_calls_five_deep(ctx: Context) -> Any:
    return await down(4)


@task
async def combining() -> Any:
    act("combining")
    pair = await parallel(ask("a"), ask("b"), max_concurrent=1)
    mapped = await work.map([1, 2, 3], max_concurrent=2)
    return [pair, mapped, await pipeline(compute, work, input=4)]


@story([["a", "b"], [1, 2, 3], 16])
async def combinators_in_a_task(ctx: Context) -> Any:
    return await combining()


class Shop:
    """Methods that call methods."""

    def __init__(self, name: str) -> None:
        self.name = name

    @task
    async def sell(self, item: str) -> Any:
        act(item)
        return await asyncio.gather(self.pack(item), self.pack(item), ask(f"{self.name} asks"))

    @task
    async def pack(self, item: str) -> Any:
        act(item)
        return f"{self.name} packs {item}"


@story([["A packs x", "A packs x", "A asks"], ["B packs x", "B packs x", "B asks"]])
async def methods_that_call_methods(ctx: Context) -> Any:
    return await asyncio.gather(Shop("A").sell("x"), Shop("B").sell("x"))


@task
async def reporting(x: Any) -> Any:
    act(x)
    await progress(0.5)
    found = await ask(x)
    progress(1)
    return found


@story([["a", "b"], "after"])
async def progress_beside_inner_calls(ctx: Context) -> Any:
    return [await asyncio.gather(reporting("a"), reporting("b")), await work("after")]


# -- attempts, and what they call


@task.with_options(retry_max_attempts=3, retry_delay=2)
async def failing_after_a_success(failures: int) -> Any:
    _, attempt = World.current.act(failures)
    found = [await ask("kept"), await compute(attempt)]
    if attempt < failures:
        raise OSError(f"attempt {attempt}")
    return found


@story([["kept", 4], ["kept", 0], "attempt 3"])
async def an_inner_success_answers_in_every_attempt(ctx: Context) -> Any:
    """But what is pure is computed again."""
    found: list[Any] = list(await asyncio.gather(failing_after_a_success(2), failing_after_a_success(0)))
    try:
        await failing_after_a_success(9)
    except OSError as error:
        found.append(str(error))
    return found


@task
async def moody() -> Any:
    """Whether it fails is no matter of its arguments."""
    act(LABEL.get())
    if LABEL.get() == "ill":
        raise ValueError("ill")
    return "well"


@task.with_options(retry_max_attempts=2, retry_delay=2)
async def depending_on_an_inner_call() -> Any:
    _, attempt = World.current.act("outer")
    before = await ask("before")
    LABEL.set("ill" if attempt < 2 else "well")
    return [before, await moody(), attempt]


@story([["before", "well", 2], "after"])
async def an_inner_failure_counts_in_its_attempt_only(ctx: Context) -> Any:
    return [await depending_on_an_inner_call(), await work("after")]


@task.with_options(retry_max_attempts=1, retry_delay=2)
async def going_on_after_a_failure() -> Any:
    _, attempt = World.current.act("outer")
    found = []
    for n in range(2):
        try:
            await fail(n)
        except ValueError as error:
            found.append(str(error))
        found.append(await work(("then", n)))
    if not attempt:
        raise OSError("once more")
    return found


@story([["0", ["then", 0], "1", ["then", 1]], "after"])
async def an_inner_failure_is_caught(ctx: Context) -> Any:
    return [await going_on_after_a_failure(), await work("after")]


@task.with_options(retry_max_attempts=1, retry_delay=1)
async def unsteady(x: Any) -> Any:
    _, attempt = World.current.act(x)
    found = await asyncio.gather(branch(f"{x}a", 2), branch(f"{x}b", 2), flaky(x, 1))
    if not attempt:
        raise OSError(x)
    return found


@story([[marks("xa", 2), marks("xb", 2), "x"], [marks("ya", 2), marks("yb", 2), "y"]])
async def retries_in_retries(ctx: Context) -> Any:
    return await asyncio.gather(unsteady("x"), unsteady("y"))


async def _ask_instead(x: Any) -> Any:
    act(("instead", x))
    return ["instead", await asyncio.gather(branch("a", 2), branch("b", 2)), await work(x)]


@task.with_options(fallback=_ask_instead, retry_max_attempts=1, retry_delay=1)
async def falling_back(x: Any) -> Any:
    act(x)
    await ask(("vain", x))
    raise OSError(x)


@story([["instead", [marks("a", 2), marks("b", 2)], "x"], "after"])
async def a_fallback_that_calls_tasks(ctx: Context) -> Any:
    return [await falling_back("x"), await work("after")]


async def _ask_to_undo(x: Any) -> Any:
    act(("undo", x))
    await asyncio.gather(branch("a", 2), work(("undone", x)))


@task.with_options(rollback=_ask_to_undo)
async def rolling_back(x: Any) -> Any:
    act(x)
    await ask(("vain", x))
    raise OSError(x)


@story(["x", "after"])
async def a_rollback_that_calls_tasks(ctx: Context) -> Any:
    found = []
    try:
        await rolling_back("x")
    except OSError as error:
        found.append(str(error))
    return [*found, await work("after")]


@task.with_options(rollback=_ask_to_undo)
async def rolled_back_when_cancelled(x: Any) -> Any:
    act(x)
    await work(("long", x), 600)


@story(["timeout", "after"])
async def a_rollback_of_a_cancelled_call_that_calls_tasks(ctx: Context) -> Any:
    found = []
    try:
        async with asyncio.timeout(4):
            await asyncio.gather(rolled_back_when_cancelled("x"), work("beside", 1))
    except TimeoutError:
        found.append("timeout")
    return [*found, await work("after")]


@task.with_options(timeout=3, retry_max_attempts=1, retry_delay=1)
async def never_in_time() -> Any:
    act("hasty")
    return [await ask("kept"), await work("slow", 600)]


@story(["ExecutionTimeoutError", "after"], same="output")
async def an_attempt_that_times_out_over_an_inner_call(ctx: Context) -> Any:
    try:
        await never_in_time()
    except ExecutionTimeoutError as error:
        found = type(error.inner_exception.inner_exception).__name__  # type: ignore[attr-defined]
    return [found, await work("after")]


@task.with_options(cache=True)
async def cached(x: Any) -> Any:
    act(x)
    return await work(("cached", x))


@story([["cached", 1], ["cached", 1], ["cached", 2], [["cached", 1], ["cached", 3]]])
async def cached_results(ctx: Context) -> Any:
    return [await cached(1), await cached(1), await cached(2), await calling_cached()]


@task
async def calling_cached() -> Any:
    return [await cached(1), await cached(3)]


# -- pauses in tasks


@task
async def asking(name: str) -> Any:
    act(name)
    return [await work(name), await pause(name), await work(("then", name))]


@story([["p", "p", ["then", "p"]], "after"])
async def a_pause_in_a_task(ctx: Context) -> Any:
    return [await asking("p"), await work("after")]


@story([["p", "p", ["then", "p"]], ["q", "q", ["then", "q"]], "r"], answers_after=7)
async def pauses_in_tasks_beside_others(ctx: Context) -> Any:
    return await asyncio.gather(asking("p"), asking("q"), pause("r"))


@task
async def asking_twice() -> Any:
    act("twice")

    async def one(name: str) -> Any:
        return [await ask(name), await pause(name), await ask(f"then {name}")]

    return await asyncio.gather(one("left"), one("right"), branch("beside", 2))


@story([["left", "left", "then left"], ["right", "right", "then right"], marks("beside", 2)])
async def two_pauses_in_branches_of_a_task(ctx: Context) -> Any:
    return await asking_twice()


@story([["left", "left", "then left"], ["right", "right", "then right"], marks("beside", 2)], answers_after=2)
async def two_pauses_in_branches_of_a_task_answered_soon(ctx: Context) -> Any:
    return await asking_twice()


@task
async def asking_deeper(name: str) -> Any:
    act(name)
    return await asyncio.gather(asking(name), ask("beside"))


@story([[["p", "p", ["then", "p"]], "beside"], "after"])
async def a_pause_in_a_nested_task(ctx: Context) -> Any:
    return [await asking_deeper("p"), await work("after")]


@task.with_options(timeout=20)
async def asking_patiently() -> Any:
    act("patient")
    try:
        await pause("never", timeout=5)
    except ExecutionTimeoutError as error:
        return [str(error), await pause("later"), await work("then")]


@story([["Pause never was not resumed in time (5s).", "later", "then"], "after"], answers_after=60)
async def a_pause_in_a_task_that_times_out(ctx: Context) -> Any:
    return [await asking_patiently(), await work("after")]


@story(["timeout", "r", "after"])
async def a_pause_in_a_task_that_the_body_gives_up(ctx: Context) -> Any:
    """Whoever answers later answers another pause: this one is closed."""
    try:
        async with asyncio.timeout(40):
            await asking_deeper("p")
    except TimeoutError:
        return ["timeout", await pause("r"), await work("after")]


@task.with_options(retry_max_attempts=2, retry_delay=1)
async def asking_again() -> Any:
    _, attempt = World.current.act("again")
    answer = await pause("once")
    if attempt < 2:
        raise OSError(attempt)
    return [answer, attempt]


@story([["once", 2], "after"])
async def an_answered_pause_answers_in_every_attempt(ctx: Context) -> Any:
    return [await asking_again(), await work("after")]


async def _undo_slowly(x: Any) -> Any:
    act(("undo", x))
    return [await ask(("undone", x)), await work(("undone", x), 4)]


@task.with_options(rollback=_undo_slowly)
async def to_be_undone(x: Any) -> Any:
    act(x)
    await work(("long", x), 600)


@task
async def giving_up(x: Any) -> Any:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(to_be_undone(x), 2)
    return await ask(("then", x))


@story([["then", "x"], "after"], same="output")
async def a_rollback_of_an_inner_call_that_calls_tasks(ctx: Context) -> Any:
    return [await giving_up("x"), await work("after")]


async def _undo_when_allowed(x: Any, seconds: float) -> Any:
    act(("undo", x))
    return [await pause("undo"), await ask(("undone", x))]


@task.with_options(rollback=_undo_when_allowed)
async def undone_when_allowed(x: Any, seconds: float) -> Any:
    act(x)
    await work(("long", x), seconds)
    raise OSError(x)


@story(["timeout", "x", "after"])
async def rollbacks_that_pause(ctx: Context) -> Any:
    """One of a cancelled call, then one of a failed one."""
    found = []
    try:
        async with asyncio.timeout(4):
            await undone_when_allowed("x", 600)
    except TimeoutError:
        found.append("timeout")
    try:
        await undone_when_allowed("x", 2)
    except OSError as error:
        found.append(str(error))
    return [*found, await work("after")]


# -- at most once


@task.with_options(at_most_once=True)
async def once(x: Any) -> Any:
    act(x)
    return await work(x)


@task.with_options(at_most_once=True, retry_max_attempts=1, retry_delay=2)
async def once_an_attempt(x: Any) -> Any:
    _, attempt = World.current.act(x)
    await ask(x)
    if not attempt:
        raise OSError(x)
    return x


async def or_interrupted(awaitable: Any) -> Any:
    try:
        return await awaitable
    except TaskInterruptedError:
        return "interrupted"


@task
async def calling_once(x: Any) -> Any:
    act(x)
    return [await once(x), await ask(x)]


def _unless_interrupted(left: Histories) -> Any:
    calls = History(left.get(EXECUTION, [])).calls
    types = {call_id: [event.type for event in record.progress] for call_id, record in calls.items()}
    is_open = {call_id for call_id, record in calls.items() if record.outcome is None}
    is_last = Type.TASK_RETRY_STARTED in types.get("2", []) and Type.TASK_RETRY_COMPLETED not in types["2"]
    return [
        "interrupted" if "1" in is_open else "a",
        "interrupted" if "2" in is_open and is_last else "b",
        "interrupted" if "3/1" in is_open else ["c", "c"],
    ]


@story(_unless_interrupted, same="output")
async def attempts_that_are_made_at_most_once(ctx: Context) -> Any:
    order = [await or_interrupted(once("a")), await or_interrupted(once_an_attempt("b"))]
    return [*order, await or_interrupted(calling_once("c"))]


# -- what tasks make of their cancellation


async def _never(x: Any) -> None:
    raise AssertionError(f"the fallback of {x!r} runs, although that was cancelled")


@task.with_options(retry_max_attempts=3, retry_delay=0, fallback=_never)
async def stubborn(x: Any) -> Any:
    act(x)
    try:
        await work(x, 600)
    except asyncio.CancelledError:
        raise OSError(x) from None


@task
async def swallowing(x: Any) -> Any:
    act(x)
    with contextlib.suppress(asyncio.CancelledError):
        await work(x, 600)
    return x


@story(["timeout", "after"])
async def cancelled_calls_that_fail_or_succeed_all_the_same(ctx: Context) -> Any:
    """That counts for nothing: they are not tried again, and no fallback takes their place."""
    try:
        async with asyncio.timeout(5):
            await asyncio.gather(stubborn("x"), swallowing("y"), work("z", 1))
    except TimeoutError:
        return ["timeout", await work("after")]


@task
async def cancelling_itself() -> Any:
    act("itself")
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    await ask("never")


@story(["the task cancelled itself, which would end more than itself", "after"], same="output")
async def a_task_that_cancels_itself(ctx: Context) -> Any:
    try:
        await cancelling_itself()
    except RuntimeError as error:
        return [str(error), await work("after")]
