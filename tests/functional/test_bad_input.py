"""What does not fit is refused before anything is recorded; the message says what, why and what to do."""

import asyncio
import dataclasses
import math
import re
from datetime import timedelta
from typing import Any, TypedDict

import pydantic
import pytest

from flux import ExecutionContext, ExecutionEventType, pause, task, workflow
from flux.errors import FluxError, InvalidInputError, InvalidValueError, UnserializableValue
from flux.tasks import parallel
from functional.kit import Kit, recorded_ids, types


@task
async def echo(value: Any) -> Any:
    return value


class Order(pydantic.BaseModel):
    sku: str
    amount: int


@dataclasses.dataclass
class Line:
    sku: str
    amount: int


class Typed(TypedDict):
    sku: str


def taking(annotation: Any) -> Any:
    async def body(ctx: Any) -> Any:
        return ctx.input

    body.__annotations__["ctx"] = ExecutionContext[annotation]
    return workflow(body)


# -- inputs against their annotation

MISFITS = [
    (int, "many", "input"),
    (int, 1.5, "input"),
    (list[int], [1, "x"], r"input\[1\]"),
    (dict[str, int], {"a": "x"}, r"input\.a"),
    (Order, {"sku": "s"}, r"input\.amount"),
    (Order, {"sku": "s", "amount": "x"}, r"input\.amount"),
    (list[Order], [{"sku": "s", "amount": 1}, {}], r"input\[1\]\.sku"),
    (Line, {"sku": "s", "amount": "x"}, r"input\.amount"),
    (str, 5, "input"),
]


@pytest.mark.parametrize(("annotation", "value", "place"), MISFITS, ids=str)
@pytest.mark.parametrize("how", ["run", "run with id", "start", "run_async"])
def test_an_input_that_does_not_fit_is_refused_naming_the_place(
    annotation: Any, value: Any, place: str, how: str
) -> None:
    flow = taking(annotation)

    with pytest.raises(InvalidInputError, match=place) as caught:
        match how:
            case "run":
                flow.run(value)
            case "run with id":
                flow.run(value, execution_id="e")
            case "start":
                flow.start(value)
            case _:
                asyncio.run(flow.run_async(value))

    assert isinstance(caught.value, ValueError)
    assert recorded_ids() == []


def test_the_refusal_of_an_input_names_the_workflow() -> None:
    with pytest.raises(InvalidInputError, match="body"):
        taking(int).run("many")


def test_an_input_that_does_not_fit_a_typed_dict_of_the_standard_library_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"input\.sku"):
        taking(Typed).run({})


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, "3", 3),
        (Order, {"sku": "s", "amount": 1}, Order(sku="s", amount=1)),
        (Line, {"sku": "s", "amount": 1}, Line("s", 1)),
        (tuple[int, int], [1, 2], (1, 2)),
        (timedelta, 5, timedelta(seconds=5)),
        (Any, object, None),
        (int | None, None, None),
    ],
    ids=str,
)
def test_an_input_that_fits_arrives_as_its_annotation_says(
    both: Kit, annotation: Any, value: Any, expected: Any
) -> None:
    """The control."""
    if annotation is Any:
        assert both.run(taking(Any), {"any": "thing"}).output == {"any": "thing"}
        return
    output = both.run(taking(annotation), value).output

    assert output == expected
    assert type(output) is type(expected)


# -- values that cannot be recorded


class Opaque:
    def __init__(self) -> None:
        self.lock = object()


def too_deep(levels: int = 100_000) -> Any:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


UNRECORDABLE: list[Any] = [
    pytest.param({"a": [1, Opaque()]}, r'\["a"\]\[1\]', id="object"),
    pytest.param([object()], r"\[0\]", id="bare object"),
    pytest.param({"k": open}, r'\["k"\]', id="builtin"),
    pytest.param((i for i in "ab"), "generator", id="generator"),
    pytest.param({"text": "\ud800"}, r'\["text"\].*surrogate', id="lone surrogate"),
    pytest.param({"\udfff": 1}, "surrogate", id="lone surrogate key"),
    pytest.param(too_deep(), "deep", id="100,000 deep"),
    pytest.param({"x": too_deep(200)}, "deep|levels", id="200 deep"),
]


@pytest.mark.parametrize(("value", "says"), UNRECORDABLE)
def test_an_input_that_cannot_be_recorded_is_refused(value: Any, says: str) -> None:
    for call in (taking(Any).run, taking(Any).start):
        with pytest.raises(UnserializableValue, match=says):
            call(value)

    assert recorded_ids() == []


@pytest.mark.parametrize(("value", "says"), UNRECORDABLE[:1] + UNRECORDABLE[3:])
def test_an_argument_that_cannot_be_recorded_is_refused_and_no_call_is_recorded(
    both: Kit, value: Any, says: str
) -> None:
    @workflow
    async def passing(ctx: ExecutionContext[None]) -> str:
        try:
            await echo(value)
        except UnserializableValue as error:
            return str(error)
        return "taken"

    ctx = both.run(passing)

    assert re.search(says, ctx.output)
    assert "value" in ctx.output  # The argument's name.
    assert types(ctx) == ["WS", "WC"]


@pytest.mark.parametrize(("value", "says"), UNRECORDABLE)
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_result_that_cannot_be_recorded_fails_the_task(both: Kit, value: Any, says: str, kind: str) -> None:
    @task
    async def giving() -> Any:
        return value

    @task
    def giving_in_thread() -> Any:
        return value

    @workflow
    async def taking_it(ctx: ExecutionContext[None]) -> Any:
        return await (giving() if kind == "async" else giving_in_thread())

    ctx = both.run(taking_it)

    assert types(ctx) == ["WS", "TS", "TF", "WF"]
    assert isinstance(ctx.output, UnserializableValue)
    assert re.search(says, str(ctx.output))


@pytest.mark.parametrize(("value", "says"), UNRECORDABLE)
def test_a_resume_that_cannot_be_recorded_is_refused_and_the_pause_stays_open(both: Kit, value: Any, says: str) -> None:
    @workflow
    async def asking(ctx: ExecutionContext[None]) -> Any:
        return await pause("p")

    both.run(asking, None, "e")
    with pytest.raises(UnserializableValue, match=says):
        both.resume(asking, "e", value)

    assert types(both.stored("e")) == ["WS", "TS", "TP", "WP"]
    assert both.resume(asking, "e", "fine").output == "fine"


def test_a_pause_whose_output_cannot_be_recorded_is_refused(both: Kit) -> None:
    @workflow
    async def asking(ctx: ExecutionContext[None]) -> Any:
        return await pause("p", output={"x": object()})

    ctx = both.run(asking)

    assert types(ctx) == ["WS", "WF"]
    assert isinstance(ctx.output, UnserializableValue)


def test_nan_is_a_value(both: Kit) -> None:
    output = both.run(taking(float), math.nan).output

    assert math.isnan(output)


def test_an_error_that_cannot_be_recorded_exactly_is_recorded_as_well_as_possible(both: Kit) -> None:
    @task
    async def failing() -> None:
        raise ValueError(Opaque(), "\ud800", too_deep())

    @workflow
    async def calling(ctx: ExecutionContext[None]) -> Any:
        await failing()

    ctx = both.run(calling)

    assert types(ctx) == ["WS", "TS", "TF", "WF"]
    assert isinstance(both.stored(ctx.execution_id).output, ValueError)


def test_arguments_that_do_not_fit_the_function_raise_as_a_call_would(both: Kit) -> None:
    @task
    async def two(a: int, b: int) -> int:
        return a + b

    @workflow
    async def calling(ctx: ExecutionContext[None]) -> Any:
        errors = []
        for call in (lambda: two(1), lambda: two(1, 2, 3), lambda: two(1, c=2)):  # type: ignore[call-arg]
            try:
                await call()
            except TypeError as error:
                errors.append(str(error))
        return errors

    ctx = both.run(calling)

    assert len(ctx.output) == 3
    assert types(ctx) == ["WS", "WC"]


# -- options

BAD_TASK_OPTIONS = [
    ({"retries": 3}, "no option 'retries'.*it takes name, retry_max_attempts"),
    ({"retry_max_attempts": -1}, "retry_max_attempts is -1.*0 or more"),
    ({"retry_max_attempts": 1.5}, "retry_max_attempts is 1.5"),
    ({"retry_max_attempts": "3"}, "retry_max_attempts is '3'"),
    ({"retry_max_attempts": None}, "retry_max_attempts is None"),
    ({"retry_delay": -1}, "retry_delay is -1"),
    ({"retry_delay": math.nan}, "retry_delay is nan"),
    ({"retry_delay": math.inf}, "retry_delay is inf"),
    ({"retry_delay": timedelta(seconds=-1)}, "retry_delay is"),
    ({"retry_delay": "1s"}, "retry_delay is '1s'"),
    ({"retry_backoff": 0}, "retry_backoff is 0"),
    ({"retry_backoff": -2}, "retry_backoff is -2"),
    ({"retry_backoff": math.nan}, "retry_backoff is nan"),
    ({"retry_backoff": math.inf}, "retry_backoff is inf"),
    ({"retry_max_delay": -1}, "retry_max_delay is -1"),
    ({"timeout": -1}, "timeout is -1"),
    ({"timeout": "soon"}, "timeout is 'soon'"),
    ({"timeout": math.nan}, "timeout is nan"),
    ({"retry_on": "ValueError"}, "retry_on is 'ValueError'.*exception class"),
    ({"retry_on": [ValueError]}, "retry_on is"),
    ({"no_retry_on": int}, "no_retry_on is"),
    ({"fallback": 5}, "fallback is 5"),
    ({"rollback": "undo"}, "rollback is 'undo'"),
    ({"name": 5}, "name is 5"),
    ({"name": ""}, "name is ''.*a text, and not empty"),
    ({"retry_jitter": "yes"}, "retry_jitter is 'yes'"),
    ({"pure": 1}, "pure is 1: it is True or False"),
    ({"at_most_once": None}, "at_most_once is None: it is True or False"),
    ({"metadata": "yes"}, "metadata is 'yes': it is True or False"),
    ({"cache": 60}, "cache is 60: it is True, False, or a timedelta"),
    ({"secret_requests": "API_KEY"}, r"secret_requests is 'API_KEY': it is a list of names.*\['API_KEY'\]"),
    ({"secret_requests": [5]}, r"secret_requests is \[5\]"),
    ({"secret_requests": None}, "secret_requests is None"),
    ({"output_storage": "folder"}, "output_storage is 'folder': it is an object with store"),
    ({"executor": "thraed"}, "executor is 'thraed': it is one of thread, process"),
    ({"serializer": "yaml"}, "serializer is 'yaml': it is one of json, pickle"),
]


@pytest.mark.parametrize(("options", "says"), BAD_TASK_OPTIONS, ids=str)
def test_an_option_of_a_task_that_does_not_fit_is_refused_when_it_is_given(options: Any, says: str) -> None:
    def function() -> None:
        pass

    with pytest.raises(InvalidValueError, match=says):
        task.with_options(**options)(function)
    with pytest.raises(InvalidValueError, match=says):
        task(function).with_options(**options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"nmae": "x"}, "no option 'nmae'.*it takes name"),
        ({"name": 5}, "name is 5"),
        ({"name": ""}, "name is ''"),
        ({"version": 2}, "version is 2"),
        ({"secret_requests": "API_KEY"}, "secret_requests is 'API_KEY': it is a list of names"),
        ({"output_storage": "folder"}, "output_storage is 'folder': it is an object with store"),
    ],
    ids=str,
)
def test_an_option_of_a_workflow_that_does_not_fit_is_refused(options: Any, says: str) -> None:
    async def body(ctx: Any) -> None:
        pass

    with pytest.raises(InvalidValueError, match=says):
        workflow.with_options(**options)(body)


async def _takes_nothing() -> None: ...


async def _takes_more(ctx: Any, more: int) -> None: ...


async def _takes_a_keyword(ctx: Any, *, more: int) -> None: ...


class _Holder:
    async def method(self, ctx: Any) -> None: ...


@pytest.mark.parametrize(
    "body", [_takes_nothing, _takes_more, _takes_a_keyword, _Holder.method], ids=lambda body: body.__name__
)
def test_a_workflow_that_takes_anything_but_its_context_is_refused_saying_what_to_write(body: Any) -> None:
    says = rf"its execution context and nothing else: write {body.__name__}\(ctx: ExecutionContext\)"

    with pytest.raises(InvalidValueError, match=says):
        workflow(body)


def test_a_workflow_may_take_more_that_nobody_need_give() -> None:
    @workflow
    async def generous(ctx: ExecutionContext[int], factor: int = 2, *rest: Any, **more: Any) -> int:
        return ctx.input * factor

    assert generous.run(2).output == 4


@pytest.mark.parametrize("decorate", [task, workflow], ids=["task", "workflow"])
def test_decorators_go_on_functions(decorate: Any) -> None:
    with pytest.raises(InvalidValueError, match="goes on a function, not on 5"):
        decorate(5)


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2"], ids=repr)
def test_a_limit_that_is_none_is_refused(both: Kit, limit: Any) -> None:
    @workflow
    async def mapping(ctx: ExecutionContext[str]) -> Any:
        if ctx.input == "map":
            await echo.map([1, 2], max_concurrent=limit)
        await parallel(echo(1), max_concurrent=limit)

    for how in ("map", "parallel"):
        ctx = both.run(mapping, how)
        assert isinstance(ctx.output, InvalidValueError)
        assert "max_concurrent is" in str(ctx.output)
        assert ExecutionEventType.TASK_COMPLETED not in {e.type for e in ctx.events}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("timeout", [-1, "soon", math.nan], ids=repr)
def test_a_pause_whose_timeout_does_not_fit_is_refused_and_does_not_pause(both: Kit, timeout: Any) -> None:
    @workflow
    async def asking(ctx: ExecutionContext[None]) -> Any:
        return await pause("p", timeout=timeout)

    ctx = both.run(asking)

    assert isinstance(ctx.output, InvalidValueError)
    assert "timeout is" in str(ctx.output)
    assert types(ctx) == ["WS", "WF"]


@pytest.mark.parametrize("name", [5, None, ["a"]], ids=repr)
def test_a_pause_is_named_by_text(both: Kit, name: Any) -> None:
    @workflow
    async def asking(ctx: ExecutionContext[None]) -> Any:
        return await pause(name)

    ctx = both.run(asking)

    assert isinstance(ctx.output, InvalidValueError)
    assert types(ctx) == ["WS", "WF"]


@pytest.mark.timeout(10)
@pytest.mark.parametrize("seconds", [math.inf, 1e300], ids=repr)
def test_a_wait_for_ever_is_a_wait_like_others(both: Kit, seconds: float) -> None:
    """`sleep(inf)` is how plain asyncio is told to wait until it is cancelled."""

    @workflow
    async def patient(ctx: ExecutionContext[None]) -> Any:
        try:
            async with asyncio.timeout(5):
                await asyncio.sleep(seconds)
        except TimeoutError:
            return "cancelled"

    assert both.run(patient).output == "cancelled"


@pytest.mark.timeout(10)
def test_a_wait_that_is_no_number_fails_the_body(both: Kit) -> None:
    @workflow
    async def confused(ctx: ExecutionContext[None]) -> Any:
        await asyncio.sleep(math.nan)

    ctx = both.run(confused)

    assert types(ctx) == ["WS", "WF"]
    assert isinstance(ctx.output, ValueError)


def test_pause_outside_a_body_says_where_it_belongs(both: Kit) -> None:
    with pytest.raises(FluxError, match="plain code.*belongs in the body of a workflow"):
        asyncio.run(_pause())


async def _pause() -> None:
    await pause("p")


def test_bad_settings_are_refused_naming_where_they_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_LEASE_SECONDS", "soon")

    with pytest.raises(InvalidInputError, match="lease_seconds.*FLUX_LEASE_SECONDS"):
        taking(Any).run(1)


def test_every_refusal_is_an_error_of_flux() -> None:
    assert issubclass(UnserializableValue, InvalidValueError)
    assert issubclass(InvalidInputError, InvalidValueError)
    assert issubclass(InvalidValueError, FluxError)


def test_a_result_that_cannot_be_recorded_is_not_tried_again(both: Kit) -> None:
    calls = []

    @task.with_options(retry_max_attempts=3, retry_delay=0)
    async def charge() -> object:
        calls.append("charged")
        return object()

    @workflow
    async def charging(ctx: ExecutionContext[None]) -> object:
        return await charge()

    ctx = both.run(charging)

    assert isinstance(ctx.output, UnserializableValue)
    assert calls == ["charged"]
