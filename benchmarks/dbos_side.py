"""The workloads on DBOS, in an environment that has it and not Flux; benchmarks.peers talks to it.

Each line of input names a workload and how many: it answers with one line of JSON, a rate or a time.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Awaitable, Callable
from statistics import median

# It is in an environment of its own.
from dbos import DBOS, SetWorkflowID, error  # pyright: ignore[reportMissingImports]

WIDTH = 100

# As shipped, but for the port and the chatter: SQLite in the working directory, every step synced.
DBOS(config={"name": "bench", "log_level": "CRITICAL", "run_admin_server": False})


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


_stops: dict[str, tuple[asyncio.Event, asyncio.Event]] = {}  # Where one is to stop: it has come there, it may go on.
_replayed: dict[str, float] = {}


@DBOS.workflow()
async def stopped(count: int) -> int:
    """Steps one after another, and a stop before the last."""
    began = time.perf_counter()
    total: int = 0
    for number in range(count):
        total += await step(number)
    stop = _stops.pop(DBOS.workflow_id, None)
    if stop is None:
        _replayed[DBOS.workflow_id] = time.perf_counter() - began
    else:
        stop[0].set()
        await stop[1].wait()
    last: int = await step(0)
    return total + last


async def _seconds_to_continue(count: int) -> float:
    """From the beginning of a workflow that is run again to the first step that it has not made."""
    name = f"stopped-{len(_replayed)}"
    has_come, may_go_on = _stops[name] = asyncio.Event(), asyncio.Event()
    with SetWorkflowID(name):
        handle = await DBOS.start_workflow_async(stopped, count)
    await has_come.wait()
    await DBOS.cancel_workflow_async(name)
    may_go_on.set()
    with contextlib.suppress(error.DBOSAwaitedWorkflowCancelledError):
        await handle.get_result()
    handle = await DBOS.resume_workflow_async(name)
    total = await handle.get_result()
    assert total == sum(range(count)), f"{count} steps, continued, gave {total}"
    return _replayed[name]


async def _rate(workflow: Callable[[int], Awaitable[int]], count: int) -> float:
    began = time.perf_counter()
    total = await workflow(count)
    taken = time.perf_counter() - began
    assert total == sum(range(count)), f"{count} steps gave {total}"
    return count / taken


async def _executions(count: int) -> float:
    numbers = iter(range(count))  # Shared: whoever is free takes the next one.

    async def finish() -> None:
        for number in numbers:
            assert await one(number) == number

    began = time.perf_counter()
    await asyncio.gather(*(finish() for _ in range(WIDTH)))
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
        "W4": _seconds_to_continue,
    }
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, count = line.split()
        print(json.dumps(await workloads[name](int(count))), flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main())
