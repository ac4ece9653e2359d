"""Built-in tasks and combinators outside a workflow: plain functions."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flux import task
from flux.errors import InvalidValueError
from flux.tasks import choice, now, parallel, pipeline, randint, randrange, sleep, uuid4


@task
async def double(x: int) -> int:
    return 2 * x


@task
async def broken(x: int) -> int:
    raise ValueError(x)


def run(work: Any) -> Any:
    async def main() -> Any:
        return await work()

    return asyncio.run(main())


def test_time_ids_and_chance() -> None:
    moment, ids = run(now), [run(uuid4) for _ in range(3)]

    assert moment.tzinfo is UTC
    assert abs(datetime.now(UTC) - moment) < timedelta(seconds=5)
    assert len(set(ids)) == 3
    assert {run(lambda: randint(1, 2)) for _ in range(40)} == {1, 2}
    assert {run(lambda: randrange(3)) for _ in range(60)} == {0, 1, 2}
    assert {run(lambda: randrange(2, 7, 2)) for _ in range(60)} == {2, 4, 6}
    assert {run(lambda: choice("ab")) for _ in range(40)} == {"a", "b"}


def test_combinators() -> None:
    assert run(lambda: parallel(double(1), double(2))) == [2, 4]
    assert run(lambda: parallel()) == []
    assert run(lambda: parallel(broken(1), double(2), raise_on_error=False)) == [None, 4]
    assert run(lambda: double.map([1, 2, 3], max_concurrent=2)) == [2, 4, 6]
    assert run(lambda: pipeline(double, double, input=1)) == 4
    assert run(lambda: pipeline(input=1)) == 1
    assert run(lambda: sleep(timedelta(0))) is None


def test_a_failure_of_one_is_raised() -> None:
    with pytest.raises(ValueError, match="1"):
        run(lambda: parallel(double(0), broken(1)))


def test_a_limit_that_does_not_fit_leaves_no_coroutine_behind() -> None:
    with pytest.raises(InvalidValueError, match="max_concurrent is 0"):
        run(lambda: parallel(double(1), max_concurrent=0))


def test_coroutines_that_never_began_are_closed() -> None:
    with pytest.raises(ValueError, match="1"):
        run(lambda: parallel(broken(1), double(2), double(3), max_concurrent=1))
