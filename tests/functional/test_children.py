"""Child executions: a call that is an execution of its own."""

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

import flux.app
from flux import ExecutionContext, ExecutionState, call, pause, task, workflow
from flux.errors import (
    BodyError,
    ExecutionCancelledError,
    ExecutionError,
    InvalidInputError,
    UnserializableValue,
    WorkflowNotFoundError,
)
from flux.tasks import parallel, sleep, wait_for_signal
from functional.kit import Kit, failure, recorded_ids, run_script, shape, times, types, whole


@task
async def double(x: int) -> int:
    return 2 * x


@task
async def endless() -> None:
    await asyncio.sleep(10_000)


@workflow
async def doubling(ctx: ExecutionContext[int]) -> int:
    return await double(ctx.input)


@workflow
async def approving(ctx: ExecutionContext[int]) -> Any:
    return [ctx.input, await pause("approval", output={"amount": ctx.input})]


def children(kit: Kit, parent: str = "e") -> list[Any]:
    """The stored children of an execution, in the order in which they were made."""
    rows = [row for row in kit.store.list() if row.parent_id == parent]
    return [kit.stored(row.execution_id) for row in sorted(rows, key=lambda row: row.number)]


def checked(kit: Kit, ctx: Any) -> list[tuple[Any, ...]]:
    """The history, after it was compared with what a fresh app reads from the database."""
    assert whole(ctx) == whole(kit.stored(ctx.execution_id))

    return shape(ctx)


# -- results


def test_a_child_is_one_call_of_its_parent_and_has_a_history_of_its_own(both: Kit) -> None:
    @workflow
    async def parent(ctx: ExecutionContext[int]) -> int:
        return await doubling(ctx.input)

    ctx = both.run(parent, 3, "e")
    (child,) = children(both)

    assert checked(both, ctx) == [
        ("WS", "parent", 3),
        ("TS", "doubling", {"input": 3}),
        ("TC", "doubling", 6),
        ("WC", "parent", 6),
    ]
    assert shape(child) == [
        ("WORKFLOW_SCHEDULED", "doubling", 3),
        ("WS", "doubling", 3),
        ("TS", "double", {"x": 3}),
        ("TC", "double", 6),
        ("WC", "doubling", 6),
    ]
    assert len(child.execution_id) == 32
    row = both.store.get(child.execution_id)
    assert row is not None
    assert (row.parent_id, row.parent_call, row.state) == ("e", "1", ExecutionState.COMPLETED)


def test_a_child_is_called_by_object_or_by_name(both: Kit) -> None:
    @workflow
    async def parent(ctx: ExecutionContext[None]) -> Any:
        return [await doubling(1), await call("doubling", 2), await call(doubling, 3)]

    ctx = both.run(parent, None, "e")

    assert ctx.output == [2, 4, 6]
    assert [child.input for child in children(both)] == [1, 2, 3]
    assert len({child.execution_id for child in children(both)}) == 3


def test_children_run_at_once(both: Kit) -> None:
    @workflow
    async def waiting(ctx: ExecutionContext[int]) -> int:
        await sleep(ctx.input)
        return ctx.input

    @workflow
    async def parent(ctx: ExecutionContext[None]) -> Any:
        return [await parallel(waiting(3), waiting(5)), await asyncio.gather(waiting(2), double(1))]

    ctx = both.run(parent, None, "e")

    assert ctx.output == [[3, 5], [2, 2]]
    assert both.clock.seconds == pytest.approx(5 + 2, abs=0.01)


def test_a_child_may_have_children(both: Kit) -> None:
    @workflow
    async def countdown(ctx: ExecutionContext[int]) -> Any:
        return [ctx.input, await call("countdown", ctx.input - 1)] if ctx.input else [0]

    ctx = both.run(countdown, 3, "e")

    assert ctx.output == [3, [2, [1, [0]]]]
    assert len(both.store.list()) == 4


def test_a_child_may_be_any_workflow_a_plain_function_too(both: Kit) -> None:
    @workflow.with_options(name="other_name")
    def plain(ctx: ExecutionContext[int]) -> int:
        return ctx.input + 1

    @workflow
    async def parent(ctx: ExecutionContext[None]) -> Any:
        return [await plain(1), await call("other_name", 2)]

    assert both.run(parent).output == [2, 3]


@pytest.mark.parametrize("value", [None, 0, "", False, [], (1, {2})], ids=repr)
def test_inputs_and_results_of_children_keep_their_types(both: Kit, value: Any) -> None:
    @workflow
    async def same(ctx: ExecutionContext[Any]) -> Any:
        return ctx.input

    @workflow
    async def parent(ctx: ExecutionContext[Any]) -> Any:
        return [await same(ctx.input), await same()]

    ctx = both.run(parent, value, "e")

    assert ctx.output == [value, None]
    assert type(ctx.output[0]) is type(value)


# -- failures


def test_the_failure_of_a_child_has_the_class_of_its_error(both: Kit) -> None:
    @workflow
    async def failing(ctx: ExecutionContext[int]) -> int:
        raise LookupError("gone", ctx.input)

    @workflow
    async def parent(ctx: ExecutionContext[int]) -> int:
        return await failing(ctx.input)

    ctx = both.run(parent, 3, "e")

    error = failure(LookupError, "('gone', 3)")
    assert checked(both, ctx)[1:] == [
        ("TS", "failing", {"input": 3}),
        ("TF", "failing", error),
        ("WF", "parent", error),
    ]
    assert ctx.output.args == ("gone", 3)
    (child,) = children(both)
    assert type(child.output) is LookupError


@pytest.mark.parametrize("caught", [ExecutionError, KeyError], ids=["as ExecutionError", "as the original"])
def test_a_parent_may_catch_the_failure_of_a_child(both: Kit, caught: type[Exception]) -> None:
    @task
    async def refusing(x: int) -> int:
        raise KeyError(x)

    @workflow
    async def failing(ctx: ExecutionContext[int]) -> int:
        return await refusing(ctx.input)

    @workflow
    async def parent(ctx: ExecutionContext[int]) -> str:
        try:
            return str(await failing(ctx.input))
        except caught as error:
            return f"{type(error.inner_exception).__name__} {error}"  # type: ignore[attr-defined]

    assert both.run(parent, 3).output == "KeyError 3"


# -- what is refused, before anything is recorded


def test_an_input_that_does_not_fit_the_child_is_refused(both: Kit) -> None:
    @workflow
    async def parent(ctx: ExecutionContext[Any]) -> list[str]:
        errors = []
        for make in (lambda: doubling("many"), lambda: call("doubling", [1])):  # type: ignore[arg-type]
            try:
                await make()
            except InvalidInputError as error:
                errors.append(str(error))
        return errors

    ctx = both.run(parent, None, "e")

    assert types(ctx) == ["WS", "WC"]
    assert children(both) == []
    assert all(each.startswith("the input does not fit the workflow 'doubling': input") for each in ctx.output)


def test_an_input_that_cannot_be_recorded_is_refused(both: Kit) -> None:
    @workflow
    async def anything(ctx: ExecutionContext[Any]) -> None:
        pass

    @workflow
    async def parent(ctx: ExecutionContext[Any]) -> None:
        await anything([object()])

    ctx = both.run(parent, None, "e")

    assert types(ctx) == ["WS", "WF"]
    assert isinstance(ctx.output, UnserializableValue)
    assert children(both) == []


@pytest.mark.parametrize("found", [False, True])
def test_a_child_whose_secrets_are_missing_does_not_begin(
    both: Kit, monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    ran: list[int] = []
    if found:
        monkeypatch.setenv("FLUX_SECRET_K", "value of the secret")

    @workflow.with_options(secret_requests=["K"])
    async def child(ctx: ExecutionContext[int]) -> int:
        ran.append(ctx.input)
        return ctx.input

    @workflow
    async def parent(ctx: ExecutionContext[None]) -> Any:
        try:
            return await child(1)
        except ValueError as error:
            return [type(error.inner_exception).__name__, str(error)]  # type: ignore[attr-defined]

    ctx = both.run(parent, None, "e")

    if found:
        assert ctx.output == 1
        return
    assert ctx.output == ["SecretNotFoundError", "The following secrets were not found: ['K']"]
    assert ran == []
    assert types(children(both)[0]) == ["WORKFLOW_SCHEDULED", "WS", "WF"]


def test_a_name_that_no_workflow_has_is_not_found(both: Kit) -> None:
    @workflow
    async def parent(ctx: ExecutionContext[Any]) -> None:
        await call("nobody", 1)

    ctx = both.run(parent, None, "e")

    assert types(ctx) == ["WS", "WF"]
    assert isinstance(ctx.output, WorkflowNotFoundError)
    assert "no workflow named 'nobody' is loaded (loaded are: " in str(ctx.output)
    assert "import the module that defines it" in str(ctx.output)


def test_a_workflow_is_found_by_its_name_after_a_copy_of_it_was_dropped(both: Kit) -> None:
    @workflow.with_options(name="original")
    async def child(ctx: ExecutionContext[int]) -> str:
        return "found"

    @workflow
    async def parent(ctx: ExecutionContext[None]) -> Any:
        return await call("original", 1)

    assert both.run(child.with_options(version="other"), 1).output == "found"
    gc.collect()

    assert both.run(parent).output == "found"


def test_of_workflows_of_one_name_the_last_one_is_called(both: Kit) -> None:
    def define(answer: str) -> Any:
        @workflow.with_options(name="of one name")
        async def child(ctx: ExecutionContext[None]) -> str:
            return answer

        return child

    @workflow
    async def parent(ctx: ExecutionContext[None]) -> Any:
        return await call("of one name")

    first, second = define("first"), define("second")

    assert both.run(parent).output == "second"
    assert (first.name, second.name) == ("of one name", "of one name")  # Both are in use, so both are loaded.


@pytest.mark.parametrize("other", [double, None, 5, "task"], ids=["a task", "None", "a number", "the name of a task"])
def test_only_a_workflow_is_called(both: Kit, other: Any) -> None:
    @workflow
    async def parent(ctx: ExecutionContext[Any]) -> None:
        await call("double" if other == "task" else other, 1)

    ctx = both.run(parent, None, "e")

    assert types(ctx) == ["WS", "WF"]
    assert "workflow" in str(ctx.output)


METHODS = ["run", "run_async", "start", "resume", "resume_async", "cancel", "cancel_async", "signal", "execution"]


@pytest.mark.parametrize("method", METHODS)
def test_a_workflow_is_not_run_in_a_body_but_awaited(both: Kit, method: str) -> None:
    more = {"run": (1,), "run_async": (1,), "start": (1,), "signal": ("other", "name")}.get(method, ("other",))

    @workflow
    async def parent(ctx: ExecutionContext[Any]) -> None:
        made = getattr(doubling, method)(*more)
        if method.endswith("_async"):
            await made

    ctx = both.run(parent, None, "e")

    assert isinstance(ctx.output, BodyError)
    assert f"doubling.{method}() was called in the body of a workflow" in str(ctx.output)
    if method in {"run", "run_async", "start"}:
        assert "await doubling(...)" in str(ctx.output)
    assert recorded_ids(both._settings.database) == ["e"]


@pytest.mark.parametrize("make", [lambda: doubling(1), lambda: call("doubling", 1)], ids=["object", "name"])
def test_outside_a_body_a_workflow_is_not_awaited_but_run(both: Kit, make: Any) -> None:
    @task
    async def inside() -> Any:
        return await make()

    @workflow
    async def parent(ctx: ExecutionContext[None]) -> Any:
        return await inside()

    with pytest.raises(BodyError, match=r"doubling\.run\(\.\.\.\) runs it"):
        asyncio.run(make())
    ctx = both.run(parent, None, "e")

    assert isinstance(ctx.output, BodyError)
    assert "await doubling.run_async(...)" in str(ctx.output)
    assert children(both) == []


# -- pauses, signals, cancellation


def test_a_paused_child_pauses_its_parent_and_is_resumed_by_its_own_id(both: Kit) -> None:
    @workflow
    async def parent(ctx: ExecutionContext[int]) -> Any:
        return await approving(ctx.input)

    paused = both.run(parent, 3, "e")
    (child,) = children(both)

    assert (paused.state, child.state) == (ExecutionState.PAUSED, ExecutionState.PAUSED)
    assert shape(child)[-1] == ("WP", "approving", {"name": "approval", "output": {"amount": 3}})

    assert both.resume(approving, child.execution_id, "yes").output == [3, "yes"]
    ctx = both.run(parent, 3, "e")

    assert ctx.output == [3, "yes"]
    assert types(ctx) == ["WS", "TS", "TC", "WC"]
    checked(both, ctx)


def test_a_repeated_run_of_the_parent_answers_no_pause_of_its_child(both: Kit) -> None:
    @workflow
    async def parent(ctx: ExecutionContext[int]) -> Any:
        return await approving(ctx.input)

    both.run(parent, 3, "e")
    again, without = both.run(parent, 3, "e"), both.run(parent, execution_id="e")

    assert again.is_paused
    assert without.is_paused
    assert children(both)[0].is_paused


def test_other_calls_of_the_parent_go_on_while_a_child_is_paused(both: Kit) -> None:
    @workflow
    async def parent(ctx: ExecutionContext[int]) -> Any:
        async def working() -> int:
            await sleep(100)
            return await double(1)

        return await asyncio.gather(approving(ctx.input), working())

    paused = both.run(parent, 3, "e")

    assert paused.is_paused
    assert ("TC", "double", 2) in shape(paused)
    both.resume(approving, children(both)[0].execution_id, "yes")
    assert both.run(parent, 3, "e").output == [[3, "yes"], 2]


def test_a_child_gets_its_signals_by_its_own_id(both: Kit) -> None:
    @workflow
    async def waiting(ctx: ExecutionContext[int]) -> Any:
        return await wait_for_signal("go")

    @workflow
    async def parent(ctx: ExecutionContext[int]) -> Any:
        return await waiting(ctx.input)

    assert both.run(parent, 3, "e").is_paused
    both.app.send_signal(children(both)[0].execution_id, "go", 7)

    assert both.run(parent, 3, "e").output == 7


def cancelled_after(kit: Kit, workflow: Any, seconds: float, chosen: Any = lambda: "e") -> Any:
    """Run an execution, and cancel it, or another one, when it has run for so long."""
    kit.look_for_news_every(0.1)

    async def drive() -> Any:
        running = asyncio.ensure_future(workflow.run_async(1, execution_id="e"))
        await asyncio.sleep(seconds)
        kit.app.send_cancel(chosen())
        return await running

    return kit.drive(drive())


def test_a_child_is_cancelled_with_its_parent_and_cleans_up_first(both: Kit) -> None:
    @workflow
    async def careful(ctx: ExecutionContext[int]) -> None:
        try:
            await endless()
        finally:
            await double(ctx.input)

    @workflow
    async def parent(ctx: ExecutionContext[int]) -> Any:
        return await careful(ctx.input)

    ctx = cancelled_after(both, parent, 5)
    (child,) = children(both)

    assert types(ctx) == ["WS", "TS", "WORKFLOW_CANCELLING", "TASK_CANCELLED", "WORKFLOW_CANCELLED"]
    assert types(child)[2:] == ["TS", "WORKFLOW_CANCELLING", "TASK_CANCELLED", "TS", "TC", "WORKFLOW_CANCELLED"]
    assert child.events[-1].time <= ctx.events[-1].time
    assert both.clock.seconds < 10


def test_a_paused_child_is_cancelled_with_its_parent(both: Kit) -> None:
    @workflow
    async def parent(ctx: ExecutionContext[int]) -> Any:
        return await approving(ctx.input)

    both.run(parent, 3, "e")
    ctx = both.drive(parent.cancel_async("e"))
    (child,) = children(both)

    assert (ctx.state, child.state) == (ExecutionState.CANCELLED, ExecutionState.CANCELLED)
    assert both.store.pauses(child.execution_id) == []


def test_a_child_that_the_body_gives_up_is_cancelled_and_the_body_goes_on(both: Kit) -> None:
    both.look_for_news_every(0.1)

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> None:
        await endless()

    @workflow
    async def parent(ctx: ExecutionContext[int]) -> str:
        try:
            async with asyncio.timeout(5):
                await busy(ctx.input)
        except TimeoutError:
            return "gave up"
        return "never"

    ctx = both.run(parent, 1, "e")

    assert ctx.output == "gave up"
    assert types(ctx) == ["WS", "TS", "TIMER_FIRED", "TASK_CANCELLED", "WC"]
    assert children(both)[0].is_cancelled


def test_a_child_that_somebody_else_cancels_fails_its_call(both: Kit) -> None:
    @workflow
    async def busy(ctx: ExecutionContext[int]) -> None:
        await endless()

    @workflow
    async def parent(ctx: ExecutionContext[int]) -> Any:
        await busy(ctx.input)

    ctx = cancelled_after(both, parent, 5, lambda: children(both)[0].execution_id)

    assert ctx.has_failed
    assert isinstance(ctx.output, ExecutionCancelledError)
    assert "was cancelled, not by its parent" in str(ctx.output)


def test_a_finished_parent_leaves_no_child_running(both: Kit) -> None:
    both.look_for_news_every(0.1)

    @workflow
    async def busy(ctx: ExecutionContext[int]) -> None:
        await endless()

    @workflow
    async def parent(ctx: ExecutionContext[int]) -> str:
        asyncio.ensure_future(busy(1))
        await sleep(1)
        return "done"

    ctx = both.run(parent, 1, "e")

    assert ctx.output == "done"
    assert children(both)[0].is_cancelled
    assert types(ctx)[-2:] == ["TASK_CANCELLED", "WC"]


# -- crashes


@pytest.mark.parametrize("crash_at", [2, 7, 12])
def test_after_a_crash_parent_and_child_go_on_where_they_were(kit: Kit, crash_at: float) -> None:
    ran: list[str] = []

    @task
    async def step(name: str) -> str:
        ran.append(name)
        await asyncio.sleep(5)
        return name

    @workflow
    async def child(ctx: ExecutionContext[None]) -> Any:
        return [await step("a"), await step("b")]

    @workflow
    async def parent(ctx: ExecutionContext[None]) -> Any:
        return [await child(), await step("c")]

    kit.run_for(crash_at, parent.run_async(None, execution_id="e"))
    ctx = kit.run(parent, execution_id="e")

    assert ctx.output == [["a", "b"], "c"]
    assert len(children(kit)) == 1
    interrupted = "abc"[int(crash_at // 5)]
    assert sorted(ran) == sorted(["a", "b", "c", interrupted])


def test_a_killed_parent_finds_the_result_of_its_child(home: Path) -> None:
    program = """
        @task
        async def step():
            count("step")
            return os.getpid()

        @workflow
        async def child(ctx: ExecutionContext[None]):
            return await step()

        @task
        async def after(pid):
            count("after")
            if once("died"):
                die()
            return pid != os.getpid()

        @workflow
        async def parent(ctx: ExecutionContext[int]):
            return await after(await child())

        print(parent.run(1, execution_id="e").output)
    """
    run_script(home, program, code=-9)

    assert run_script(home, program) == "True\n"
    assert (times(home, "step"), times(home, "after")) == (1, 2)
    assert len(recorded_ids()) == 2


def test_children_run_with_what_plain_users_have(home: Path) -> None:
    """`run()` on a database of its own, as a script does it: no virtual time."""

    @workflow
    async def parent(ctx: ExecutionContext[int]) -> int:
        return await doubling(ctx.input) + await call("doubling", 1)

    ctx = parent.run(5)

    assert ctx.output == 12
    rows = flux.app.current().store.list()
    assert {row.parent_id for row in rows} == {None, ctx.execution_id}
    prefix = ctx.execution_id[:12]
    assert all(row.execution_id.startswith(prefix) for row in rows)  # A child's id sorts with its parent's.
