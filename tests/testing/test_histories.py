"""Histories: asked about in tests, exported as text, and replayed on the code as it is now."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, patched, pause, task, workflow
from flux.errors import BodyError, ExecutionConflictError, InvalidInputError, NonDeterminismError
from flux.output_storage import InlineOutputStorage
from flux.tasks import continue_as_new, parallel, sleep, wait_for_signal
from flux.testing import Bed, assert_called, calls_of, export_history, import_history, replay
from flux.workflow import Workflow


@pytest.fixture(autouse=True)
def bed() -> Iterator[Bed]:
    with Bed().installed() as bed:
        yield bed


@dataclass
class Item:
    name: str
    price: float


TRIES: list[str] = []


@task.with_options(retry_max_attempts=1, retry_delay=1)
async def pack(item: Item) -> str:
    TRIES.append(item.name)
    if TRIES.count(item.name) == 1:
        raise ConnectionError(item.name)
    return f"box of {item.name}"


@task
async def weigh(box: str, factor: float = 1.0) -> int:
    if box.endswith("gin"):
        raise ValueError(box)
    return len(box)


@workflow
async def parcel(ctx: ExecutionContext[list[Item]]) -> Any:
    boxes = await pack.map(ctx.input)
    await sleep(60)
    answer = await pause("approval")
    return answer, await asyncio.gather(*(weigh(box) for box in boxes), return_exceptions=True)


def finished(answer: Any = "yes") -> ExecutionContext[Any]:
    TRIES.clear()
    paused = parcel.run([Item("tea", 2.5), Item("gin", float("nan"))], execution_id="parcel-1")
    return parcel.resume(paused.execution_id, answer)


# -- asked


def test_the_calls_of_an_execution_are_told_with_arguments_outcome_and_attempts():
    calls = calls_of(finished())

    assert [(call.name, call.outcome, call.attempts) for call in calls] == [
        ("pack", "completed", 2),
        ("pack", "completed", 2),
        ("pause", "completed", 1),
        ("weigh", "completed", 1),
        ("weigh", "failed", 1),
    ]
    assert calls[0].arguments == {"item": Item("tea", 2.5)}
    assert (calls[2].value, calls[3].value, type(calls[4].value).__mro__[2].__name__) == ("yes", 10, "ExecutionError")


def test_calls_that_were_made_are_asserted_silently():
    context = finished()

    assert_called(context, "weigh")
    assert_called(context, "weigh", times=2)
    assert_called(context, "weigh", times=1, with_={"box": "box of tea"})
    assert_called(context, "ship", times=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "ship"}, "ship() was called not at all, and was to be at least once"),
        ({"name": "weigh", "times": 1}, "weigh() was called 2 times, and was to be once"),
        ({"name": "weigh", "with_": {"box": "x"}}, "weigh(box='x') was called not at all"),
        ({"name": "weigh", "with_": {"x": 1}}, "weigh(x=1) was called not at all"),
    ],
)
def test_an_assertion_that_fails_lists_the_calls(options: dict[str, Any], said: str):
    with pytest.raises(AssertionError) as caught:
        assert_called(finished(), **options)

    text = str(caught.value)
    assert said in text
    assert "\n  pack(item=Item(name='tea', price=2.5)) completed, 2 attempts: 'box of tea'\n" in text
    assert "\n  weigh(box='box of gin') failed: ValueError" in text


# -- exported


def test_an_exported_history_comes_back_byte_for_byte():
    context = finished(b"\x00\xff")
    again = import_history(export_history(context))

    def facts(context: ExecutionContext[Any]) -> list[Any]:
        fields = "execution_id seq type call_id name data detail_data time_us".split()
        return [[getattr(event, name) for name in fields] for event in context.events]

    assert facts(again) == facts(context)
    assert (again.execution_id, again.name, again.state) == ("parcel-1", "parcel", ExecutionState.COMPLETED)
    assert again.output[0] == b"\x00\xff"
    assert export_history(again) == export_history(context)


def test_an_export_is_plain_json_with_an_event_a_line_and_bytes_that_are_no_text_as_base64():
    context = finished()
    context.events[1].data = b"p1\xff\x00"

    lines = export_history(context).splitlines()
    data = json.loads("\n".join(lines))

    assert (data["flux_history"], data["workflow"], data["state"]) == (1, "parcel", "COMPLETED")
    assert len(lines) == len(data["events"]) + 8
    assert data["events"][1]["data"] == {"base64": "cDH/AA=="}
    assert import_history("\n".join(lines)).events[1].data == b"p1\xff\x00"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no exported history"),
        ("[]", "no exported history"),
        ("{}", "no exported history"),
        ('{"flux_history": 2}', "is of format 2, and this Flux reads 1"),
        ('{"flux_history": 1, "execution_id": "x", "events": [{"seq": 1}]}', "no exported history"),
    ],
)
def test_a_text_that_is_no_history_is_refused(text: str, said: str):
    with pytest.raises(InvalidInputError, match=said):
        import_history(text)


def test_a_history_with_a_gap_is_refused():
    lines = export_history(finished()).splitlines()

    with pytest.raises(InvalidInputError, match="events are missing"):
        import_history("\n".join([*lines[:8], *lines[9:]]))


# -- replayed


def changed(body: Any) -> Workflow[Any, Any]:
    return Workflow(body, {"name": "parcel"})


def prefixes(context: ExecutionContext[Any]) -> Iterator[ExecutionContext[Any]]:
    for count in range(len(context.events)):
        yield ExecutionContext("parcel-1", "parcel", context.events[: count + 1], ExecutionState.RUNNING)


def test_every_part_of_a_history_replays_on_the_code_that_made_it_and_nothing_runs():
    context = finished()
    TRIES.clear()

    for each in prefixes(context):
        replay(each, parcel)
    replay(export_history(context), parcel)

    assert TRIES == []


async def with_another_task(ctx: ExecutionContext[list[Item]]) -> Any:
    await pack.map(ctx.input)
    await sleep(60)
    await weigh("x")


async def with_another_argument(ctx: ExecutionContext[list[Item]]) -> Any:
    await pack(Item("rum", 1.0))


async def without_the_pause(ctx: ExecutionContext[list[Item]]) -> Any:
    boxes = await pack.map(ctx.input)
    await sleep(60)
    return "yes", await asyncio.gather(*(weigh(box) for box in boxes), return_exceptions=True)


async def ending_early(ctx: ExecutionContext[list[Item]]) -> Any:
    return await pack.map(ctx.input)


async def going_on(ctx: ExecutionContext[list[Item]]) -> Any:
    result = await parcel.func(ctx)
    await weigh("more")
    return result


async def waiting_on(ctx: ExecutionContext[list[Item]]) -> Any:
    await parcel.func(ctx)
    await wait_for_signal("more")


async def waiting_for_nothing(ctx: ExecutionContext[list[Item]]) -> Any:
    await parcel.func(ctx)
    await asyncio.Event().wait()


async def with_another_result(ctx: ExecutionContext[list[Item]]) -> Any:
    return [await parcel.func(ctx)]


async def failing_at_the_end(ctx: ExecutionContext[list[Item]]) -> Any:
    await parcel.func(ctx)
    raise LookupError("no")


async def beginning_anew(ctx: ExecutionContext[list[Item]]) -> Any:
    await parcel.func(ctx)
    await continue_as_new()


@pytest.mark.parametrize(
    ("body", "said", "line"),
    [
        (
            with_another_task,
            r"history has pause\(name='approval'\), the code made weigh\(box='x'\) \(event 1\d, call 4",
            3,
        ),
        (with_another_argument, r"history has pack\(item=Item\(name='tea'.*made pack\(item=Item\(name='rum'", 1),
        (without_the_pause, r"history has pause\(name='approval'\), the code made weigh\(box='box of tea'\)", 3),
        (ending_early, r"history has .*, the code did not make that call", None),
        (going_on, r"history ended with WORKFLOW_COMPLETED\(.*\), the code made weigh\(box='more'\)", 2),
        (waiting_on, r"history ended with WORKFLOW_COMPLETED\(.*\), the code made wait_for_signal\(name='more'\)", 2),
        (waiting_for_nothing, r"history ended with .*, the code goes on waiting \(event 2\d\), at ", 2),
        (with_another_result, r"history ended with .*, the code ended with WORKFLOW_COMPLETED\(\[\('yes'", None),
        (
            failing_at_the_end,
            r"history ended with .*, the code ended with WORKFLOW_FAILED\(LookupError\('no'\)\)",
            None,
        ),
        (beginning_anew, r"history ended with .*, the code began anew", None),
    ],
)
def test_a_change_that_does_not_fit_is_told_with_what_history_has_what_the_code_did_and_where(
    body: Any, said: str, line: int | None
):
    with pytest.raises(NonDeterminismError, match=said) as caught:
        replay(finished(), changed(body))

    if line is not None:
        assert f"{__file__}:{body.__code__.co_firstlineno + line}" in str(caught.value)


async def acting(ctx: ExecutionContext[list[Item]]) -> Any:
    with open("effects.log", "w"):
        pass


def test_a_body_that_acts_is_told_to_put_that_in_a_task():
    with pytest.raises(BodyError, match="do this in a @task"):
        replay(finished(), changed(acting))


@workflow
async def failing(ctx: ExecutionContext[Any]) -> None:
    await parallel(weigh("gin"), weigh("tea"))


def test_failures_are_the_same_though_their_tracebacks_are_not():
    context = failing.run()

    def moved_down(ctx: ExecutionContext[Any]) -> Any:
        return failing.func(ctx)

    assert context.has_failed
    replay(context, Workflow(moved_down, {"name": "failing"}))


@workflow
async def raising(ctx: ExecutionContext[Any]) -> None:
    raise LookupError("no", ctx.input)


def test_what_a_body_raises_itself_is_the_same_from_another_line():
    async def moved_down(ctx: ExecutionContext[Any]) -> None:
        raise LookupError("no", ctx.input)

    async def changed(ctx: ExecutionContext[Any]) -> None:
        raise LookupError("no", None)

    replay(raising.run(5), Workflow(moved_down, {"name": "raising"}))
    with pytest.raises(NonDeterminismError, match="ended with WORKFLOW_FAILED"):
        replay(raising.run(5), Workflow(changed, {"name": "raising"}))


@workflow
async def cancelled(ctx: ExecutionContext[Any]) -> None:
    try:
        await pause("never")
    finally:
        await weigh("clean")


def test_a_cancelled_execution_replays():
    paused = cancelled.run()
    context = cancelled.cancel(paused.execution_id)

    assert context.is_cancelled
    replay(context, cancelled)
    with pytest.raises(NonDeterminismError, match="did not make that call"):
        replay(context, Workflow(cancelled_without_cleaning, {"name": "cancelled"}))


async def cancelled_without_cleaning(ctx: ExecutionContext[Any]) -> None:
    await pause("never")


@workflow
async def counting(ctx: ExecutionContext[int]) -> int:
    await weigh(str(ctx.input))
    if ctx.input < 3:
        await continue_as_new(ctx.input + 1)
    return ctx.input


def test_an_execution_that_was_started_over_replays_from_there():
    context = counting.run(1)

    assert context.events[0].seq > 1
    replay(export_history(context), counting)


async def patched_at_the_end(ctx: ExecutionContext[list[Item]]) -> Any:
    result = await parcel.func(ctx)
    if patched("weigh-more"):
        await weigh("more")
    return result


def test_a_finished_execution_takes_the_old_branch_of_a_patch():
    replay(finished(), changed(patched_at_the_end))


@workflow.with_options(output_storage=InlineOutputStorage())
async def stored_elsewhere(ctx: ExecutionContext[Any]) -> str:
    return await pack(Item("tea", 1.0))


def test_a_result_that_is_kept_elsewhere_is_not_stored_again():
    context = stored_elsewhere.run()

    replay(context, stored_elsewhere)


def test_a_history_of_another_workflow_is_refused():
    with pytest.raises(ExecutionConflictError, match="of the workflow 'parcel', not of 'failing'"):
        replay(finished(), failing)


@pytest.mark.parametrize("code", ["waits busily", "ends the process"])
def test_code_that_would_fail_an_execution_under_way_does_not_fit_it(code: str):
    async def failing_at_once(_ctx: ExecutionContext[Any]) -> None:
        while code == "waits busily":
            await asyncio.sleep(0)
        raise SystemExit(3)

    paused = cancelled.run()

    with pytest.raises(BodyError, match="the execution would fail with"):
        replay(paused, Workflow(failing_at_once, {"name": "cancelled"}))
