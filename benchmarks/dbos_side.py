"""The workloads on DBOS, in an environment that has it and not Flux; benchmarks.peers talks to it.

Each line of input names a workload and how many: it answers with one line of JSON, a rate or a time.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median

from dbos import DBOS  # pyright: ignore[reportMissingImports] - it is in an environment of its own.

WIDTH = 100

# As shipped, but for the port and the chatter: SQLite in the working directory, every step synced.
DBOS(config={"name": "bench", "log_level": "ERROR", "run_admin_server": False})


@DBOS.step()
async def step(number: int) -> int:
    """The least that a step can be."""
    return number


@DBOS.workflow()
async def sequential(count: int) -> int:
    """Steps one after another."""
    total = 0
    for number in range(count):
        total += await step(number)
    return total


@DBOS.workflow()
async def parallel(count: int) -> int:
    """Steps all at once."""
    return sum(await asyncio.gather(*(step(number) for number in range(count))))


@DBOS.workflow()
async def one(number: int) -> int:
    """A single step."""
    same: int = await step(number)
    return same


async def _rate(workflow: Callable[[int], Awaitable[int]], count: int) -> float:
    began = time.perf_counter()
    total = await workflow(count)
    taken = time.perf_counter() - began
    assert total == sum(range(count)), f"{count} steps gave {total}"
    return count / taken


async def _executions(count: int) -> float:
    width = asyncio.Semaphore(WIDTH)

    async def finished(number: int) -> None:
        async with width:
            assert await one(number) == number

    began = time.perf_counter()
    await asyncio.gather(*(finished(number) for number in range(count)))
    return count / (time.perf_counter() - began)


async def _seconds_of_one(count: int) -> float:
    taken = []
    for number in range(count):
        began = time.perf_counter()
        assert await one(number) == number
        taken.append(time.perf_counter() - began)
    return median(taken)


async def main() -> None:
    """Answer until the input ends."""
    DBOS.launch()
    workloads: dict[str, Callable[[int], Awaitable[float]]] = {
        "W1": lambda count: _rate(sequential, count),
        "W2": lambda count: _rate(parallel, count),
        "W3": _executions,
        "W3l": _seconds_of_one,
    }
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, count = line.split()
        print(json.dumps(await workloads[name](int(count))), flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main())
