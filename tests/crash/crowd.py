"""Ten thousand of anything, in a process of its own: says, in one line, what that cost.  See test_many.py.

Argument: what there is so many of.  The line has seconds of processor time and, at last, the most memory in MB.
"""

import asyncio
import gc
import json
import logging
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import flux.app
from flux import ExecutionContext, pause, task, workflow
from flux.store import database
from flux.tasks import wait_for_signal

MANY = 10_000
ROUNDS = 6  # Others may disturb a measurement, or five.


@task
async def give(x: int) -> int:
    return x


@workflow
async def branches(ctx: ExecutionContext[int]) -> int:
    return sum(await asyncio.gather(*(give(n) for n in range(ctx.input))))


@workflow
async def asking(ctx: ExecutionContext[None]) -> int:
    return await give(await pause("how many?"))


@workflow
async def listening(ctx: ExecutionContext[None]) -> int:
    return await give(await wait_for_signal("number"))


def seconds(work: Callable[[], Any]) -> float:
    gc.collect()
    began = time.process_time()
    work()
    return time.process_time() - began


def branch(count: int) -> None:
    assert branches.run(count).output == count * (count - 1) // 2


def measure_branches() -> list[float]:
    """So many, and twice as many."""
    some: list[float] = []
    more: list[float] = []
    while len(some) < ROUNDS and (not some or min(more) > 2.1 * min(some)):
        some.append(seconds(lambda: branch(MANY)))
        more.append(seconds(lambda: branch(2 * MANY)))
    return [min(some), min(more)]


def workflow_of(number: int) -> Any:
    return (asking, listening)[number % 2]


async def wait(numbers: Sequence[int]) -> None:
    runs = [workflow_of(n).run_async(None, execution_id=f"x{n}") for n in numbers]
    assert all(context.is_paused for context in await asyncio.gather(*runs))


async def answer(numbers: Sequence[int]) -> None:
    app = flux.app.current()
    for n in numbers:
        if workflow_of(n) is asking:
            app.send_resume(f"x{n}", n)
        else:
            app.send_signal(f"x{n}", "number", n)
    runs = [app.engine.run(workflow_of(n).definition, f"x{n}") for n in numbers]
    assert [context.output for context in await asyncio.gather(*runs)] == list(numbers)


def measure_waiting() -> list[float]:
    """The first half that begins to wait, and the second; the first half that is answered, and the second."""
    halves = range(MANY // 2), range(MANY // 2, MANY)
    with asyncio.Runner() as runner:
        return [seconds(lambda: runner.run(work(half))) for work in (wait, answer) for half in halves]  # noqa: B023


def peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def main(what: str) -> None:
    logging.disable(logging.WARNING)  # Of the long history.
    gc.disable()  # What a collection costs depends on more than how much there is to do.
    database._PRAGMAS["synchronous"] = 0  # No power fails here, so nothing need be flushed to the disk.
    costs = measure_branches() if what == "branches" else measure_waiting()
    print(json.dumps([*costs, peak_mb()]))


if __name__ == "__main__":
    main(*sys.argv[1:])
