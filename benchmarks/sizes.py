"""W7 and W9: bytes on disk, of small values and of large ones."""

import hashlib
import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import flux.app
from benchmarks.measuring import Row, Scale, database, divide, interleave, require, seconds
from benchmarks.tasks import check, sequential
from flux import ExecutionContext, task, workflow

TASKS = 10_000
MEBIBYTE, RESULTS = 1 << 20, 100


@task
async def large(seed: int) -> bytes:
    """A result of a mebibyte, which cannot be compressed."""
    return random.Random(seed).randbytes(MEBIBYTE)  # noqa: S311 - bytes, and no secret.


@workflow
async def many_large(ctx: ExecutionContext[int]) -> str:
    """Large results, one after another."""
    digest = hashlib.sha256()
    for number in range(ctx.input):
        digest.update(await large(number))
    return digest.hexdigest()


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
    """W9, beside making the same bytes, and writing and syncing each."""
    values = [random.Random(number).randbytes(MEBIBYTE) for number in range(RESULTS)]  # noqa: S311 - as above.
    expected = hashlib.sha256(b"".join(values)).hexdigest()
    number = iter(range(1_000))

    def run() -> float:
        found: list[Any] = []
        taken = seconds(lambda: found.append(many_large.run(RESULTS)))
        require(found[0].output == expected, f"the large results are others, or the execution is {found[0].state}")
        return taken

    def write() -> float:
        path = scale.folder / f"bytes-{next(number)}"

        def act() -> None:
            with path.open("wb", buffering=0) as file:
                for seed in range(RESULTS):
                    file.write(random.Random(seed).randbytes(MEBIBYTE))  # noqa: S311 - as above.
                    os.fsync(file.fileno())

        taken = seconds(act)
        path.unlink()
        return taken

    with database(scale.folder):
        run()
        found = interleave(3 if scale.is_short else 5, {"write": write, "W9": run})
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
