"""Fakes: they take a task's place, keep what it is, and tell what they were asked."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from flux import ExecutionContext, TaskMetadata, call, task, workflow
from flux.errors import InvalidValueError
from flux.tasks import parallel
from flux.testing import Bed, FakedCall, fake


@pytest.fixture(autouse=True)
def bed() -> Iterator[Bed]:
    with Bed().installed() as bed:
        yield bed


@task.with_options(name="charge {order}", retry_max_attempts=2, retry_delay=60, metadata=True, secret_requests=["KEY"])
async def charge(order: int, amount: int = 5, *, metadata: TaskMetadata, secrets: dict[str, str]) -> str:
    raise AssertionError("the real bank was called")


@workflow
async def checkout(ctx: ExecutionContext[int]) -> str:
    return await charge(ctx.input)


def test_a_fake_gives_its_result_in_the_place_of_the_task_and_notes_the_call():
    with fake(charge, returns="receipt") as charged:
        context = checkout.run(7, execution_id="seven")

    assert context.output == "receipt"
    assert [event.name for event in context.events if event.call_id] == ["charge 7", "charge 7"]
    (call_,) = charged.calls
    assert (call_.arguments, call_.execution_id, call_.call_id, call_.attempt) == ({"order": 7}, "seven", "1", 1)


def test_a_fake_that_raises_is_retried_as_the_task_is(bed: Bed):
    with fake(charge, raises=ConnectionError("no answer")) as charged:
        context = checkout.run(7)

    assert isinstance(context.output, ConnectionError)
    assert [each.attempt for each in charged.calls] == [1, 2, 3]
    assert len({each.key for each in charged.calls}) == 1
    assert bed.time.elapsed.total_seconds() == 60 + 120


def test_each_attempt_takes_the_next_item_of_a_script():
    with fake(charge, script=[ConnectionError, OSError("again"), "receipt"]) as charged:
        assert checkout.run(7).output == "receipt"

    assert len(charged.calls) == 3


def test_a_script_that_is_too_short_says_so():
    with fake(charge, script=["receipt"]):
        checkout.run(1)
        context = checkout.run(2)

    assert "'charge {order}' is asked for answer 4, and its script has 1" in str(context.output)


def test_a_function_is_called_with_the_arguments_and_with_metadata_if_it_takes_them():
    async def answer(order: int, metadata: TaskMetadata) -> str:
        await asyncio.sleep(1)
        return f"{order} {metadata.attempt}"

    with fake(charge, calls=answer):
        assert checkout.run(7).output == "7 1"
    with fake(charge, calls=lambda order: -order):
        assert checkout.run(7).output == -7


def test_afterwards_everything_is_as_it_was_and_the_innermost_of_nested_fakes_counts():
    before = charge.definition, charge.func
    with fake(charge, returns="outer") as outer:
        with fake(charge, returns="inner") as inner, pytest.raises(LookupError):
            assert checkout.run(7).output == "inner"
            raise LookupError
        assert checkout.run(8).output == "outer"

    assert (charge.definition, charge.func) == before
    assert [[each.arguments["order"] for each in faked.calls] for faked in (inner, outer)] == [[7], [8]]


@task
async def outer_task(x: int) -> list[int]:
    return [await inner_task(x), *await inner_task.map([x + 1, x + 2])]


@task
def inner_task(x: int) -> int:
    raise AssertionError("not faked")


@workflow
async def nested(ctx: ExecutionContext[int]) -> Any:
    return await outer_task(ctx.input)


def test_a_task_that_is_called_in_a_task_is_faked_too():
    with fake(inner_task, calls=lambda x: 10 * x) as faked:
        assert nested.run(1).output == [10, 20, 30]

    assert sorted(each.call_id for each in faked.calls) == ["1/1", "1/1:1", "1/2:1"]


class Bank:
    def __init__(self, name: str) -> None:
        self.name = name

    @task
    async def pay(self, amount: int, *, note: str = "") -> str:
        return f"{self.name} {amount}"

    @staticmethod
    @task
    async def rate(currency: str) -> float:
        return 1.0


@workflow
async def payments(ctx: ExecutionContext[Any]) -> list[Any]:
    return await parallel(Bank("a").pay(1, note="x"), Bank("b").pay(amount=2), Bank.rate("nok"))


def test_a_method_is_faked_on_every_object_which_is_no_argument():
    with fake(Bank.pay, calls=lambda amount, note="-": (amount, note)) as paid, fake(Bank.rate, returns=0.1) as rated:
        assert payments.run().output == [(1, "x"), (2, "-"), 0.1]

    assert [each.arguments for each in paid.calls] == [{"amount": 1, "note": "x"}, {"amount": 2}]
    assert [each.arguments for each in rated.calls] == [{"currency": "nok"}]
    assert payments.run().output == ["a 1", "b 2", 1.0]


@task
async def with_its_own(metadata: str) -> str:
    return metadata


@workflow
async def own_metadata(ctx: ExecutionContext[Any]) -> str:
    return await with_its_own(metadata="mine")


def test_a_parameter_of_the_users_that_is_called_metadata_is_an_argument():
    with fake(with_its_own, calls=lambda metadata: metadata.upper()) as faked:
        assert own_metadata.run().output == "MINE"

    assert faked.calls[0].arguments == {"metadata": "mine"}


def test_a_fake_answers_outside_a_workflow_too():
    with fake(charge, script=["first", "second"]) as charged:
        assert [asyncio.run(each) for each in (charge(1), charge(2))] == ["first", "second"]

    assert [(each.execution_id, each.arguments) for each in charged.calls] == [("", {"order": 1}), ("", {"order": 2})]


# -- children


@workflow
async def faked_child(ctx: ExecutionContext[int]) -> int:
    raise AssertionError("not faked")


@workflow
async def parent(ctx: ExecutionContext[Any]) -> Any:
    results = await asyncio.gather(
        faked_child(1), call("faked_child", 2), faked_child("no number"), return_exceptions=True
    )  # type: ignore[arg-type]
    return [repr(result)[:20] for result in results]


def test_a_child_workflow_is_faked_by_what_its_body_does_and_its_input_is_checked_all_the_same():
    with fake(faked_child, script=[10, ValueError("sold out")]) as faked:
        assert parent.run().output == ["10", "ValueError('sold out", 'InvalidInputError("t']

    assert [each.arguments for each in faked.calls] == [{"input": 1}, {"input": 2}]
    assert all(isinstance(each, FakedCall) for each in faked.calls)


@pytest.mark.parametrize("options", [{}, {"returns": 1, "raises": ValueError}, {"script": [], "calls": print}])
def test_a_fake_does_exactly_one_thing(options: dict[str, Any]):
    with pytest.raises(InvalidValueError, match="exactly one of"), fake(charge, **options):
        pass


def test_only_tasks_and_workflows_are_faked():
    with pytest.raises(InvalidValueError, match="give it a task"), fake(print, returns=1):  # type: ignore[arg-type]
        pass
