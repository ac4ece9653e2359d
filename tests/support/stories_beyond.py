"""Stories of executions that meet others: children, signals, beginning anew, graphs, and cancellation."""

import asyncio
import contextlib
from datetime import timedelta
from typing import Any

from flux import call, pause, task, workflow
from flux.domain.execution import ExecutionState
from flux.errors import ExecutionCancelledError, ExecutionTimeoutError
from flux.tasks import Graph, continue_as_new, parallel, pipeline, sleep, wait_for_signal
from support.crashes import cancel, signal
from support.stories_in_tasks import asking, failing_after_a_success, rolled_back_when_cancelled
from support.story import Context, act, branch, gathering, marks, story
from support.world import World, ask, compute, fail, tidy, work

# -- children


@workflow.with_options(name="child_of_a_story", version="1")
async def child(ctx: Context) -> Any:
    found = await asyncio.gather(gathering(f"{ctx.input}"), ask(ctx.input))
    return [ctx.input, found, await work((ctx.input, "last"))]


def child_gives(name: str) -> list[Any]:
    return [name, [[marks(letter, 2) for letter in name], name], [name, "last"]]


@story([child_gives("a"), child_gives("b"), "after"])
async def children_in_sequence(ctx: Context) -> Any:
    return [await child("a"), await call("child_of_a_story", "b"), await work("after")]


@story([child_gives("a"), child_gives("b"), child_gives("a"), marks("beside")])
async def children_in_a_gather(ctx: Context) -> Any:
    return await asyncio.gather(child("a"), child("b"), child("a"), branch("beside"))


@workflow.with_options(name="failing_child", version="1")
async def failing_child(ctx: Context) -> Any:
    await work(ctx.input)
    await fail(ctx.input)


@story(["boom", "after"])
async def a_child_that_fails(ctx: Context) -> Any:
    try:
        await asyncio.gather(failing_child("boom"), child("a"))
    except ValueError as error:
        return [str(error), await work("after")]


@story("boom", state=ExecutionState.FAILED)
async def a_child_that_fails_its_parent(ctx: Context) -> Any:
    await parallel(failing_child("boom"), work("beside", 0.5))


@workflow.with_options(name="grandparent", version="1")
async def parenting(ctx: Context) -> Any:
    return await asyncio.gather(*(call("child_of_a_story", name) for name in ctx.input), branch(f"of {ctx.input}", 2))


@story([[child_gives("a"), marks("of a", 2)], [child_gives("b"), child_gives("c"), marks("of bc", 2)]])
async def grandchildren(ctx: Context) -> Any:
    return await asyncio.gather(parenting("a"), parenting("bc"))


@workflow.with_options(name="asking_child", version="1")
async def asking_child(ctx: Context) -> Any:
    return [await work(ctx.input), await pause(f"p{ctx.input}"), await asking(f"q{ctx.input}")]


def asked(n: int) -> list[Any]:
    return [n, f"p{n}", [f"q{n}", f"q{n}", ["then", f"q{n}"]]]


@story([asked(1), asked(2), "r", "after"])
async def children_that_pause(ctx: Context) -> Any:
    return [*await asyncio.gather(asking_child(1), asking_child(2), pause("r")), await work("after")]


@story([asked(1), asked(2), marks("beside")], answers_after=3)
async def children_that_pause_and_are_answered_soon(ctx: Context) -> Any:
    return await asyncio.gather(asking_child(1), asking_child(2), branch("beside"))


@workflow.with_options(name="patient_child", version="1")
async def patient_child(ctx: Context) -> Any:
    try:
        await asyncio.gather(work(("long", ctx.input), 600), gathering("ab"))
    finally:
        await asyncio.gather(branch(("clean-up", ctx.input), 2), work(("tidy", ctx.input)))


@story(["timeout", "after"])
async def a_child_that_is_cancelled_by_a_timeout(ctx: Context) -> Any:
    try:
        async with asyncio.timeout(7):
            await asyncio.gather(patient_child("x"), child("a"))
    except TimeoutError:
        return ["timeout", await work("after")]


@workflow.with_options(name="stubborn_child", version="1")
async def stubborn_child(ctx: Context) -> Any:
    with contextlib.suppress(asyncio.CancelledError):
        await sleep(3600)
    return [await work(ctx.input), await ask(ctx.input)]


@story(["timeout", "after"])
async def a_child_that_swallows_its_cancellation(ctx: Context) -> Any:
    try:
        async with asyncio.timeout(3):
            await stubborn_child("x")
    except TimeoutError:
        return ["timeout", await work("after")]


@story(["ExecutionCancelledError", "after"], cancel(3, to=("1",)))
async def a_child_that_somebody_else_cancels(ctx: Context) -> Any:
    try:
        await patient_child("x")
    except ExecutionCancelledError as error:
        return [type(error).__name__, await work("after")]


@story("parent is done")
async def a_child_that_is_left_running(ctx: Context) -> Any:
    left = [asyncio.create_task(patient_child("x")), asyncio.create_task(asking_child(1))]
    await sleep(4)
    del left[1:]
    return "parent is done"


@story([child_gives("a"), [child_gives("b"), child_gives("c")], child_gives("d")])
async def children_in_combinators(ctx: Context) -> Any:
    graph = Graph("of_children").add_node("one", call_child_by_name).start_with("one").end_with("one")
    first = await graph("a")
    return [first, await parallel(child("b"), child("c"), max_concurrent=1), await pipeline(child, input="d")]


async def call_child_by_name(name: str) -> Any:
    return await call("child_of_a_story", name)


@workflow.with_options(name="listening_child", version="1")
async def listening_child(ctx: Context) -> Any:
    return [await wait_for_signal("go"), await ask(ctx.input), await wait_for_signal("go")]


@story(
    [["one", "x", "two"], ["only", "y", "late"]],
    *(signal(1, "go", "one", to=("1",)), signal(2, "go", "two", to=("1",))),
    *(signal(9, "go", "only", to=("2",)), signal(90, "go", "late", to=("2",))),
)
async def signals_to_children(ctx: Context) -> Any:
    return await asyncio.gather(listening_child("x"), listening_child("y"))


@workflow.with_options(name="counting_child", version="1")
async def counting_child(ctx: Context) -> Any:
    found = [*ctx.input, await ask(len(ctx.input))]
    if len(found) < 3:
        await continue_as_new(found)
    return found


@story([[0, 1, 2], [0, 1, 2]])
async def children_that_begin_anew(ctx: Context) -> Any:
    return await asyncio.gather(counting_child([]), counting_child([]))


# -- signals


@story(["early", "second", "after"], signal(0.5, "go", "early"), signal(1, "go", "second"))
async def signals_that_come_before_they_are_waited_for(ctx: Context) -> Any:
    await work("slow", 4)
    return [await wait_for_signal("go"), await wait_for_signal("go"), await work("after")]


@story([1, 2, 3, "after"], signal(5, "go", 1), signal(5, "go", 2), signal(9, "go", 3), same="effects")
async def several_signals_of_one_name(ctx: Context) -> Any:
    found = [await wait_for_signal("go") for _ in range(3)]
    return [*found, await work("after")]


@story(
    [["b1", "b2"], "a1", "c1", marks("beside")],
    *(signal(2, "a", "a1"), signal(3, "b", "b1"), signal(9, "b", "b2"), signal(20, "c", "c1")),
)
async def signals_of_several_names(ctx: Context) -> Any:
    async def twice() -> Any:
        return [await wait_for_signal("b"), await wait_for_signal("b")]

    return await asyncio.gather(twice(), wait_for_signal("a"), wait_for_signal("c"), branch("beside"))


@story(
    ["in time", "timeout", "late", "after"],
    *(signal(2, "go", "in time"), signal(30, "go", "late")),
)
async def signals_and_timeouts(ctx: Context) -> Any:
    found = [await wait_for_signal("go", timeout=10)]
    try:
        await wait_for_signal("go", timeout=5)
    except ExecutionTimeoutError:
        found.append("timeout")
    return [*found, await wait_for_signal("go"), await work("after")]


@task
async def send_to_myself(name: str, value: Any) -> Any:
    place, _ = World.current.act(value)
    World.current.send(place, name, value)  # type: ignore[attr-defined]
    return await work(("sent", value))


@story([[["sent", 1], ["sent", 2]], 1, 2])
async def signals_of_its_own_tasks(ctx: Context) -> Any:
    sent = [await send_to_myself("go", 1), await send_to_myself("go", 2)]
    return [sent, await wait_for_signal("go"), await wait_for_signal("go")]


@story([["kept", "for later"], "after"], signal(1, "go", "kept"), signal(2, "go", "for later"))
async def signals_that_nobody_took_go_with_it(ctx: Context) -> Any:
    if ctx.input is None:
        await work("slow", 6)
        await continue_as_new("second")
    return [[await wait_for_signal("go"), await wait_for_signal("go")], await work("after")]


# -- beginning anew


@story([["a", "b", 2], "after"])
async def three_generations(ctx: Context) -> Any:
    n = ctx.input or 0
    found = await asyncio.gather(ask("a"), ask("b"))
    if n < 2:
        await sleep(3)
        await continue_as_new(n + 1)
    return [[*found, n], await work("after")]


@story([child_gives("2"), [["2", "p", "p"], "after"]])
async def generations_with_children_and_pauses(ctx: Context) -> Any:
    n = ctx.input or 0
    found = await child(f"{n}")
    if n < 2:
        await continue_as_new(n + 1)
    return [found, [[await ask(f"{n}"), await pause("p"), (await asking("p"))[1]], await work("after")]]


@story(["second", "p", ["go", 2]], signal(30, "go", 2))
async def a_generation_that_leaves_calls_behind(ctx: Context) -> Any:
    if ctx.input is None:
        left = [asyncio.ensure_future(each) for each in (patient_child("x"), asking("q"), tidy(1), pause("q"))]
        await work("meanwhile", 4)
        del left[2:]
        await continue_as_new("second")
    return [ctx.input, await pause("p"), ["go", await wait_for_signal("go")]]


# -- graphs


def _is_odd(x: int) -> bool:
    return x % 2 == 1


def _is_even(x: int) -> bool:
    return not _is_odd(x)


@task
async def weigh(x: Any, y: Any = None) -> Any:
    act([x, y])
    return [await work(x), await work(y)]


@story([[[4, None], [5, None]], "after"])
async def a_graph_with_branches(ctx: Context) -> Any:
    graph = (
        Graph("weighing")
        .add_node("begin", work)
        .add_node("odd", compute)
        .add_node("even", work)
        .add_node("join", weigh)
        .add_edge("begin", "odd", condition=_is_odd)
        .add_edge("begin", "even", condition=_is_even)
        .add_edge("even", "join")
        .add_edge("odd", "join")
        .start_with("begin")
        .end_with("join")
    )
    four, five = await asyncio.gather(graph(4), graph(5))
    return [[four, [five[1] // 5, five[0]]], await work("after")]


# -- cancelled


@task
async def long(x: Any) -> Any:
    act(x)
    await gathering("ab")
    await work(("long", x), 600)


async def clean_up(x: Any) -> None:
    await asyncio.gather(branch(("clean", x), 2), gathering("cd"))


@story(None, cancel(9), state=ExecutionState.CANCELLED, same="effects")
async def cancelled_in_inner_calls_and_cleaning_up(ctx: Context) -> Any:
    try:
        await asyncio.gather(long("x"), long("y"), tidy(1), work("z", 600))
    finally:
        await clean_up("up")


@story(["swallowed", "then", "after"], cancel(3), cancel(20))
async def a_cancellation_that_is_swallowed(ctx: Context) -> Any:
    found = []
    try:
        await long("x")
    except asyncio.CancelledError:
        found.append("swallowed")
    await sleep(30)
    return [*found, await ask("then"), await work("after")]


@story(None, cancel(6), state=ExecutionState.CANCELLED)
async def cancelled_in_a_back_off(ctx: Context) -> Any:
    try:
        await asyncio.gather(always_failing("x"), failing_after_a_success(9))
    finally:
        await clean_up("up")


@task.with_options(retry_max_attempts=5, retry_delay=600)
async def always_failing(x: Any) -> Any:
    act(x)
    raise OSError(await ask(x))


async def _fall_back_for_long(x: Any) -> Any:
    act(("instead", x))
    return [await ask(x), await work(x, 600)]


@task.with_options(fallback=_fall_back_for_long)
async def falling_back_for_long(x: Any) -> Any:
    act(x)
    raise OSError(x)


@story(None, cancel(6), state=ExecutionState.CANCELLED)
async def cancelled_in_a_fallback(ctx: Context) -> Any:
    try:
        await falling_back_for_long("x")
    finally:
        await clean_up("up")


async def _undo_for_long(x: Any) -> Any:
    act(("undo", x))
    return [await ask(x), await work(("undone", x), 30)]


@task.with_options(rollback=_undo_for_long)
async def rolling_back_for_long(x: Any) -> Any:
    act(x)
    raise OSError(x)


@story(None, cancel(6), state=ExecutionState.CANCELLED, same="effects")
async def cancelled_in_a_rollback(ctx: Context) -> Any:
    try:
        await rolling_back_for_long("x")
    finally:
        await clean_up("up")


@story(None, cancel(40), state=ExecutionState.CANCELLED)
async def cancelled_in_pauses(ctx: Context) -> Any:
    try:
        await asyncio.gather(wait_for_signal("never"), pause_for_ever("x"), listening_child("y"))
    finally:
        await clean_up("up")


@task
async def pause_for_ever(x: Any) -> Any:
    act(x)
    await asyncio.gather(work(x), pause("never", timeout=10_000))


@story(None, cancel(100), state=ExecutionState.CANCELLED)
async def cancelled_in_a_sleep(ctx: Context) -> Any:
    try:
        await sleep(timedelta(days=3))
    finally:
        await clean_up("up")


@story(None, cancel(7), state=ExecutionState.CANCELLED)
async def cancelled_with_its_children(ctx: Context) -> Any:
    try:
        await asyncio.gather(patient_child("x"), parenting("ab"), stubborn_child("z"), child("c"))
    finally:
        await clean_up("up")


@story(None, cancel(3), state=ExecutionState.CANCELLED)
async def cancelled_in_a_signal_wait(ctx: Context) -> Any:
    try:
        await asyncio.gather(wait_for_signal("never"), wait_for_signal("never", timeout=600))
    finally:
        await clean_up("up")


@story(None, cancel(6), state=ExecutionState.CANCELLED)
async def cancelled_in_combinators(ctx: Context) -> Any:
    try:
        await parallel(long("x"), pipeline(work, gathering, long, input="ab"), weigh.map([1, 2]))
    finally:
        await clean_up("up")


@story(None, cancel(4), state=ExecutionState.CANCELLED)
async def cancelled_and_rolled_back(ctx: Context) -> Any:
    try:
        await asyncio.gather(rolled_back_when_cancelled("x"), work("y", 600))
    finally:
        await clean_up("up")
