"""A value of any kind is kept exactly, as an input, an argument and a result, or refused before it is recorded."""

from typing import Any

import pytest

from flux import ExecutionContext, task, workflow
from flux.errors import UnserializableValue
from flux.tasks import parallel, pause, wait_for_signal
from functional.kit import Kit, recorded_ids, stored, types
from support.values import REFUSED, ROUND_TRIPS, canonical

# They count by their names there, or hold what does.
ALLOWED_AS_ARGUMENTS = {"function", "class", "lambda", "tuple member", "model's part"}


@task
async def echo(value: Any) -> Any:
    return value


@workflow
async def passing(ctx: ExecutionContext[Any]) -> Any:
    result = await echo(ctx.input)
    assert canonical(result) == canonical(ctx.input)
    return result


def test_the_table_is_long_enough() -> None:
    assert len(ROUND_TRIPS) >= 60
    assert len(REFUSED) >= 40


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_value_is_the_same_in_every_event_after_it_was_read_again(name: str) -> None:
    value = ROUND_TRIPS[name]
    expected = canonical(value)

    ctx = passing.run(value, execution_id="e")

    assert types(ctx) == ["WS", "TS", "TC", "WC"]
    again = stored("e")
    started, called, returned, completed = (event.value for event in again.events)
    for each in (ctx.output, again.input, again.output, started, called["value"], returned, completed):
        assert canonical(each) == expected
    assert canonical(value) == expected  # And nobody changed it.
    assert canonical(passing.run(value, execution_id="e").output) == expected  # It counts as the same input.


@pytest.mark.parametrize("name", REFUSED)
def test_an_input_that_would_not_be_the_same_is_refused_and_nothing_is_recorded(name: str) -> None:
    value, says = REFUSED[name]

    with pytest.raises(UnserializableValue) as refused:
        passing.run(value, execution_id="e")

    assert says in str(refused.value)
    assert recorded_ids() == []


@pytest.mark.parametrize("name", REFUSED)
def test_an_argument_that_would_not_be_the_same_is_refused_and_no_event_is_recorded(name: str) -> None:
    value, says = REFUSED[name]

    @workflow
    async def calling(ctx: ExecutionContext[None]) -> str:
        try:
            await echo(value)
        except UnserializableValue as error:
            return str(error)
        return "taken"

    output = calling.run(None, execution_id="e").output

    if name in ALLOWED_AS_ARGUMENTS:
        assert types(stored("e")) == ["WS", "TS", "TF", "WC"]
        assert stored("e").events[1].value["value"]
    else:
        assert types(stored("e")) == ["WS", "WC"]
        assert output.startswith("value")
        assert says.removeprefix("value") in output.removeprefix("value")


@pytest.mark.parametrize("name", REFUSED)
def test_a_result_that_would_not_be_the_same_fails_the_task_and_is_not_recorded(name: str) -> None:
    value, says = REFUSED[name]

    @task
    async def give() -> Any:
        return value

    @workflow
    async def taking(ctx: ExecutionContext[None]) -> Any:
        return await give()

    taking.run(None, execution_id="e")

    again = stored("e")
    assert types(again) == ["WS", "TS", "TF", "WF"]
    assert [event.value for event in again.events[:2]] == [None, {}]
    assert isinstance(again.output, UnserializableValue)
    assert says in str(again.output)


def test_a_value_as_deep_as_allowed_is_taken_wherever_values_are(both: Kit) -> None:
    """The engine's own record around it must not be what is too deep."""
    value = ROUND_TRIPS["100 levels"]
    tries = []

    @task.with_options(retry_max_attempts=1, retry_delay=0)
    async def second() -> Any:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError
        return value

    @workflow
    async def deep(ctx: ExecutionContext[Any]) -> Any:
        together = await parallel(echo(value), second())
        answer = await pause("p", output=value)
        return [*together, answer, await wait_for_signal("s")][-1]

    both.run(deep, value, "e")
    both.resume(deep, "e", value)
    both.app.send_signal("e", "s", value)
    ctx = both.run(deep, execution_id="e")

    assert canonical(ctx.output) == canonical(value)
    assert all(event.value or True for event in both.stored("e").events)
