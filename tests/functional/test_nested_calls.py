"""Calls that a task makes while it runs: recorded like others, and known again in later attempts and after a crash."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, pause, task, workflow
from flux.errors import BodyError, ExecutionConflictError, ExecutionError, ExecutionTimeoutError
from flux.store.memory import Memory
from flux.tasks import parallel
from flux.testing import Bed
from functional.kit import Kit, failure, run_script, shape, times, types, whole
from functional.test_release import Gate, turns
from support.law import check_complete


@task
async def double(x: int) -> int:
    return 2 * x


@task
async def broken(x: int) -> int:
    raise ValueError(f"no {x}")


@task
async def slow(x: int, seconds: float) -> int:
    await asyncio.sleep(seconds)
    return x


def calling(function: Any, *arguments: Any) -> Any:
    """A workflow that calls one task."""

    @workflow
    async def caller(ctx: ExecutionContext[Any]) -> Any:
        return await function(*arguments)

    return caller


def checked(kit: Kit, ctx: Any) -> list[tuple[Any, ...]]:
    """The history, after it was compared with what a fresh app reads from the database."""
    assert whole(ctx) == whole(kit.stored(ctx.execution_id))

    return shape(ctx)


def started(ctx: Any) -> list[tuple[str, str]]:
    """The calls of a history, by id and name."""
    return [(event.call_id, event.name) for event in ctx.events if event.type == "TASK_STARTED"]


# -- results and errors


def test_a_call_inside_a_task_stands_between_the_start_and_the_end_of_that_task(both: Kit) -> None:
    @task
    async def outer(x: int) -> int:
        return await double(await double(x))

    ctx = both.run(calling(outer, 1))

    assert checked(both, ctx) == [
        ("WS", "caller", None),
        ("TS", "outer", {"x": 1}),
        ("TS", "double", {"x": 1}),
        ("TC", "double", 2),
        ("TS", "double", {"x": 2}),
        ("TC", "double", 4),
        ("TC", "outer", 4),
        ("WC", "caller", 4),
    ]
    assert started(ctx) == [("1", "outer"), ("1/1", "double"), ("1/2", "double")]
    assert [e.detail.get("parent") for e in ctx.events if e.type == "TASK_STARTED"] == [None, "1", "1"]


def test_calls_nest_as_deeply_as_their_tasks(both: Kit) -> None:
    @task
    async def down(depth: int) -> int:
        return 1 + await down(depth - 1) if depth else 0

    ctx = both.run(calling(down, 4))

    assert ctx.output == 4
    assert started(ctx) == [(i, "down") for i in ("1", "1/1", "1/1/1", "1/1/1/1", "1/1/1/1/1")]


@pytest.mark.parametrize("caught", [ExecutionError, ValueError], ids=["as ExecutionError", "as the original"])
def test_the_outer_task_may_catch_the_failure_of_an_inner_one(both: Kit, caught: type[Exception]) -> None:
    @task
    async def outer(x: int) -> str:
        try:
            return str(await broken(x))
        except caught as error:
            return f"{type(error.inner_exception).__name__}: {error.inner_exception}"  # type: ignore[attr-defined]

    ctx = both.run(calling(outer, 1))

    assert checked(both, ctx)[2:5] == [
        ("TS", "broken", {"x": 1}),
        ("TF", "broken", failure(ValueError, "no 1")),
        ("TC", "outer", "ValueError: no 1"),
    ]


def test_the_failure_of_an_inner_task_fails_the_outer_one_with_its_class(both: Kit) -> None:
    @task
    async def outer(x: int) -> int:
        return await broken(x)

    ctx = both.run(calling(outer, 1))

    checked(both, ctx)
    assert types(ctx) == ["WS", "TS", "TS", "TF", "TF", "WF"]
    assert isinstance(ctx.output, ValueError)
    assert isinstance(ctx.output, ExecutionError)
    assert str(ctx.output) == "no 1"


def test_a_result_of_an_inner_task_is_a_copy(both: Kit) -> None:
    """What the inner task keeps and changes afterwards is not what the outer one got."""
    kept: list[list[int]] = []

    @task
    async def inner() -> list[int]:
        kept.append([1])
        return kept[-1]

    @task
    async def outer() -> list[int]:
        mine = await inner()
        kept[-1].append(9)
        return mine

    assert both.run(calling(outer)).output == [1]


# -- attempts


def test_a_retry_of_the_outer_task_finds_what_succeeded_and_tries_anew_what_failed(both: Kit) -> None:
    ran: list[str] = []

    @task
    async def good(x: int) -> int:
        ran.append("good")
        return x

    @task
    async def flaky(x: int) -> int:
        ran.append("flaky")
        if ran.count("flaky") < 2:
            raise ValueError("once")
        return x

    @task.with_options(retry_max_attempts=1, retry_delay=0)
    async def outer(x: int) -> int:
        ran.append("outer")
        return await good(x) + await flaky(x)

    ctx = both.run(calling(outer, 1))

    assert ctx.output == 2
    assert ran == ["outer", "good", "flaky", "outer", "flaky"]
    assert started(ctx) == [("1", "outer"), ("1/1", "good"), ("1/2", "flaky"), ("1/2~2", "flaky")]
    first, second = ["TS", "TC", "TS", "TF", "RETRY_FAILED"], ["RETRY_STARTED", "TS", "TC", "RETRY_COMPLETED"]
    assert types(ctx)[2:] == [*first, *second, "TC", "WC"]


def test_a_pure_inner_task_runs_anew_in_each_attempt(both: Kit) -> None:
    read: list[int] = []

    @task.with_options(pure=True)
    async def look(x: int) -> int:
        read.append(x)
        return len(read)

    @task.with_options(retry_max_attempts=2, retry_delay=0)
    async def outer(x: int) -> int:
        seen = await look(x)
        if seen < 3:
            raise ValueError(seen)
        return seen

    ctx = both.run(calling(outer, 1))

    assert ctx.output == 3
    assert started(ctx)[1:] == [("1/1", "look"), ("1/1~2", "look"), ("1/1~3", "look")]


@pytest.mark.parametrize("change", ["another task", "another argument"])
def test_a_call_that_a_later_attempt_makes_otherwise_takes_the_next_id(both: Kit, change: str) -> None:
    attempts: list[int] = []

    @task.with_options(retry_max_attempts=1, retry_delay=0)
    async def outer() -> int:
        attempts.append(1)
        if len(attempts) == 1:
            await double(1)
            raise ValueError("again")
        other = double.with_options(name="other") if change == "another task" else double
        return await other(1 if change == "another task" else 5)

    ctx = both.run(calling(outer))

    assert ctx.output == (2 if change == "another task" else 10)
    assert [call_id for call_id, _ in started(ctx)] == ["1", "1/1", "1/1~2"]


def test_a_failure_that_the_attempt_goes_on_after_is_not_repeated_after_a_crash(kit: Kit) -> None:
    ran: list[str] = []

    @task
    async def failing(x: int) -> int:
        ran.append("failing")
        raise ValueError(x)

    @task
    async def outer(x: int) -> str:
        ran.append("outer")
        try:
            await failing(x)
        except ValueError:
            await asyncio.sleep(10)
        return "went on"

    kit.run_for(5, calling(outer, 1).run_async(None, execution_id="e"))
    ctx = kit.run(calling(outer, 1), execution_id="e")

    assert ctx.output == "went on"
    assert ran == ["outer", "failing", "outer"]  # The attempt is the same one, and so is its failure.


@pytest.mark.parametrize("handler", ["fallback", "rollback"])
def test_fallback_and_rollback_make_calls_of_their_own(both: Kit, handler: Any) -> None:
    async def instead(x: int) -> int:
        return await double(x + 100)

    @task.with_options(**{handler: instead})
    async def outer(x: int) -> int:
        await double(x)
        raise ValueError("no")

    ctx = both.run(calling(outer, 1))

    checked(both, ctx)
    assert started(ctx) == [("1", "outer"), ("1/1", "double"), (f"1/{handler}/1", "double")]
    assert ctx.output == (202 if handler == "fallback" else failure(ValueError, "no"))


# -- many at once


def test_a_task_may_make_calls_at_once(both: Kit) -> None:
    @task
    async def outer() -> Any:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(slow(i, 3 - i)) for i in range(3)]
        gathered = await asyncio.gather(double(1), double(2))
        return [[each.result() for each in tasks], gathered, await parallel(double(3)), await double.map([4, 5])]

    ctx = both.run(calling(outer))

    assert ctx.output == [[0, 1, 2], [2, 4], [6], [8, 10]]
    assert len({call_id for call_id, _ in started(ctx)}) == 9
    checked(both, ctx)


@pytest.mark.parametrize("crash_at", [0.5, 1.5, 2.5])
def test_equal_calls_in_branches_of_a_task_keep_their_own_results(kit: Kit, crash_at: float) -> None:
    """The branches make equal calls whose results differ, and a crash between them swaps nothing."""
    given: list[int] = []

    @task
    async def draw() -> int:
        given.append(len(given))
        number = given[-1]
        await asyncio.sleep([3, 1, 1, 1][number % 4])
        return number

    @task
    async def outer() -> Any:
        async def branch(name: str) -> Any:
            return [name, await draw(), await draw()]

        return await asyncio.gather(branch("a"), branch("b"))

    flow = calling(outer)
    kit.run_for(crash_at, flow.run_async(None, execution_id="e"))
    before = {e.call_id: e.value for e in kit.stored("e").events if e.type == "TASK_COMPLETED"}
    ctx = kit.run(flow, execution_id="e")

    results = {e.call_id: e.value for e in ctx.events if e.type == "TASK_COMPLETED"}
    assert before.items() <= results.items()
    (_, *of_a), (_, *of_b) = ctx.output
    assert of_a == [results["1/1:1"], results["1/1:2"]]
    assert of_b == [results["1/2:1"], results["1/2:2"]]
    assert len({*of_a, *of_b}) == 4


def test_what_a_task_leaves_running_at_its_end_is_cancelled(both: Kit) -> None:
    @task
    async def outer() -> str:
        left = asyncio.ensure_future(slow(1, 1000))
        await asyncio.sleep(1)
        return f"done {left.done()}"

    ctx = both.run(calling(outer))

    assert ctx.output == "done False"
    assert types(ctx) == ["WS", "TS", "TS", "TASK_CANCELLED", "TC", "WC"]
    assert both.clock.seconds == pytest.approx(1, abs=0.001)


def test_a_timeout_of_the_outer_task_cancels_the_inner_one(both: Kit) -> None:
    @task.with_options(timeout=2)
    async def outer() -> int:
        return await slow(1, 1000)

    ctx = both.run(calling(outer))

    assert types(ctx) == ["WS", "TS", "TS", "TASK_CANCELLED", "TF", "WF"]
    assert isinstance(ctx.output, ExecutionTimeoutError)


def test_a_plain_function_gives_its_call_to_the_loop_and_makes_none_in_its_thread(both: Kit) -> None:
    @task
    def gives(x: int) -> Any:
        return double(x)

    @task
    def makes(x: int) -> Any:
        return asyncio.run(double(x))  # type: ignore[arg-type]

    assert both.run(calling(gives, 1)).output == 2
    refused = both.run(calling(makes, 1)).output
    assert isinstance(refused, BodyError)
    assert "a `def` task cannot call tasks, so make 'makes' an `async def`" in str(refused)


# -- crashes


def test_a_killed_task_goes_on_after_its_last_finished_inner_task(home: Path) -> None:
    program = """
        @task
        async def first():
            count("first")
            return os.getpid()

        @task
        async def outer():
            count("outer")
            pid = await first()
            if once("died"):
                die()
            return pid != os.getpid()

        @workflow
        async def job(ctx: ExecutionContext[int]):
            return await outer()

        print(job.run(1, execution_id="e").output)
    """
    run_script(home, program, code=-9)

    assert run_script(home, program) == "True\n"
    assert (times(home, "first"), times(home, "outer")) == (1, 2)


def test_a_result_is_handed_to_a_task_when_it_is_on_disk(kit: Kit) -> None:
    """A task acts on the world, so nothing that it does may follow from what a crash would forget."""
    gate, seen = Gate(kit), []

    @task
    async def outer() -> int:
        result = await double(1)
        seen.append(types(kit.stored("e")))
        return result

    async def held_back() -> Any:
        gate.hold("TASK_COMPLETED")
        running = asyncio.ensure_future(calling(outer).run_async(None, execution_id="e"))
        await gate.holding()
        await turns()
        assert seen == []
        gate.open()
        return await running

    assert kit.drive(held_back()).output == 2
    assert seen == [["WS", "TS", "TS", "TC"]]


# -- a pause inside a task


@pytest.fixture
def approving() -> Any:
    """A workflow whose task asks somebody, and what ran."""
    ran: list[str] = []

    @task
    async def prepare(x: int) -> int:
        ran.append("prepare")
        return x + 1

    @task
    async def approve(x: int) -> Any:
        ran.append("approve")
        amount = await prepare(x)
        return [amount, await pause("manual_approval", output={"amount": amount})]

    @workflow
    async def approval(ctx: ExecutionContext[int]) -> Any:
        return await approve(ctx.input)

    return approval, ran


PAUSED_INSIDE = [
    ("WS", "approval", 1),
    ("TS", "approve", {"x": 1}),
    ("TS", "prepare", {"x": 1}),
    ("TC", "prepare", 2),
    ("TS", "pause", {"name": "manual_approval"}),
    ("TP", "pause", "manual_approval"),
    ("TP", "approve", "manual_approval"),
    ("WP", "approval", {"name": "manual_approval", "output": {"amount": 2}}),
]


def test_a_pause_inside_a_task_parks_the_execution(both: Kit, approving: Any) -> None:
    approval, ran = approving

    ctx = both.run(approval, 1)

    assert checked(both, ctx) == PAUSED_INSIDE
    assert (ctx.state, ctx.output) == (ExecutionState.PAUSED, None)
    assert ran == ["approve", "prepare"]


def test_after_a_resume_the_task_runs_again_and_what_it_had_done_is_answered_from_history(
    both: Kit, approving: Any
) -> None:
    approval, ran = approving

    paused = both.run(approval, 1)
    ctx = both.resume(approval, paused.execution_id, "yes")

    assert checked(both, ctx) == [
        *PAUSED_INSIDE,
        ("WORKFLOW_RESUMING", "approval", "yes"),
        ("WORKFLOW_RESUMED", "approval", "yes"),
        ("RESUMED", "pause", {"name": "manual_approval", "input": "yes"}),
        ("TC", "pause", "yes"),
        ("TC", "approve", [2, "yes"]),
        ("WC", "approval", [2, "yes"]),
    ]
    assert ran == ["approve", "prepare", "approve"]


def test_a_task_that_catches_everything_does_not_swallow_its_pause(both: Kit) -> None:
    @task
    async def careful() -> Any:
        try:
            return await pause("p")
        except Exception as error:  # noqa: BLE001 - as users write it.
            return f"swallowed {error!r}"

    flow = calling(careful)
    paused = both.run(flow)

    assert paused.is_paused
    assert both.resume(flow, paused.execution_id, "yes").output == "yes"


def test_a_pause_two_tasks_deep_pauses_both_of_them(both: Kit) -> None:
    @task
    async def inner() -> Any:
        return await pause("p")

    @task
    async def outer() -> Any:
        return [await inner()]

    flow = calling(outer)
    paused = both.run(flow)
    ctx = both.resume(flow, paused.execution_id, 5)

    assert [(e.call_id, e.name) for e in ctx.events if e.type == "TASK_PAUSED"] == [
        ("1/1/1", "pause"),
        ("1/1", "inner"),
        ("1", "outer"),
    ]
    assert ctx.output == [5]


def test_each_pause_of_a_task_is_answered_in_turn(both: Kit) -> None:
    @task
    async def asking() -> Any:
        return [await pause("a"), await double(1), await pause("b")]

    flow = calling(asking)
    first = both.run(flow, None, "e")
    second = both.resume(flow, "e", 1)

    assert (first.is_paused, second.is_paused) == (True, True)
    assert both.resume(flow, "e", 2).output == [1, 2, 2]
    with pytest.raises(ExecutionConflictError):
        both.resume(flow, "e", 3)


def test_other_calls_go_on_while_a_task_is_paused(both: Kit) -> None:
    @task
    async def asking() -> Any:
        return await pause("p")

    @workflow
    async def together(ctx: ExecutionContext[None]) -> Any:
        return await parallel(asking(), slow(1, 100))

    paused = both.run(together)

    assert types(paused)[-1] == "WP"
    assert ("TC", "slow", 1) in shape(paused)  # It was finished before the execution was parked.
    assert both.resume(together, paused.execution_id, "yes").output == ["yes", 1]


@pytest.mark.parametrize("paused_for", [1, 5000])
def test_paused_time_does_not_count_towards_the_timeout(both: Kit, paused_for: float) -> None:
    @task.with_options(timeout=10)
    async def asking() -> Any:
        answer = await pause("p")
        await asyncio.sleep(8)
        return answer

    @workflow
    async def together(ctx: ExecutionContext[None]) -> Any:
        return await parallel(asking(), slow(1, 9000))  # Something runs, so it is not parked.

    async def drive() -> Any:
        running = asyncio.ensure_future(together.run_async(None, execution_id="e"))
        await asyncio.sleep(paused_for)
        both.app.send_resume("e", "yes")
        return await running

    assert both.drive(drive()).output == ["yes", 1]


def test_the_timeout_still_counts_what_is_no_pause(both: Kit) -> None:
    """The control of the test above."""

    @task.with_options(timeout=10)
    async def asking() -> Any:
        answer = await pause("p")
        await asyncio.sleep(11)
        return answer

    flow = calling(asking)
    both.run(flow, None, "e")

    assert isinstance(both.resume(flow, "e", "yes").output, ExecutionTimeoutError)


def test_a_pause_inside_a_task_gives_up_by_itself(both: Kit) -> None:
    @task
    async def asking() -> Any:
        try:
            return await pause("p", timeout=60)
        except TimeoutError as error:
            return f"{type(error).__name__}: {error}"

    ctx = both.run(calling(asking), None, "e")

    assert ctx.output == "ExecutionTimeoutError: Pause p was not resumed in time (60s)."
    assert both.clock.seconds == pytest.approx(60, abs=0.001)
    assert both.store.pauses("e") == []
    with pytest.raises(ExecutionConflictError):
        both.app.send_resume("e", "late")


def test_the_timeout_of_a_pause_inside_a_task_survives_a_crash(kit: Kit) -> None:
    @task
    async def asking() -> Any:
        try:
            return await pause("p", timeout=60)
        except TimeoutError:
            return "gave up"

    flow = calling(asking)
    kit.run_for(20, flow.run_async(None, execution_id="e"))
    ctx = kit.run(flow, execution_id="e")

    assert ctx.output == "gave up"
    assert kit.clock.seconds == pytest.approx(60, abs=0.001)


def test_what_a_task_that_was_given_up_has_left_is_ended_by_the_next_process() -> None:
    async def undo() -> None:
        await asyncio.sleep(100)

    @task.with_options(rollback=undo)
    async def inner() -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            await asyncio.sleep(8)  # Longer than the grace, so that the outer task ends first.
            raise

    @task
    async def outer() -> None:
        await inner()

    @workflow
    async def leaving(ctx: ExecutionContext[Any]) -> Any:
        try:
            async with asyncio.timeout(1):
                await outer()
        except TimeoutError:
            await asyncio.sleep(60)
        return "end"

    memory = Memory()

    async def scenario() -> Memory:
        leaving.start(1, execution_id="e")
        await asyncio.sleep(30)
        return memory.snapshot()

    with Bed(memory).installed() as bed:
        left = bed.run(scenario())
    with Bed(left, time=bed.time).installed():
        events = leaving.run(execution_id="e").events

    assert events[-1].value == "end"
    check_complete(events)
