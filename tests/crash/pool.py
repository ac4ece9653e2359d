"""Processes that run whatever is scheduled in one database, as many at once as they have slots.

Each line on standard input makes one (see mortal.py): SECONDS BUILD schedule WORKFLOW COUNT INPUT, or SECONDS BUILD
work SLOTS, which ends when nothing is left to do.
"""

import asyncio
import json
import os
import resource
import signal
import threading
import time
from typing import Any
from zlib import crc32

import flux.store.sqlite as adapter
from flux import ExecutionContext, app, task, telemetry, workflow
from flux.domain.execution import ExecutionState
from flux.engine.children import scheduled
from flux.errors import ExecutionConflictError
from flux.ports import ExecutionRow
from flux.store.sqlite import SqliteStore

LARGEST_MB = 400
POLL_SECONDS = 0.02
RESCUE_SECONDS = 0.1


def acknowledge(name: str, fields: dict[str, Any]) -> None:
    """Note what the engine says is durable, as victim.py does."""
    if name == "events.appended":
        lines = [
            f"{e.execution_id} {e.seq} {e.type} {crc32(e.data or b'')} {crc32(e.detail_data or b'')}\n"
            for e in fields["events"]
        ]
        with open("acks", "a") as file:
            file.write("".join(lines))


def note(execution: str, what: object) -> None:
    with open("ledger", "a") as file:
        file.write(f"{execution} {what} {os.getpid()}\n")


@task
async def work(execution: str, step: int, seconds: float) -> int:
    note(execution, step)
    await asyncio.sleep(seconds)
    return step


@workflow
async def healthy(ctx: ExecutionContext[list[float]]) -> int:
    steps, seconds = ctx.input
    return sum([await work(ctx.execution_id, step, seconds) for step in range(int(steps))])


@task
def end_the_process(execution: str, how: str) -> None:
    note(execution, how)
    if how == "exits":
        os._exit(3)
    if how == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    grown = []
    while True:  # As the kernel does when memory runs out.
        grown.append(b"x" * (10 << 20))
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > LARGEST_MB << 10:
            os.kill(os.getpid(), signal.SIGKILL)


@workflow
async def poison(ctx: ExecutionContext[str]) -> int:
    first = await work(ctx.execution_id, 0, 0)
    await end_the_process(ctx.execution_id, ctx.input)
    return first


WORKFLOWS = {each.name: each for each in (healthy, poison)}


# -- builds


def no_quarantine() -> None:
    """BROKEN: whatever ends its process is claimed again for ever."""
    SqliteStore._quarantine = staticmethod(lambda cursor, worker: 0)


def no_isolation() -> None:
    """BROKEN: what ran beside the poison is suspected again and again together with it."""
    adapter.SUSPECT_TAKEOVERS = 1 << 30


BUILDS = {"sound": lambda: None, "no_quarantine": no_quarantine, "no_isolation": no_isolation}


# -- what a process does


def schedule(name: str, count: str, value: str) -> None:
    """Record executions named after their workflow, and numbered."""
    here, chosen = app.current(), WORKFLOWS[name].definition
    appends = []
    for number in range(int(count)):
        create, data = here._new(chosen, json.loads(value), worker=None)
        appends.append(scheduled(f"{name}-{number}-{json.loads(value)}".replace(" ", ""), create, data))
    here.store.append(appends)
    app.close_all()


class Pool:
    """Runs what is due, until everything is finished, blocked or paused."""

    def __init__(self, slots: int) -> None:
        self.here, self.slots = app.current(), slots
        self.running: dict[str, asyncio.Task] = {}

    async def run(self) -> None:
        rescue_at = 0.0
        while True:
            if time.monotonic() >= rescue_at:
                self.here.store.rescue(now=self.here.clock.now())
                rescue_at = time.monotonic() + RESCUE_SECONDS
            self.running = {id_: each for id_, each in self.running.items() if not each.done()}
            due = [row for row in self.rows(ExecutionState.SCHEDULED) if row.blocked_reason is None]
            self.start([row for row in reversed(due) if row.execution_id not in self.running])
            if not due and not self.running and not self.rows(ExecutionState.RUNNING):
                return
            await asyncio.sleep(POLL_SECONDS)

    def rows(self, state: ExecutionState) -> list[ExecutionRow]:
        return self.here.store.list(state=state, limit=1000)

    def start(self, rows: list[ExecutionRow]) -> None:
        for row in rows[: self.slots - len(self.running)]:
            self.running[row.execution_id] = asyncio.create_task(self.drive(row))

    async def drive(self, row: ExecutionRow) -> None:
        try:
            await self.here.engine.run(WORKFLOWS[row.workflow].definition, row.execution_id)
        except ExecutionConflictError as error:
            note(row.execution_id, f"blocked:{len(str(error)) > 0}")


def live(build: str, what: str, *arguments: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    BUILDS[build]()
    if what == "schedule":
        schedule(*arguments)
    else:
        telemetry.attach(acknowledge)
        asyncio.run(Pool(int(arguments[0])).run())
        app.close_all()


if __name__ == "__main__":
    from mortal import serve

    assert threading.active_count() == 1
    serve(live)
