"""Async generators in bodies: what is left open is finalised where the body ends, and replays."""

import asyncio
from typing import Any

from flux import ExecutionContext, task, workflow
from functional.kit import Kit, types


class Steps:
    """Tasks that note what they did, and take their time."""

    def __init__(self) -> None:
        self.done: list[str] = []

        @task
        async def step(name: str) -> str:
            await asyncio.sleep(1)
            self.done.append(name)
            return name

        self.step = step


def opening(steps: Steps) -> Any:
    @workflow
    async def job(ctx: ExecutionContext[Any]) -> Any:
        async def source() -> Any:
            try:
                yield 1
                yield 2
            finally:
                await steps.step("closed")
                await asyncio.sleep(1)
                await steps.step("tidied")

        async for _ in source():
            break
        await steps.step("used")
        if ctx.input == "fail":
            raise ValueError("the body's own")
        return "result"

    return job


def test_a_generator_that_was_left_by_break_is_finalised_at_the_end_and_its_clean_up_calls_tasks(both: Kit) -> None:
    steps = Steps()

    ctx = both.run(opening(steps), 1, "e")

    assert ctx.output == "result"
    assert types(ctx) == ["WS", "TS", "TC", "TS", "TC", "TIMER_FIRED", "TS", "TC", "WC"]
    assert steps.done == ["used", "closed", "tidied"]


def test_a_generator_is_finalised_when_the_body_fails_too(both: Kit) -> None:
    steps = Steps()

    ctx = both.run(opening(steps), "fail", "e")

    assert isinstance(ctx.output, ValueError)
    assert str(ctx.output) == "the body's own"
    assert steps.done == ["used", "closed", "tidied"]


def test_the_clean_up_of_a_generator_goes_on_where_a_crash_interrupted_it(kit: Kit) -> None:
    steps = Steps()

    kit.run_for(3.5, opening(steps).run_async(1, execution_id="e"))
    ctx = kit.run(opening(steps), 1, "e")

    assert ctx.output == "result"
    assert types(ctx) == ["WS", "TS", "TC", "TS", "TC", "TIMER_FIRED", "TS", "TC", "WC"]
    assert steps.done == ["used", "closed", "tidied"]


def test_several_open_generators_are_finalised_oldest_first(both: Kit) -> None:
    steps = Steps()

    @workflow
    async def job(ctx: ExecutionContext[int]) -> None:
        async def source(name: str) -> Any:
            try:
                yield name
            finally:
                await steps.step(name)

        for name in "abc":
            async for _ in source(name):
                break

    both.run(job, 1)

    assert steps.done == ["a", "b", "c"]


def test_exhausted_generators_are_not_kept(kit: Kit) -> None:
    most: list[int] = []

    @workflow
    async def job(ctx: ExecutionContext[int]) -> int:
        async def source() -> Any:
            yield 1

        total = 0
        for n in range(5_000):
            async for one in source():
                total += one
            if n % 100 == 0:
                most.append(len(asyncio.get_running_loop()._generators))  # type: ignore[attr-defined]
        return total

    assert kit.run(job, 1).output == 5_000
    assert max(most) < 300


def test_open_generators_stay_open_however_many_are_exhausted_beside_them(kit: Kit) -> None:
    closed: list[int] = []

    @workflow
    async def job(ctx: ExecutionContext[int]) -> int:
        async def source(n: int) -> Any:
            try:
                yield n
            finally:
                closed.append(n)

        left = []
        for n in range(1_000):
            one = source(n)
            async for _ in one:
                if n % 4 == 0:
                    left.append(one)
                    break
        opened = len([n for n in closed if n % 4 == 0])
        closed.clear()
        return opened

    assert kit.run(job, 1).output == 0
    assert closed == list(range(0, 1_000, 4))
