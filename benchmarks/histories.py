"""W4: continuing an execution that has a long history."""

import json
import sqlite3
import time
from pathlib import Path

import flux.app
from benchmarks.measuring import Row, Scale, database, divide, require
from benchmarks.tasks import pure_step
from flux import ExecutionContext, pause, workflow

# Under "linear": how much more a task may cost in a history that is ten times as long.
LINEAR = 1.5
_ROWS = "SELECT * FROM events WHERE execution = (SELECT number FROM executions WHERE execution_id = ?) ORDER BY seq"


@workflow
async def paused_after(ctx: ExecutionContext[int]) -> int:
    """Some tasks, then a pause, and nothing after it."""
    total = 0
    for number in range(ctx.input):
        total += await pure_step(number)
    await pause("go on")
    return total


def _paused(count: int) -> str:
    ctx = paused_after.run(count)
    require(ctx.is_paused, f"an execution that pauses after {count} tasks is {ctx.state}")
    flux.app.close_all()  # Nothing of it is left in memory.
    return ctx.execution_id


def _seconds_to_continue(execution_id: str, count: int) -> float:
    began = time.perf_counter()
    ctx = paused_after.resume(execution_id)
    taken = time.perf_counter() - began
    require(ctx.has_succeeded and ctx.output == sum(range(count)), f"continued, it is {ctx.state}: {ctx.output}")
    return taken


def _seconds_to_read(path: Path, execution_id: str, count: int) -> float:
    """Reading the rows with plain sqlite3, and decoding their values with plain json."""
    connection = sqlite3.connect(path)
    began = time.perf_counter()
    rows = connection.execute(_ROWS, (execution_id,)).fetchall()
    values = [json.loads(row[6][2:]) for row in rows if row[6]]  # Two bytes name the codec.
    taken = time.perf_counter() - began
    connection.close()
    require(len(values) >= count, f"{len(values)} values were read of {count} tasks")
    return taken


def measured(path: Path, count: int) -> tuple[float, float]:
    """How many seconds it takes to continue so many tasks, start-up subtracted, and to read them."""
    start_up = _seconds_to_continue(_paused(0), 0)
    execution_id = _paused(count)
    read = _seconds_to_read(path, execution_id, count)
    return _seconds_to_continue(execution_id, count) - start_up, read


def continued(scale: Scale) -> list[Row]:
    """W4, beside reading and decoding the rows."""
    counts = (10_000,) if scale.is_short else (10_000, 100_000)
    rounds = 2 if scale.is_short else 3
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    with database(scale.folder) as path:
        measured(path, 1_000)
        for _ in range(rounds):
            for count in counts:
                found[count].append(measured(path, count))
    rows = []
    for count in counts:
        taken, read = (list(side) for side in zip(*found[count], strict=True))
        rows.append(
            Row(
                workload="W4",
                what=f"continue after {count:,} tasks",
                unit="ms",
                figures=[each * 1000 for each in taken],
                beside="reading and decoding the rows",
                besides=[each * 1000 for each in read],
                ratios=divide(taken, read),
                must=4.0,
                aim=2.5,
                at_most=True,
            )
        )
    return rows if scale.is_short else [*rows, _linear(found)]


def _linear(found: dict[int, list[tuple[float, float]]]) -> Row:
    small, large = ([taken * 1e6 / count for taken, _ in found[count]] for count in (10_000, 100_000))
    return Row(
        workload="W4",
        what="… a task of 100,000",
        unit="µs",
        figures=large,
        beside="a task of 10,000",
        besides=small,
        ratios=divide(large, small),
        must=LINEAR,
        at_most=True,
    )
