"""W5: executions that are paused, and what they cost while nobody answers."""

import asyncio
import gc
import sqlite3
import time
from pathlib import Path
from statistics import median
from typing import Any

import flux.app
from benchmarks.measuring import Row, Scale, database, divide, require, resident_bytes
from flux import ExecutionContext, pause, workflow

AT_ONCE = 100
# What 80,000 more of them may add to a process, each: less than any object takes, more than an allocator wobbles by.
NO_MEMORY_BYTES = 32.0
FLAT = 2.0


@workflow
async def asking(ctx: ExecutionContext[int]) -> int:
    """Waits for an answer."""
    await pause("approval")
    return ctx.input


async def _pause(count: int) -> None:
    numbers = iter(range(count))

    async def pausing() -> None:
        for number in numbers:
            ctx = await asking.run_async(number)
            require(ctx.is_paused, f"an execution that pauses is {ctx.state}")

    await asyncio.gather(*(pausing() for _ in range(AT_ONCE)))


def _stored_bytes(path: Path) -> int:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.stat().st_size


def _touched(path: Path) -> tuple[Any, ...]:
    """What any claim or append would change."""
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT count(*), sum(fence), sum(last_seq), max(changed) FROM executions").fetchone()
    connection.close()
    return tuple(found)


def _poll_us() -> float:
    """What a worker's question for work costs."""
    app, taken = flux.app.current(), []
    workflows = {asking.name: asking.definition.version}
    for _ in range(50):
        began = time.perf_counter()
        claims = app.store.claim_ready(worker="nobody", workflows=workflows, now=app.clock.now(), limit=100)
        taken.append(time.perf_counter() - began)
        require(not claims, "a poll claimed a paused execution")
    return median(taken) * 1e6


def paused(scale: Scale) -> list[Row]:
    """W5: memory and disk for each, and that no poll touches one."""
    few, many = (1_000, 6_000) if scale.is_short else (20_000, 100_000)
    with database(scale.folder) as path:
        asyncio.run(_pause(few))
        gc.collect()
        memory, disk, poll = resident_bytes(), _stored_bytes(path), _poll_us()
        asyncio.run(_pause(many - few))
        gc.collect()
        memory, disk = resident_bytes() - memory, _stored_bytes(path) - disk
        before = _touched(path)
        polls = _poll_us()
        require(_touched(path) == before, "a poll touched paused executions")
        require(before[0] == many, f"{before[0]} executions are stored, not {many}")
    added = many - few
    shared: dict[str, Any] = {"workload": "W5", "at_most": True}
    return [
        Row(
            what=f"{many:,} paused executions, memory for each",
            unit="B",
            figures=[max(memory, 0) / added],
            must=None if scale.is_short else NO_MEMORY_BYTES,  # A wobble of the allocator is too much for few.
            **shared,
        ),
        Row(what="… bytes on disk for each", unit="B", figures=[disk / added], must=1024.0, **shared),
        Row(
            what="… a poll, which touches none",
            unit="µs",
            figures=[polls],
            beside=f"with {few:,}",
            besides=[poll],
            ratios=divide([polls], [poll]),
            must=FLAT,
            **shared,
        ),
    ]
