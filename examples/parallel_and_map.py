"""Many calls at once: a task for each item of a list, different tasks side by side, and plain asyncio.

flux run examples/parallel_and_map.py '["lisbon", "oslo", "rome"]'

Watch for: nothing here is special but `map` and `parallel`, and those only because a timeline shows them as one entry.
A body is asyncio, and what was first in a race is first in every replay.
"""

import asyncio
from dataclasses import dataclass

from flux import ExecutionContext, task, workflow
from flux.tasks import parallel


@dataclass
class Report:
    """What is known of some cities."""

    warmest: str
    letters: int
    first: str


@task
async def temperature(city: str) -> int:
    await asyncio.sleep(0.2)  # A slow service: all cities together take little longer than one.
    return 35 - 3 * len(city)


@task
async def letters(cities: list[str]) -> int:
    return sum(map(len, cities))


@task
async def motto(city: str, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return f"{city.title()} answers first"


@workflow
async def compare(ctx: ExecutionContext[list[str]]) -> Report:
    # One call an item, at most ten at a time; the results are in the order of the items.
    degrees = await temperature.map(ctx.input, max_concurrent=10)
    warmest = max(zip(degrees, ctx.input, strict=True))[1]
    # A race is decided once: after a crash, the same city wins.
    racers = [asyncio.create_task(motto(city, 0.1 * len(city))) for city in ctx.input]
    done, others = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    (count,) = await parallel(letters(ctx.input))
    return Report(warmest, count, done.pop().result())


if __name__ == "__main__":
    print(compare.run(["lisbon", "oslo", "vienna"]).output)
