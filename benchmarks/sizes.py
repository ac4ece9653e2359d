"""W7 and W9: bytes on disk, of small values and of large ones."""

import os
import random
import sqlite3
from functools import cache
from pathlib import Path
from typing import Any

import flux.app
from benchmarks.measuring import Row, Scale, database, divide, interleave, require, seconds
from benchmarks.tasks import check, sequential
from flux import ExecutionContext, task, workflow

TASKS = 10_000
MEBIBYTE, RESULTS = 1 << 20, 100


@cache
def values() -> list[bytes]:
    """So many results of a mebibyte, which cannot be compressed."""
    return [random.Random(number).randbytes(MEBIBYTE) for number in range(RESULTS)]  # noqa: S311 - no secret.


@task
async def large(number: int) -> bytes:
    """One of them."""
    return values()[number]


@workflow
async def many_large(ctx: ExecutionContext[int]) -> int:
    """Large results, one after another; counts those that arrive as they were."""
    total = 0
    for number in range(ctx.input):
        total += await large(number) == values()[number]
    return total


def _bytes_of(folder: Path) -> int:
    flux.app.close_all()
    for path in folder.glob("*.db"):
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def bytes_a_task(scale: Scale) -> list[Row]:
    """W7: everything that a task adds to the folder of the database."""
    with database(scale.folder):
        check(sequential.run(10), 10)
        before = _bytes_of(scale.folder)
        check(sequential.run(TASKS), TASKS)
        added = _bytes_of(scale.folder) - before
    return [
        Row(
            workload="W7",
            what="bytes on disk a task, small values",
            unit="B",
            figures=[added / TASKS],
            must=300.0,
            aim=200.0,
            at_most=True,
        )
    ]


def large_results(scale: Scale) -> list[Row]:
    """W9, beside writing the same bytes to a file, and syncing it after each.

    What was written before is on the disk when either begins, and neither gives anything back that it wrote.
    """
    name = iter(range(1_000))

    def run() -> float:
        found: list[Any] = []
        os.sync()
        taken = seconds(lambda: found.append(many_large.run(len(values()))))
        require(found[0].output == RESULTS, f"of the large results {found[0].output} are as they were")
        return taken

    def write() -> float:
        path = scale.folder / f"bytes-{next(name)}"

        def act() -> None:
            with path.open("wb", buffering=0) as file:
                for value in values():
                    file.write(value)
                    os.fsync(file.fileno())

        os.sync()
        return seconds(act)

    with database(scale.folder):
        run()
        kept = [path for path in scale.folder.rglob("*") if path.stat().st_size >= MEBIBYTE]
        require(len(kept) >= RESULTS, f"{len(kept)} large results are on the disk")
        found = interleave(2 if scale.is_short else 9, {"write": write, "W9": run})
    return [
        Row(
            workload="W9",
            what="100 results of 1 MiB",
            unit="ms",
            figures=[each * 1000 for each in found["W9"]],
            beside="writing and syncing them",
            besides=[each * 1000 for each in found["write"]],
            ratios=divide(found["W9"], found["write"]),
            must=2.0,
            at_most=True,
        )
    ]
