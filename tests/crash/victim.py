"""A process to be killed: runs executions of 50 tasks, and notes its effects and what it was told is durable.

Usage: victim.py ONE_BY_ONE|TOGETHER BUILD ID=INPUT…, in the directory of the database.
"""

import asyncio
import collections
import os
import random
import sys
import time
from pathlib import Path
from typing import Any
from zlib import crc32

from broken import no_quarantine

from flux import ExecutionContext, task, telemetry, workflow
from flux.engine.journal import Log
from flux.errors import StoreError
from flux.ports import AppendResult
from flux.store.database import Database
from flux.store.sqlite import SqliteStore
from flux.tasks import sleep

ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
acks = os.open("acks", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def effect(execution: str, key: str) -> None:
    os.write(ledger, f"{execution} {key} {os.getpid()}\n".encode())


def compute(key: str, value: int) -> int:
    return (value * 31 + crc32(key.encode())) % 1_000_003


@task
async def act(execution: str, key: str, value: int) -> int:
    effect(execution, key)
    await asyncio.sleep(0.0005)
    return compute(key, value)


@task
def act_in_thread(execution: str, key: str, value: int) -> int:
    effect(execution, key)
    time.sleep(0.0005)
    return compute(key, value)


@task.with_options(retry_max_attempts=4, retry_delay=0.002)
async def act_at_third_try(execution: str, key: str, value: int) -> int:
    effect(execution, key)
    if Path("ledger").read_text().count(f"{execution} {key} ") < 3:
        raise ConnectionError(key)
    return compute(key, value)


@workflow
async def fifty(ctx: ExecutionContext[int]) -> int:
    me, total = ctx.execution_id, ctx.input

    async def branch(number: int) -> int:
        value = number
        for step in range(4):
            value = await act(me, f"branch-{number}-{step}", value)
        return value

    for step in range(10):
        total = await act(me, f"first-{step}", total)
    total += sum(await asyncio.gather(*map(branch, range(6))))
    await asyncio.sleep(0.004)
    for step in range(4):
        total = await act_in_thread(me, f"thread-{step}", total)
    for step in range(4):
        total = await act_at_third_try(me, f"retried-{step}", total)
    await sleep(0.003)
    for step in range(8):
        total = await act(me, f"last-{step}", total)
    return total


def note(name: str, fields: dict[str, Any]) -> None:
    """Note what the engine says is durable: from here on it must never be lost."""
    if name == "events.appended":
        lines = [
            f"{e.execution_id} {e.seq} {e.type} {crc32(e.data or b'')} {crc32(e.detail_data or b'')}\n"
            for e in fields["events"]
        ]
        os.write(acks, "".join(lines).encode())


def note_result(ctx: ExecutionContext[int]) -> None:
    os.write(acks, f"{ctx.execution_id} result {ctx.state} {ctx.output}\n".encode())


# -- builds


def slow_disk() -> None:
    """Sound, but each commit takes its time, so that kills meet it."""
    append = SqliteStore._append

    def slowly(self: Any, appends: Any) -> Any:
        time.sleep(random.uniform(0, 0.003))
        results = append(self, appends)
        time.sleep(random.uniform(0, 0.001))
        return results

    SqliteStore._append = slowly


def no_output_commit() -> None:
    """BROKEN: effects start, and results are given, before what they follow from is stored."""
    slow_disk()
    Log.when_durable = lambda self, callback: self._journal.soon(callback)


def results_in_memory() -> None:
    """BROKEN: after the first commit nothing is written, and everything is acknowledged."""
    append, seen = SqliteStore._append, collections.Counter()

    def pretend(self: Any, appends: Any) -> Any:
        seen.update(each.execution_id for each in appends)
        if any(seen[each.execution_id] == 1 for each in appends):
            return append(self, appends)
        return [AppendResult.STORED for _ in appends]

    SqliteStore._append = pretend


def failures_are_successes() -> None:
    """BROKEN: what could not be written is acknowledged all the same."""
    append = SqliteStore._append

    def careless(self: Any, appends: Any) -> Any:
        try:
            return append(self, appends)
        except StoreError:
            return [AppendResult.STORED for _ in appends]

    SqliteStore._append = careless


def same_handle() -> None:
    """BROKEN: after an error the connection is used again."""
    drop = Database._drop_writer

    def keep(self: Any) -> None:
        if self._closed:
            drop(self)
        elif self._writer is not None and self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    Database._drop_writer = keep
    Database.reopen = lambda self: None


BUILDS = {
    "sound": lambda: None,
    "slow_disk": slow_disk,
    "no_output_commit": no_output_commit,
    "results_in_memory": results_in_memory,
    "failures_are_successes": failures_are_successes,
    "same_handle": same_handle,
}


async def together(executions: list[tuple[str, int]]) -> None:
    for ctx in await asyncio.gather(*(fifty.run_async(value, execution_id=id_) for id_, value in executions)):
        note_result(ctx)


def main() -> None:
    order, build, *wanted = sys.argv[1:]
    executions = [(id_, int(value)) for id_, _, value in (each.partition("=") for each in wanted)]
    no_quarantine()
    BUILDS[build]()
    telemetry.attach(note)
    print("up")
    if order == "TOGETHER":
        asyncio.run(together(executions))
    else:
        for id_, value in executions:
            note_result(fifty.run(value, execution_id=id_))


if __name__ == "__main__":
    main()
