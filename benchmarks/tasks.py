"""W1, W1p and W2: the tasks of one execution, one after another and all at once."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measuring import (
    COMMITS,
    Row,
    Scale,
    database,
    divide,
    interleave,
    plain_commits,
    require,
    seconds,
    warm,
)
from flux import ExecutionContext, ExecutionEventType, task, workflow
from flux.store import database as sqlite_database

_COPY = """CREATE TABLE events (
    execution INTEGER, seq INTEGER, fence INTEGER, type TEXT, call_id TEXT, name TEXT, data BLOB, detail_data BLOB,
    time_us INTEGER, checksum INTEGER, PRIMARY KEY (execution, seq)
) WITHOUT ROWID"""
_ROWS = "SELECT * FROM events WHERE execution = (SELECT number FROM executions WHERE execution_id = ?) ORDER BY seq"


@task
async def step(number: int) -> int:
    """The least that a task can be."""
    return number


@task.with_options(pure=True)
async def pure_step(number: int) -> int:
    """The same, which may be made again."""
    return number


@workflow
async def sequential(ctx: ExecutionContext[int]) -> int:
    """Tasks one after another."""
    total = 0
    for number in range(ctx.input):
        total += await step(number)
    return total


@workflow
async def pure_sequential(ctx: ExecutionContext[int]) -> int:
    """Pure tasks one after another."""
    total = 0
    for number in range(ctx.input):
        total += await pure_step(number)
    return total


@workflow
async def parallel(ctx: ExecutionContext[int]) -> int:
    """Tasks all at once."""
    return sum(await step.map(range(ctx.input)))


def check(ctx: ExecutionContext[Any], count: int) -> None:
    """Refuse an execution that is not finished, whose output is another one, or whose history is not whole."""
    require(ctx.has_succeeded, f"{ctx.workflow_name} of {count} tasks is {ctx.state}")
    require(ctx.output == sum(range(count)), f"{ctx.workflow_name} of {count} tasks gave {ctx.output}")
    done = sum(event.type is ExecutionEventType.TASK_COMPLETED for event in ctx.events)
    require(done == count, f"{ctx.workflow_name} has {done} results of {count} tasks in its history")


def tasks_per_second(body: Any, count: int) -> float:
    """The rate of an execution of so many tasks, from `run` to its result."""
    began = time.perf_counter()
    ctx = body.run(count)
    taken = time.perf_counter() - began
    check(ctx, count)
    return count / taken


class Rows:
    """The yardstick of W2: awaiting the bare coroutines, and storing the same rows in one transaction."""

    def __init__(self, path: Path, rows: list[tuple[Any, ...]]) -> None:
        self._rows, self._execution = rows, 0
        self._database = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute(_COPY)
        warm(path, self._store)

    def rate(self, count: int) -> float:
        """Tasks a second."""

        async def gather() -> int:
            return sum(await asyncio.gather(*(step.func(number) for number in range(count))))

        def act() -> None:
            require(asyncio.run(gather()) == sum(range(count)), "the bare coroutines gave another sum")
            self._store()

        return count / seconds(act)

    def _store(self) -> None:
        self._execution += 1
        self._database.execute("BEGIN IMMEDIATE")
        rows = [(self._execution, *row[1:]) for row in self._rows]
        self._database.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._database.close()


@contextmanager
def same_rows(path: Path, count: int) -> Iterator[Rows]:
    """The yardstick with the rows of a real execution of so many tasks, as long as this lasts."""
    ctx = parallel.run(count)
    check(ctx, count)
    source = sqlite3.connect(path)
    found = source.execute(_ROWS, (ctx.execution_id,)).fetchall()
    source.close()
    require(len(found) == len(ctx.events), f"the database has {len(found)} rows of {len(ctx.events)} events")
    rows = Rows(path.with_name(f"rows-{count}.db"), found)
    try:
        yield rows
    finally:
        rows.close()


def one_after_another(scale: Scale) -> list[Row]:
    """W1 and W1p, beside C."""
    with database(scale.folder) as path, plain_commits(scale.folder) as plain:
        warm(path, lambda: tasks_per_second(sequential, COMMITS))
        found = interleave(
            scale.rounds,
            {
                "C": plain.rate,
                "W1": lambda: tasks_per_second(sequential, COMMITS),
                "W1p": lambda: tasks_per_second(pure_sequential, COMMITS),
            },
        )
    shared: dict[str, Any] = {"unit": "/s", "beside": "C", "besides": found["C"], "needs_disk": True}
    limits = {"W1": ("1,000 sequential tasks", 0.6, 0.75), "W1p": ("1,000 sequential pure tasks", 2.5, 4.0)}
    return [
        Row(
            workload=name,
            what=what,
            figures=found[name],
            ratios=divide(found[name], found["C"]),
            must=must,
            aim=aim,
            **shared,
        )
        for name, (what, must, aim) in limits.items()
    ]


def without_syncs(scale: Scale) -> list[Row]:
    """What a task costs beside the sync, as a multiple of awaiting a bare task of asyncio; for disks that sync fast."""
    sqlite_database._PRAGMAS["synchronous"] = 0  # In this process, which measures nothing else.
    with database(scale.folder) as path:
        warm(path, lambda: tasks_per_second(sequential, COMMITS))
        sides = {"bare": _bare_rate, "W1": lambda: tasks_per_second(sequential, COMMITS)}
        found = interleave(scale.rounds, {**sides, "W1p": lambda: tasks_per_second(pure_sequential, COMMITS)})
    micros = {name: [1e6 / rate for rate in rates] for name, rates in found.items()}
    return [
        Row(
            workload=name,
            what="… a task, syncs left out (`synchronous=OFF`)",
            unit="µs",
            figures=micros[name],
            beside="awaiting a bare `create_task`",
            besides=micros["bare"],
            ratios=divide(micros[name], micros["bare"]),
            at_most=True,
        )
        for name in ("W1", "W1p")
    ]


def _bare_rate() -> float:
    async def run() -> int:
        return sum([await asyncio.create_task(step.func(number)) for number in range(COMMITS)])

    return COMMITS / seconds(lambda: require(asyncio.run(run()) == sum(range(COMMITS)), "the bare tasks sum up wrong"))


def all_at_once(scale: Scale) -> list[Row]:
    """W2, beside the bare coroutines and the same rows."""
    rows = []
    with database(scale.folder) as path:
        warm(path, lambda: tasks_per_second(parallel, COMMITS))
        for count in (1_000, 10_000):
            with same_rows(path, count) as bare:
                found = interleave(
                    scale.rounds,
                    {
                        "bare": lambda bare=bare, count=count: bare.rate(count),  # type: ignore[misc]
                        "W2": lambda count=count: tasks_per_second(parallel, count),  # type: ignore[misc]
                    },
                )
            rows.append(
                Row(
                    workload="W2",
                    what=f"{count:,} parallel tasks",
                    unit="/s",
                    figures=found["W2"],
                    beside="`gather` and `executemany`",
                    besides=found["bare"],
                    ratios=divide(found["W2"], found["bare"]),
                    must=0.2,
                    aim=0.35,
                )
            )
    return rows


def cost_at_10000_by_100() -> float:
    """What a task of a long execution costs, beside one of a short execution; for tests/bench."""
    return median(tasks_per_second(sequential, 100) for _ in range(5)) / tasks_per_second(sequential, 10_000)
