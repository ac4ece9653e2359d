"""W3, W3l and W8: many executions at once, and one small one at a time."""

import asyncio
import gc
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.measuring import Row, Scale, database, divide, interleave, plain_commits, require, seconds, warm
from benchmarks.tasks import check, sequential, step
from flux import ExecutionContext, workflow
from flux.worker import garbage

COUNT, WIDTH = 1_000, 100
TOGETHER, TASKS = 200, 50
TICK_SECONDS = 0.001


@workflow
async def one(ctx: ExecutionContext[int]) -> int:
    """A single task."""
    return await step(ctx.input)


async def _finish(numbers: Iterator[int]) -> None:
    for number in numbers:
        ctx = await one.run_async(number)
        require(
            ctx.has_succeeded and ctx.output == number, f"execution {number} is {ctx.state}, its output {ctx.output}"
        )


async def _all(count: int) -> None:
    numbers = iter(range(count))  # Shared: whoever is free takes the next one.
    await asyncio.gather(*(_finish(numbers) for _ in range(WIDTH)))


def executions_per_second(count: int = COUNT) -> float:
    """The rate of one-task executions, so many at a time."""
    return count / seconds(lambda: asyncio.run(_all(count)))


def executions_per_second_of_a_worker() -> float:
    """The same rate in a process that collects garbage as those of Flux do."""
    before = gc.get_threshold()
    garbage.relax()
    try:
        return executions_per_second()
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


def seconds_of_one() -> float:
    """How long one execution of one task takes, in the median of some."""
    taken = []
    for number in range(50):
        began = time.perf_counter()
        ctx = one.run(number)
        taken.append(time.perf_counter() - began)
        require(ctx.output == number, f"execution {number} is {ctx.state}, its output {ctx.output}")
    return median(taken)


class Crowd:
    """W8: executions of many tasks at once, on a loop whose lag is watched."""

    def __init__(self) -> None:
        self.lag_ms: list[float] = []

    def rate(self) -> float:
        """Tasks a second."""
        return TOGETHER * TASKS / asyncio.run(self._together())

    async def _together(self) -> float:
        lags: list[float] = []
        ticking = asyncio.create_task(self._tick(lags))
        began = time.perf_counter()
        found: list[ExecutionContext[Any]] = await asyncio.gather(
            *(sequential.run_async(TASKS) for _ in range(TOGETHER))
        )
        taken = time.perf_counter() - began
        ticking.cancel()
        for ctx in found:
            check(ctx, TASKS)
        self.lag_ms.append(quantiles(lags, n=100)[-1] * 1000)
        return taken

    async def _tick(self, lags: list[float]) -> None:
        while True:
            due = time.perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            lags.append(time.perf_counter() - due)


def _check_all(path: Path) -> None:
    """Refuse figures of executions that are not all finished, or whose histories are not whole."""
    connection = sqlite3.connect(path)
    unfinished = connection.execute("SELECT count(*) FROM executions WHERE state <> 'COMPLETED'").fetchone()[0]
    events = connection.execute(
        "SELECT workflow, min(events), max(events) FROM (SELECT workflow, (SELECT count(*) FROM events "
        "WHERE execution = number AND type = 'TASK_COMPLETED') AS events FROM executions) GROUP BY workflow ORDER BY 1"
    ).fetchall()
    connection.close()
    require(not unfinished, f"{unfinished} executions are not finished")
    require(events == [("one", 1, 1), ("sequential", TASKS, TASKS)], f"histories have other numbers of tasks: {events}")


def many_at_once(scale: Scale) -> list[Row]:
    """W3, W3l and W8, beside C."""
    crowd = Crowd()
    with database(scale.folder) as path, plain_commits(scale.folder) as plain:
        warm(path, executions_per_second)
        seconds_of_one()
        found = interleave(
            scale.rounds,
            {
                "C": plain.rate,
                "W3": executions_per_second,
                "relaxed": executions_per_second_of_a_worker,
                "W3l": seconds_of_one,
                "W8": crowd.rate,
            },
        )
        _check_all(path)
    c = found["C"]
    beside_c: dict[str, Any] = {"beside": "C", "besides": c, "needs_disk": True}
    return [
        Row(
            workload="W3",
            what="1,000 one-task executions, 100 at a time",
            unit="/s",
            figures=found["W3"],
            ratios=divide(found["W3"], c),
            must=0.8,
            aim=2.0,
            **beside_c,
        ),
        Row(
            workload="W3",
            what="… where garbage is collected as in `flux worker`",
            unit="/s",
            figures=found["relaxed"],
            ratios=divide(found["relaxed"], c),
            **beside_c,
        ),
        Row(
            workload="W3l",
            what="one one-task execution at a time, `run()`",
            unit="ms",
            figures=[each * 1000 for each in found["W3l"]],
            beside="1/C",
            besides=[1000 / each for each in c],
            ratios=[each * rate for each, rate in zip(found["W3l"], c, strict=True)],
            must=5.0,
            aim=3.0,
            at_most=True,
            needs_disk=True,
        ),
        Row(
            workload="W8",
            what="200 executions of 50 tasks at once, tasks",
            unit="/s",
            figures=found["W8"],
            ratios=divide(found["W8"], c),
            must=1.5,
            aim=3.0,
            **beside_c,
        ),
        Row(
            workload="W8",
            what="… lag of the loop, p99",
            unit="ms",
            figures=crowd.lag_ms,
            must=20.0,
            at_most=True,
        ),
    ]
