"""The table of asyncio constructs, each as the body of a workflow; this module is for every law that bodies keep.

A body returns plain values, and what it returns depends on the order in which things happened wherever it can.
"""

import asyncio
import contextlib
import contextvars
import gc
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import timedelta
from typing import Any

from flux import ExecutionContext, pause, workflow
from flux.tasks import parallel, pipeline, sleep
from flux.workflow import Workflow
from support.world import compute, fail, flaky, hasty, tidy, with_fallback, with_rollback, work, work_in_thread

Body = Callable[[ExecutionContext[Any]], Coroutine[Any, Any, Any]]

TABLE: dict[str, Workflow[Any, Any]] = {}
PAUSING: set[str] = set()
FAILING = {"failing_body", "raising_body"}

# What comes next depends on something that a crash loses even in a world that remembers:
WORLD_DECIDES = {
    "timeout_of_a_task_that_tidies_up",  # the clean-up of a cancelled attempt is not made again,
    "timeout_of_a_task_of_its_own",  # the timeout of an interrupted attempt begins anew.
}
CHANCE = {"tenacity_with_random_waits"}  # A wait that is not over yet is drawn again: times differ, the order does not.
# What these return does not depend on when things end.
ORDER_INSENSITIVE = {
    "deep_awaits",
    "failing_body",
    "gather_nested",
    "gather_returning_exceptions",
    "nothing_awaited",
    "pause_between_calls",
    "raising_body",
    "tenacity_retries",
    "tenacity_with_random_waits",
}


def body(func: Body) -> Body:
    """Add a workflow to the table."""
    TABLE[func.__name__] = workflow.with_options(version="1")(func)
    return func


def pausing(func: Body) -> Body:
    """Add a workflow that waits for somebody outside."""
    PAUSING.add(func.__name__)
    return body(func)


# -- gather


@body
async def gather_of_two_sequences(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def sequence(name: str) -> str:
        for step in range(4):
            order.append(await work((name, step)))
        return name

    return await asyncio.gather(sequence("a"), sequence("b")), order


@body
async def gather_of_equal_calls(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def branch(name: str) -> None:
        for _ in range(3):
            order.append((name, await work("equal")))

    await asyncio.gather(*(branch(name) for name in "abc"))
    return order


@body
async def gather_returning_exceptions(ctx: ExecutionContext[Any]) -> Any:
    results = await asyncio.gather(work(1), fail(2), work(3), fail(4), return_exceptions=True)
    return [str(result) for result in results]


@body
async def gather_nested(ctx: ExecutionContext[Any]) -> Any:
    return await asyncio.gather(*(asyncio.gather(work(i), work(i + 10)) for i in range(4)))


@body
async def gather_failing_while_others_go_on(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def sequence(name: str) -> None:
        for step in range(3):
            order.append(await work((name, step)))

    try:
        await asyncio.gather(sequence("a"), sequence("b"), fail("x", 2))
    except ValueError as error:
        order.append(str(error))
    order.append(await work("after"))
    return order


@body
async def gather_with_one_cancelled(ctx: ExecutionContext[Any]) -> Any:
    tasks = [asyncio.create_task(work(i, 60 if i == 1 else None)) for i in range(3)]
    gathered = asyncio.gather(*tasks, return_exceptions=True)
    await work("first")
    tasks[1].cancel()
    return [type(result).__name__ for result in await gathered]


@body
async def gather_cancelled_as_a_whole(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def child(n: int) -> None:
        try:
            await work(n, 60)
        finally:
            order.append(await work(("clean-up", n)))

    gathered = asyncio.gather(*(child(n) for n in range(4)))
    await work("first", 1)
    gathered.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await gathered
    return [order, await work("after")]


@body
async def set_of_gatherings(ctx: ExecutionContext[Any]) -> Any:
    gatherings = {asyncio.gather(work(i, 60), work(-i, 60)) for i in range(1, 6)}
    await work("first", 1)
    for gathering in gatherings:
        gathering.cancel()
    await asyncio.gather(*gatherings, return_exceptions=True)
    order = [await work(("after", len(gatherings)))]
    done, _ = await asyncio.wait({asyncio.gather(work(i), compute(i)) for i in range(6)})
    order += [gathering.result() for gathering in done]
    return order


# -- TaskGroup


@body
async def task_group(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def child(n: int) -> int:
        for step in range(3):
            order.append(await work((n, step)))
        return n

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(child(n)) for n in range(3)]
    return order, [t.result() for t in tasks]


@body
async def task_group_aborted_by_two_failures(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def child(n: int) -> None:
        try:
            for step in range(4):
                order.append(await work((n, step)))
        finally:
            order.append(("finally", n))
            order.append(await work(("clean-up", n)))

    try:
        async with asyncio.TaskGroup() as group:
            for n in range(6):
                group.create_task(child(n))
            group.create_task(fail("boom", 3))
            group.create_task(fail("late", 3.2))
    except* ValueError as failures:
        order.append([str(error) for error in failures.exceptions])
    return order


@body
async def task_groups_nested(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []
    try:
        async with asyncio.TaskGroup() as outer:
            async with asyncio.TaskGroup() as inner:
                inner.create_task(fail(1))
                inner.create_task(work("inner", 60))
                outer.create_task(work("outer", 60))
    except BaseExceptionGroup as failures:
        order.append(_tree(failures))
    order.append(await work("after"))
    return order


@body
async def task_group_growing(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def child(group: asyncio.TaskGroup, depth: int) -> None:
        order.append(await work(depth))
        if depth:
            group.create_task(child(group, depth - 1))
            group.create_task(child(group, depth - 1))

    async with asyncio.TaskGroup() as group:
        group.create_task(child(group, 3))
    return order


# -- wait


@body
async def wait_for_all_in_a_set(ctx: ExecutionContext[Any]) -> Any:
    done, _ = await asyncio.wait({asyncio.ensure_future(work(i)) for i in range(8)})
    order = [t.result() for t in done]
    return [await work(x) for x in order[:3]] + order


@body
async def wait_first_completed(ctx: ExecutionContext[Any]) -> Any:
    pending = {asyncio.ensure_future(work(i)) for i in range(5)}
    order: list[Any] = []
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        order.append([t.result() for t in done])
        if len(order) < 3:
            pending.add(asyncio.ensure_future(work(("more", len(order)))))
    return order


@body
async def wait_first_exception(ctx: ExecutionContext[Any]) -> Any:
    tasks = {asyncio.ensure_future(work(i)) for i in range(8)} | {asyncio.ensure_future(fail(9, 2.5))}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    seen = [str(t.exception() or t.result()) for t in done]
    for t in pending:
        t.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return seen, len(pending), await work("after")


@body
async def wait_with_timeout(ctx: ExecutionContext[Any]) -> Any:
    tasks = {asyncio.ensure_future(work(i, i * 2)) for i in range(1, 6)}
    done, pending = await asyncio.wait(tasks, timeout=5)
    first = [t.result() for t in done]
    done, pending = await asyncio.wait(pending)
    return first, [t.result() for t in done]


@body
async def wait_with_one_given_up(ctx: ExecutionContext[Any]) -> Any:
    quick, slow = asyncio.ensure_future(work("quick", 1)), asyncio.ensure_future(work("slow", 50))
    await asyncio.wait({quick, slow}, return_when=asyncio.FIRST_COMPLETED)
    slow.cancel()
    await asyncio.wait({slow})
    return quick.result(), slow.cancelled(), await work("after")


# -- as_completed


@body
async def as_completed_with_coroutines(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []
    for first in asyncio.as_completed([work(i) for i in range(6)]):
        result = await first
        order.append((result, await work(("then", result))))
    return order


@body
async def as_completed_with_timeout(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []
    try:
        for first in asyncio.as_completed([work(i, 1.25 * i) for i in range(1, 6)], timeout=4):
            order.append(await first)
    except TimeoutError:
        order.append("timeout")
    order.append(await work("after"))
    return order


if sys.version_info >= (3, 13):

    @body
    async def as_completed_async(ctx: ExecutionContext[Any]) -> Any:
        tasks = [asyncio.ensure_future(work(i)) for i in range(6)]
        return [(tasks.index(t), t.result()) async for t in asyncio.as_completed(tasks)]


# -- timeouts


@body
async def wait_for(ctx: ExecutionContext[Any]) -> Any:
    order = [await asyncio.wait_for(work(1), 60)]
    for seconds in (2, 0, -1):
        try:
            await asyncio.wait_for(work(2, 30), seconds)
        except TimeoutError:
            order.append(("timeout", seconds))
    order.append(await asyncio.wait_for(asyncio.create_task(work(3)), None))
    return order


@body
async def timeout_blocks(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(50):
            async with asyncio.timeout(4) as scope:
                order.append(await work(1, 1))
                await work(2, 50)
    except TimeoutError:
        order.append(("inner", scope.expired()))
    async with asyncio.timeout(3) as scope:
        scope.reschedule(loop.time() + 20)
        order.append(await work(3, 8))
    for when in (loop.time() - 1, loop.time(), loop.time() + 1.5):
        try:
            async with asyncio.timeout_at(when):
                await work(4, 10)
        except TimeoutError:
            order.append("past")
    return order


@body
async def timeouts_nested_with_one_deadline(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []
    try:
        async with asyncio.timeout(5):
            try:
                async with asyncio.timeout(5):
                    await work(1, 50)
            except TimeoutError:
                order.append("inner")
            order.append(await work(2, 1))
    except TimeoutError:
        order.append("outer")
    return [*order, await work(3)]


@body
async def timeout_of_a_task_that_tidies_up(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []
    try:
        async with asyncio.timeout(2):
            await asyncio.gather(tidy(1), work(2, 1), tidy(3))
    except TimeoutError:
        order.append(asyncio.get_running_loop().time())
    return [*order, await work("after")]


@body
async def timeout_of_a_task_of_its_own(ctx: ExecutionContext[Any]) -> Any:
    results = await asyncio.gather(hasty(1, 1.0), hasty(2, 30.0), hasty(3, 1.2), return_exceptions=True)
    return [str(result) for result in results]


# -- cancelling


@body
async def shield(ctx: ExecutionContext[Any]) -> Any:
    inner = asyncio.create_task(work(1, 5))
    order: list[Any] = []
    try:
        await asyncio.wait_for(asyncio.shield(inner), 1)
    except TimeoutError:
        order.append("timeout")
    order.append(await inner)
    return order


@body
async def cancel_and_uncancel(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def child() -> None:
        try:
            await work(1, 50)
        except asyncio.CancelledError as error:
            me = asyncio.current_task()
            assert me is not None
            order.append((error.args, me.cancelling(), me.uncancel()))
        order.append(await work(2))
        try:
            await work(3, 50)
        finally:
            order.append(await work("clean-up"))

    started = asyncio.create_task(child())
    await work("a")
    started.cancel("why")
    await work("b", 10)
    started.cancel()
    try:
        await started
    except asyncio.CancelledError:
        order.append("cancelled")
    return order


@body
async def set_of_tasks_cancelled(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def child(n: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            order.append(await work(n))

    children = {asyncio.create_task(child(n)) for n in range(8)}
    await work("first")
    for one in children:
        one.cancel()
    await asyncio.wait(children)
    return order


@body
async def leftovers_are_cancelled_at_the_end(ctx: ExecutionContext[Any]) -> Any:
    async def child(n: int) -> None:
        try:
            await work(n, 100)
        finally:
            await work(("never", n))

    kept = [asyncio.create_task(child(n)) for n in range(3)]
    return len(kept), await work("last", 3)


# -- queues and locks


@body
async def queues(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    by_priority: asyncio.PriorityQueue[Any] = asyncio.PriorityQueue()
    stack: asyncio.LifoQueue[int] = asyncio.LifoQueue()

    async def worker(n: int) -> None:
        while True:
            x = await queue.get()
            order.append((n, await work(x)))
            by_priority.put_nowait((-x, n))
            stack.put_nowait(x)
            queue.task_done()

    workers = [asyncio.create_task(worker(n)) for n in range(3)]
    for x in range(8):
        await queue.put(x)
    await queue.join()
    for w in workers:
        w.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    while not by_priority.empty():
        order.append(await by_priority.get())
    while not stack.empty():
        order.append(stack.get_nowait())
    return order


@body
async def locks(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []
    event, lock, gate = asyncio.Event(), asyncio.Lock(), asyncio.BoundedSemaphore(2)
    condition, barrier = asyncio.Condition(), asyncio.Barrier(3)

    async def child(n: int) -> None:
        await event.wait()
        async with gate:
            order.append(("gate", n, await work(n)))
        async with lock:
            order.append(("lock", n, await work(n)))
        order.append(("barrier", n, await barrier.wait()))
        async with condition:
            await condition.wait()
            order.append(("condition", n))

    children = [asyncio.create_task(child(n)) for n in range(3)]
    await work("go")
    event.set()
    while sum(1 for entry in order if entry[0] == "barrier") < 3:
        await asyncio.sleep(2)
    async with condition:
        condition.notify_all()
    await asyncio.gather(*children)
    return order


@body
async def semaphore_with_cancelled_waiters(ctx: ExecutionContext[Any]) -> Any:
    gate, order = asyncio.Semaphore(2), []

    async def child(n: int) -> None:
        try:
            async with asyncio.timeout(4 + n):
                async with gate:
                    order.append((n, await work(n)))
        except TimeoutError:
            order.append((n, "timeout"))

    await asyncio.gather(*(child(n) for n in range(6)))
    return order


# -- generators, contexts, names


@body
async def async_generators(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def numbers(n: int) -> AsyncIterator[Any]:
        try:
            for i in range(4):
                yield await work((n, i))
        finally:
            order.append(("closed", n, await work(("clean-up", n))))

    async for x in numbers(1):
        order.append(x)
    second = numbers(2)
    order.append(await anext(second))
    await second.aclose()  # type: ignore[attr-defined]
    async for x in numbers(3):
        order.append(x)
        break
    del x
    gc.collect()
    order.append(await anext(aiter(numbers(4))))
    gc.collect()
    order.extend([await work(("tail", i)) for i in range(3)])
    await asyncio.get_running_loop().shutdown_asyncgens()
    return order


VARIABLE: contextvars.ContextVar[int] = contextvars.ContextVar("VARIABLE", default=0)


@body
async def context_variables(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def child(n: int) -> None:
        VARIABLE.set(VARIABLE.get() + n)
        await work(n)
        order.append((n, VARIABLE.get()))

    VARIABLE.set(100)
    await asyncio.gather(*(child(n) for n in range(4)))
    context = contextvars.copy_context()
    await asyncio.create_task(child(50), context=context)
    return order, VARIABLE.get(), context[VARIABLE]


@body
async def task_names(ctx: ExecutionContext[Any]) -> Any:
    me = asyncio.current_task()
    assert me is not None
    children = [asyncio.create_task(work(i), name=f"named-{i}") for i in range(2)]
    children += [asyncio.create_task(work(i)) for i in range(4)]
    names = [me.get_name(), *(t.get_name() for t in asyncio.all_tasks())]
    await work("between")
    names += [t.get_name() for t in asyncio.all_tasks()]
    await asyncio.gather(*children)
    return names, asyncio.all_tasks() == {me}


if sys.version_info >= (3, 12):

    @body
    async def eager_tasks(ctx: ExecutionContext[Any]) -> Any:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        order: list[Any] = []

        async def child(n: int) -> None:
            order.append(("started", n))
            order.append(await work(n))

        async with asyncio.TaskGroup() as group:
            for n in range(4):
                group.create_task(child(n))
        return order


# -- futures and timers


@body
async def futures_of_the_loop(ctx: ExecutionContext[Any]) -> Any:
    loop = asyncio.get_running_loop()
    order: list[Any] = []
    soon, later = loop.create_future(), loop.create_future()
    loop.call_soon(soon.set_result, 1)
    loop.call_later(2, later.set_result, 2)
    loop.call_later(1, order.append, "never").cancel()
    loop.call_at(loop.time() - 1, order.append, "past")
    order += [await soon, await later]
    waiting = {loop.create_future(): n for n in range(6)}
    for future in set(waiting):
        future.set_result(waiting[future])
    for future in set(waiting):
        order.append(await work(await future))
    return order


@body
async def equal_timers(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def child(n: int) -> None:
        await asyncio.sleep(2)
        order.append(n)
        order.append(await work(n))

    await asyncio.gather(*(child(n) for n in range(6)))
    return order


@body
async def durable_sleeps(ctx: ExecutionContext[Any]) -> Any:
    loop = asyncio.get_running_loop()
    order = [loop.time()]
    await sleep(timedelta(days=30))
    order.append(loop.time())
    order.append(await work("after a month"))
    await asyncio.gather(sleep(86400), asyncio.sleep(3600), work("meanwhile"), asyncio.sleep(0), asyncio.sleep(-1))
    order.append(loop.time())
    return order


@body
async def timers_and_tasks_racing(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def ticks() -> None:
        for i in range(5):
            await asyncio.sleep(0.7)
            order.append(("tick", i, asyncio.get_running_loop().time()))

    async def steps() -> None:
        for i in range(3):
            order.append(await work(i))

    await asyncio.gather(ticks(), steps())
    return order


# -- the rest of what bodies do


@body
async def background_error(ctx: ExecutionContext[Any]) -> Any:
    async def bad() -> None:
        await work(1, 1)
        raise KeyError("in the background")

    background = asyncio.create_task(bad())
    order = [await work(2, 3), background.done()]
    del background
    gc.collect()
    order.append(await work(3))
    return order


@body
async def deep_awaits(ctx: ExecutionContext[Any]) -> Any:
    async def deep(n: int) -> int:
        return await deep(n - 1) + 1 if n else int(await work(0))

    return await deep(200)


@body
async def nothing_awaited(ctx: ExecutionContext[Any]) -> Any:
    return 3


@body
async def failing_body(ctx: ExecutionContext[Any]) -> Any:
    await work(1)
    await asyncio.gather(work(2), fail(3))


@body
async def raising_body(ctx: ExecutionContext[Any]) -> Any:
    raise LookupError(await work("lost"))


@body
async def threads_and_computations(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def child(n: int) -> None:
        order.append(await work_in_thread(n))
        order.append(await work(n))
        order.append(await compute(n))

    await asyncio.gather(*(child(n) for n in range(3)))
    return order


@body
async def history_as_the_body_sees_it(ctx: ExecutionContext[Any]) -> Any:
    seen = [len(ctx.events)]

    async def child(n: int) -> None:
        for _ in range(3):
            await work(n)
            seen.append(len(ctx.events))

    await asyncio.gather(*(child(n) for n in range(3)))
    return seen, [e.type.value for e in ctx.events]


# -- Flux's own


@body
async def parallel_and_pipeline(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = list(await parallel(work(1), work(2), work(3), max_concurrent=2))
    order.append(await pipeline(compute, compute, work, input=3))
    order.append(await parallel(pipeline(work, compute, input=2), pipeline(work, compute, input=3), work(9)))
    order.append(await parallel(work(1), fail(2), raise_on_error=False))
    try:
        await parallel(work("slow", 60), fail("quick", 1), work("sibling", 2))
    except ValueError as error:
        order.append(str(error))
    order.append(await work.map(range(4), max_concurrent=2))
    return order


@body
async def retries(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def child(failures: int) -> None:
        try:
            order.append(await flaky(f"f{failures}", failures))
        except OSError as error:
            order.append(str(error))

    await asyncio.gather(*(child(n) for n in range(5)))
    return order


@body
async def fallbacks_and_rollbacks(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []
    order.append(await asyncio.gather(*(with_fallback(n, n) for n in range(4))))
    for result in await asyncio.gather(*(with_rollback(n, n) for n in range(4)), return_exceptions=True):
        order.append(str(result))
    return order


@body
async def retries_given_up(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []
    try:
        async with asyncio.timeout(4):
            await asyncio.gather(flaky("a", 9), flaky("b", 9), with_rollback("c", 9))
    except TimeoutError:
        order.append("timeout")
    return [*order, await work("after")]


@pausing
async def pause_between_calls(ctx: ExecutionContext[Any]) -> Any:
    order = [await work(1), await pause("first", output={"x": 1})]
    return [*order, await work(2), await pause("second"), await work(3)]


@pausing
async def pauses_in_branches(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def child(n: int) -> None:
        order.append(await work(n))
        order.append(await pause(f"p{n}"))
        order.append(await work(("then", n)))

    await asyncio.gather(*(child(n) for n in range(3)), work("beside"))
    return order


@pausing
async def pause_that_times_out(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []
    try:
        await asyncio.gather(pause("never", timeout=20), work(1), work(2))
    except TimeoutError as error:
        order.append(str(error))
    order.append(await pause("answered"))
    return [*order, await work(3)]


@pausing
async def pause_cancelled_by_the_first_of_two(ctx: ExecutionContext[Any]) -> Any:
    branches = {asyncio.ensure_future(pause("left")), asyncio.ensure_future(pause("right"))}
    done, pending = await asyncio.wait(branches, return_when=asyncio.FIRST_COMPLETED)
    for branch in pending:
        branch.cancel()
    await asyncio.wait(pending)
    return [[t.result() for t in done], await work("after"), await pause("last")]


@pausing
async def pause_in_an_async_generator(ctx: ExecutionContext[Any]) -> Any:
    order: list[Any] = []

    async def answers() -> AsyncIterator[Any]:
        try:
            for name in ("first", "second"):
                yield await pause(name)
        finally:
            order.append(await work("clean-up"))

    async for answer in answers():
        order.append(answer)
    return order


# -- libraries

try:
    import anyio
    import tenacity
except ImportError:  # They are not needed for anything else.
    pass
else:

    @body
    async def anyio_groups_and_streams(ctx: ExecutionContext[Any]) -> Any:
        order: list[Any] = []

        async def child(n: int) -> None:
            await anyio.sleep(1)
            order.append((n, await work(n)))

        async with anyio.create_task_group() as group:
            for n in range(4):
                group.start_soon(child, n)
        with anyio.move_on_after(2) as scope:
            await work(9, 50)
        order.append(scope.cancelled_caught)
        try:
            with anyio.fail_after(3):
                await anyio.sleep(60)
        except TimeoutError:
            order.append("fail_after")
        sender, receiver = anyio.create_memory_object_stream[int](1)

        async def produce() -> None:
            async with sender:
                for n in range(3):
                    await sender.send(await work(n))

        async with anyio.create_task_group() as group:
            group.start_soon(produce)
            async with receiver:
                async for x in receiver:
                    order.append(x)
        return order

    @body
    async def anyio_group_aborted(ctx: ExecutionContext[Any]) -> Any:
        order: list[Any] = []

        async def child(n: int) -> None:
            try:
                await work(n, 50)
            finally:
                with anyio.CancelScope(shield=True):
                    order.append(await work(("clean-up", n)))

        try:
            async with anyio.create_task_group() as group:
                for n in range(5):
                    group.start_soon(child, n)
                group.start_soon(fail, "x", 2)
        except* ValueError as failures:
            order.append(str(failures.exceptions[0]))
        return order

    @body
    async def tenacity_retries(ctx: ExecutionContext[Any]) -> Any:
        order: list[Any] = []
        tries = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(4), wait=tenacity.wait_fixed(2), reraise=True)
        async for attempt in tries:
            with attempt:
                number = attempt.retry_state.attempt_number
                order.append(number)
                if number < 3:
                    await fail(number)
                order.append(await work(number))
        return order

    @body
    async def tenacity_with_random_waits(ctx: ExecutionContext[Any]) -> Any:
        count = 0
        wait = tenacity.wait_random(0, 4)
        async for attempt in tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(4), wait=wait, reraise=True):
            with attempt:
                count += 1
                if count < 4:
                    await fail(count)
        return count


def _tree(failures: BaseException) -> Any:
    if isinstance(failures, BaseExceptionGroup):
        return [_tree(failure) for failure in failures.exceptions]
    return str(failures)
