"""Attributes: texts by which an execution is found, recorded when it is created, whichever way that is."""

import asyncio

import pytest

import flux.app
from flux import ExecutionContext, workflow
from flux.catalogue import Search
from flux.errors import InvalidValueError
from flux.testing import Bed


@workflow
async def echo(ctx: ExecutionContext[int]):
    return ctx.input


def by_run(**options):
    return echo.run(1, **options).execution_id


def by_run_async(**options):
    async def scenario():
        return (await echo.run_async(1, **options)).execution_id

    return asyncio.run(scenario())


def by_start(**options):
    handle = echo.start(1, **options)
    handle.wait(10)
    return handle.execution_id


def by_control(**options):
    return flux.app.current().control([echo.definition]).start("echo", 1, **options)[0].execution_id


WAYS = [by_run, by_run_async, by_start, by_control]


@pytest.mark.parametrize("way", WAYS)
def test_an_execution_is_found_by_the_attributes_of_its_start(way):
    execution_id = way(attributes={"customer": "7"})
    other = way(attributes={"customer": "8"})
    catalogue = flux.app.current().catalogue

    assert [row.execution_id for row in catalogue.search(Search(attributes={"customer": "7"}))] == [execution_id]
    assert catalogue.attributes([execution_id, other])[other] == {"customer": "8"}


@pytest.mark.parametrize("again", WAYS)
@pytest.mark.parametrize("way", WAYS)
def test_the_same_start_with_other_attributes_is_the_same_start_and_keeps_the_first(way, again):
    way(execution_id="one", attributes={"customer": "7"})
    again(execution_id="one", attributes={"customer": "8", "more": "x"})
    again(execution_id="one")

    assert flux.app.current().catalogue.attributes(["one"]) == {"one": {"customer": "7"}}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "refused",
    [
        {"customer": 7},
        {"": "7"},
        {7: "7"},
        {"a=b": "7"},
        {"a": "x" * 257},
        {"a" * 257: "x"},
        {"a": "\ud800"},
        {"a\0": "x"},
        {str(n): "x" for n in range(21)},
        ["customer"],
    ],
    ids=repr,
)
def test_what_is_no_attribute_is_refused_before_anything_is_recorded(way, refused):
    with pytest.raises(InvalidValueError):
        way(execution_id="one", attributes=refused)

    assert flux.app.current().get("one") is None


def test_attributes_at_their_limits_are_kept_as_they_are():
    kept = {"é" * 256: "ü" * 256, "empty": "", "line": "a\nb"} | {str(n): "x" for n in range(17)}
    execution_id = by_run(attributes=kept)

    assert flux.app.current().catalogue.attributes([execution_id]) == {execution_id: kept}


def test_they_are_kept_in_memory_too():
    bed = Bed()
    with bed.installed():
        echo.run(1, execution_id="one", attributes={"customer": "7"})
        echo.run(1, execution_id="other")

        assert bed.store.attributes(["one", "other", "unknown"]) == {"one": {"customer": "7"}}
