"""The basic concepts, as users first write them: each option, each property and each type of event."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, task, workflow
from flux.domain.events import ExecutionEventType
from flux.errors import ExecutionError, ExecutionTimeoutError, RetryError, SecretNotFoundError
from flux.output_storage import OutputStorage, OutputStorageReference
from flux.secret_managers import SecretManager
from flux.tasks import parallel, pause
from functional.kit import Kit, recorded_ids, shape, stored, types

SECRET = "s3cr3t-of-the-api"  # noqa: S105 - a stand-in.


class Custom(OutputStorage):
    """A storage of one's own."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def store(self, reference_id: str, value: Any) -> OutputStorageReference:
        self.values[reference_id] = value
        return OutputStorageReference("custom", reference_id)

    def retrieve(self, reference: OutputStorageReference) -> Any:
        return self.values[reference.reference_id]

    def delete(self, reference: OutputStorageReference) -> None:
        del self.values[reference.reference_id]


custom_storage = Custom()


@pytest.fixture
def api_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret that was saved, with a key of its own kind."""
    monkeypatch.setenv("FLUX_SECRET_KEY_FILE", str(home / "key"))
    SecretManager.current().save("API_KEY", SECRET)


# -- workflows


@task
async def some_task(data: str = "nothing") -> str:
    return f"did {data}"


@task
async def process_data(data: Any) -> Any:
    return f"processed {data}"


@workflow
async def my_workflow(ctx: ExecutionContext[str]):
    result = await some_task(ctx.input)
    return result


@workflow.with_options(name="custom_workflow", secret_requests=["API_KEY"], output_storage=custom_storage)
async def configured_workflow(ctx: ExecutionContext):
    result = await some_task()
    return result


@workflow
async def approval_workflow(ctx: ExecutionContext):
    data = await process_data(ctx.input)
    await pause("manual_approval")
    return f"Approved: {data}"


def test_a_basic_workflow_awaits_its_tasks_and_returns_a_result() -> None:
    ctx = my_workflow.run("work")

    assert (ctx.output, ctx.input, ctx.name) == ("did work", "work", "my_workflow")


def test_a_configured_workflow_has_its_name_its_secrets_and_its_storage(api_key: None) -> None:
    ctx = configured_workflow.run()

    assert (configured_workflow.name, ctx.name) == ("custom_workflow", "custom_workflow")
    assert ctx.output.reference_id == f"custom_workflow_{ctx.execution_id}"
    assert custom_storage.retrieve(ctx.output) == "did nothing"


def test_a_workflow_whose_secret_is_missing_is_not_started() -> None:
    with pytest.raises(SecretNotFoundError, match=r"^The following secrets were not found: \['API_KEY'\]$"):
        configured_workflow.run()

    assert recorded_ids() == []


def test_a_workflow_pauses_and_continues_when_it_is_resumed() -> None:
    paused = approval_workflow.run("order 7")

    assert (paused.is_paused, paused.output, paused.has_finished) == (True, None, False)
    ctx = approval_workflow.resume(paused.execution_id)
    assert (ctx.is_paused, ctx.output) == (False, "Approved: processed order 7")


def test_a_workflow_that_paused_continues_by_running_its_id_too() -> None:
    paused = approval_workflow.run("order 7")

    assert approval_workflow.run(execution_id=paused.execution_id).output == "Approved: processed order 7"


@pytest.mark.parametrize("kind", ["a value", "a call", "several calls", "a child", "nothing"])
def test_a_workflow_may_be_a_plain_function_that_returns_a_value_or_one_awaitable(both: Kit, kind: str) -> None:
    @workflow
    def plain(ctx: ExecutionContext[int]) -> Any:
        match kind:
            case "a value":
                return ctx.input + 1
            case "a call":
                return some_task("a")
            case "several calls":
                return asyncio.gather(some_task("a"), parallel(some_task("b"), some_task("c")))
            case "a child":
                return my_workflow("d")
            case _:
                return None

    several = ["did a", ["did b", "did c"]]
    expected = {"a value": 2, "a call": "did a", "several calls": several, "a child": "did d", "nothing": None}

    assert both.run(plain, 1).output == expected[kind]


# -- tasks


@task
async def simple_task(data: str):
    return data.upper()


class Calls:
    """What a configured task and its handlers were called with."""

    def __init__(self) -> None:
        self.made: list[Any] = []


def configured(calls: Calls, *, fails: Any = None, body: Any = None, **options: Any) -> Any:
    """A task with every option at once."""

    def fallback_function(data: str):
        calls.made.append(("fallback", data))
        return f"fallback {data}"

    def rollback_function(data: str):
        calls.made.append(("rollback", data))

    options = {
        "name": "custom_task",
        "retry_max_attempts": 3,
        "retry_delay": 1,
        "retry_backoff": 2,
        "timeout": 30,
        "fallback": fallback_function,
        "rollback": rollback_function,
        "secret_requests": ["API_KEY"],
        "output_storage": custom_storage,
        **options,
    }

    @task.with_options(**{name: value for name, value in options.items() if value is not None})
    async def complex_task(data: str):
        calls.made.append(("task", data))
        if fails is not None:
            await fails()
        return process_data(data)

    return complex_task


def using(function: Any, *arguments: Any) -> Any:
    @workflow
    async def user(ctx: ExecutionContext[None]):
        return await function(*arguments)

    return user


@pytest.fixture
def keyed(both: Kit, monkeypatch: pytest.MonkeyPatch) -> Kit:
    """Virtual time, live and replayed, and the secret in the environment."""
    monkeypatch.setenv("FLUX_SECRET_API_KEY", SECRET)
    return both


def test_a_basic_task_is_awaited_in_a_workflow_and_outside() -> None:
    assert using(simple_task, "abc").run().output == "ABC"
    assert asyncio.run(simple_task("abc")) == "ABC"


def test_a_task_may_have_all_options_at_once(keyed: Kit) -> None:
    calls = Calls()
    complex_task = configured(calls)

    ctx = keyed.run(using(complex_task, "d"), None, "e")

    assert complex_task.name == "custom_task"
    assert ctx.output == "processed d"
    reference = OutputStorageReference("custom", "custom_task_e_1")
    assert shape(ctx)[1:] == [
        ("TS", "custom_task", {"data": "d"}),
        ("TS", "process_data", {"data": "d"}),
        ("TC", "process_data", "processed d"),
        ("TC", "custom_task", reference),
        ("WC", "user", "processed d"),
    ]
    assert custom_storage.retrieve(reference) == "processed d"
    assert calls.made == [("task", "d")]


def test_with_all_options_a_failing_task_is_retried_and_then_replaced(keyed: Kit) -> None:
    calls = Calls()

    async def fails() -> None:
        raise ValueError("no")

    ctx = keyed.run(using(configured(calls, fails=fails), "d"))

    assert ctx.output == "fallback d"
    assert calls.made == [("task", "d")] * 4 + [("fallback", "d")]
    assert keyed.clock.seconds == pytest.approx(1 + 2 + 4, abs=0.01)
    retries = ["RETRY_FAILED", "RETRY_STARTED"] * 3 + ["RETRY_FAILED"]
    assert types(ctx)[2:] == [*retries, "FALLBACK_STARTED", "FALLBACK_COMPLETED", "TC", "WC"]


def test_without_a_fallback_it_is_rolled_back(keyed: Kit) -> None:
    calls = Calls()

    async def fails() -> None:
        raise ValueError("no")

    ctx = keyed.run(using(configured(calls, fails=fails, fallback=None), "d"))

    assert calls.made == [("task", "d")] * 4 + [("rollback", "d")]
    assert isinstance(ctx.output, ValueError)
    assert isinstance(ctx.output, ExecutionError)
    assert isinstance(ctx.output.inner_exception, RetryError)  # type: ignore[attr-defined]
    assert types(ctx)[-4:] == ["ROLLBACK_STARTED", "ROLLBACK_COMPLETED", "TF", "WF"]


def test_an_attempt_that_takes_too_long_is_a_failed_one(keyed: Kit) -> None:
    calls = Calls()

    async def hangs() -> None:
        await asyncio.sleep(1000)

    ctx = keyed.run(using(configured(calls, fails=hangs), "d"))

    assert ctx.output == "fallback d"
    assert keyed.clock.seconds == pytest.approx(4 * 30 + 1 + 2 + 4, abs=0.01)
    failed = [e.detail["error"] for e in ctx.events if e.type == "TASK_RETRY_FAILED"]
    assert [type(error) for error in failed] == [ExecutionTimeoutError] * 4


def test_a_missing_secret_fails_the_task_which_does_not_run(both: Kit) -> None:
    calls = Calls()
    bare = configured(calls, fallback=None, rollback=None, retry_max_attempts=None)

    ctx = both.run(using(bare, "d"))

    assert str(ctx.output) == "The following secrets were not found: ['API_KEY']"
    assert isinstance(ctx.output, ValueError)
    assert isinstance(ctx.output, ExecutionError)
    assert isinstance(ctx.output.inner_exception, ValueError)  # type: ignore[attr-defined]
    assert calls.made == []


@pytest.mark.parametrize("takes", ["a parameter", "any keyword"])
def test_a_task_that_takes_its_secrets_gets_them_and_its_handlers_do_not(keyed: Kit, takes: str) -> None:
    got: list[Any] = []

    def handler(data: str, **others: Any) -> None:
        got.append(others)

    async def with_parameter(data: str, secrets: dict[str, str]) -> None:
        got.append(len(secrets["API_KEY"]))
        raise ValueError("no")

    async def with_any(data: str, **injected: Any) -> None:
        got.append(len(injected["secrets"]["API_KEY"]))
        raise ValueError("no")

    function = with_parameter if takes == "a parameter" else with_any
    careful = task.with_options(secret_requests=["API_KEY"], rollback=handler)(function)

    ctx = keyed.run(using(careful, "d"))

    assert got == [len(SECRET), {}]
    assert shape(ctx)[1][2] == {"data": "d"}
    assert SECRET not in ctx.to_json()


def test_tasks_are_composed_nested_run_at_once_and_mapped(both: Kit) -> None:
    @task
    async def both_of(a: str, b: str):
        return await parallel(simple_task(a), simple_task(b))

    @workflow
    async def composing(ctx: ExecutionContext[list[str]]):
        first = await simple_task(ctx.input[0])
        return [first, await both_of(first, "x"), await simple_task.map(ctx.input), await simple_task.map(iter("yz"))]

    assert both.run(composing, ["a", "b"]).output == ["A", ["A", "X"], ["A", "B"], ["Y", "Z"]]


# -- the execution context


def test_a_body_sees_its_own_execution(both: Kit) -> None:
    seen: dict[str, Any] = {}

    @workflow
    async def example_workflow(ctx: ExecutionContext[str]):
        await simple_task("a")
        seen.update(
            execution_id=ctx.execution_id,
            name=ctx.name,
            workflow_name=ctx.workflow_name,
            input=ctx.input,
            events=[str(event.type) for event in ctx.events],
            has_started=ctx.has_started,
            has_finished=ctx.has_finished,
            has_succeeded=ctx.has_succeeded,
            has_failed=ctx.has_failed,
            is_paused=ctx.is_paused,
            output=ctx.output,
        )
        return "done"

    both.run(example_workflow, "in", "e")

    assert seen == {
        "execution_id": "e",
        "name": "example_workflow",
        "workflow_name": "example_workflow",
        "input": "in",
        "events": ["WORKFLOW_STARTED", "TASK_STARTED", "TASK_COMPLETED"],
        "has_started": True,
        "has_finished": False,
        "has_succeeded": False,
        "has_failed": False,
        "is_paused": False,
        "output": None,
    }


@workflow
async def ending(ctx: ExecutionContext[str]):
    match ctx.input:
        case "fail":
            raise ValueError("no")
        case "pause":
            return await pause("p")
        case _:
            return ctx.input.upper()


@pytest.mark.parametrize(
    ("value", "state"),
    [
        ("ok", {"has_finished": True, "has_succeeded": True, "has_failed": False, "is_paused": False}),
        ("fail", {"has_finished": True, "has_succeeded": False, "has_failed": True, "is_paused": False}),
        ("pause", {"has_finished": False, "has_succeeded": False, "has_failed": False, "is_paused": True}),
    ],
)
def test_whoever_ran_an_execution_sees_how_it_stands(home: Path, value: str, state: dict[str, bool]) -> None:
    ctx = ending.run(value)

    for one in (ctx, stored(ctx.execution_id)):
        assert {name: getattr(one, name) for name in state} == state
        assert (one.name, one.input, len(one.execution_id)) == ("ending", value, 32)
        assert str(one.output) == {"ok": "OK", "fail": "no", "pause": "None"}[value]
        assert one.events[0].type is ExecutionEventType.WORKFLOW_STARTED
        assert "events" not in one.summary()
        assert one.summary()["state"] == one.state
        assert len(one.to_dict()["events"]) == len(one.events)


def test_a_resumed_execution_says_so_until_it_goes_on(both: Kit) -> None:
    seen: list[bool] = []

    @workflow
    async def resumed(ctx: ExecutionContext[None]):
        seen.append(ctx.has_resumed)
        await pause("p")
        seen.append(ctx.has_resumed)

    both.run(resumed, None, "e")
    ctx = both.resume(resumed, "e")

    assert seen[0] is False
    assert seen[-1] is True
    assert ctx.has_resumed is False  # Its end is what happened last.


# -- events

WORKFLOW_EVENTS = "WORKFLOW_STARTED WORKFLOW_COMPLETED WORKFLOW_FAILED WORKFLOW_PAUSED"
TASK_EVENTS = "TASK_STARTED TASK_COMPLETED TASK_FAILED TASK_PAUSED"
STEPS = ("STARTED", "COMPLETED", "FAILED")
OF_ATTEMPTS = [f"TASK_{kind}_{step}" for kind in ("RETRY", "FALLBACK", "ROLLBACK") for step in STEPS]


@pytest.mark.parametrize("name", [*WORKFLOW_EVENTS.split(), *TASK_EVENTS.split(), *OF_ATTEMPTS])
def test_a_type_of_event_is_a_text_that_equals_its_name(name: str) -> None:
    member = getattr(ExecutionEventType, name)

    assert member == name
    assert member.value == name
    assert f"{member}" == name


def test_every_type_of_event_happens(both: Kit) -> None:
    happened: set[str] = set()

    def fails(*_: Any) -> None:
        raise ValueError("no")

    def works(*_: Any) -> None:
        pass

    async def once(data: str) -> None:
        runs.append(data)
        if len(runs) < 2:
            raise ValueError("no")

    for value in ("ok", "fail", "pause"):
        happened |= {str(event.type) for event in both.run(ending, value).events}
    for function, options in (
        (once, {"retry_max_attempts": 1}),
        (fails, {"retry_max_attempts": 1}),
        (fails, {"fallback": works}),
        (fails, {"fallback": fails}),
        (fails, {"rollback": works}),
        (fails, {"rollback": fails}),
    ):
        runs: list[str] = []
        ctx = both.run(using(task.with_options(name="varied", **options)(function), "d"))  # type: ignore[call-overload]
        happened |= {str(event.type) for event in ctx.events}

    assert {*WORKFLOW_EVENTS.split(), *TASK_EVENTS.split(), *OF_ATTEMPTS} <= happened


def test_an_event_has_a_type_a_source_a_name_a_value_a_time_and_an_id(both: Kit) -> None:
    ctx = both.run(my_workflow, "work", "e")

    started = ctx.events[1]
    assert (started.type, started.source_id, started.name) == (ExecutionEventType.TASK_STARTED, "1", "some_task")
    assert started.value == {"data": "work"}
    assert started.time.utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert ctx.events[0].source_id == "my_workflow_e"
    assert len({event.id for event in ctx.events}) == len(ctx.events)
