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
from contextlib import suppress
from typing import Any
from zlib import crc32

import broken

import flux.store.sqlite as adapter
from flux import ExecutionContext, app, task, telemetry, workflow
from flux.domain.execution import ExecutionState
from flux.engine.children import scheduled
from flux.engine.journal import Log
from flux.errors import ExecutionConflictError, StoreError
from flux.ports import AppendResult, ExecutionRow
from flux.store.sqlite import SqliteStore

LARGEST_MB = 400
POLL_SECONDS = 0.02
RESCUE_SECONDS = 0.1
FULL_SECONDS = 0.2
began = 0.0  # When this process did, until it has recovered something.


def acknowledge(name: str, fields: dict[str, Any]) -> None:
    """Note what the engine says is durable, as victim.py does."""
    global began
    if name == "events.appended":
        if began:
            note_line("recoveries", time.monotonic() - began)
            began = 0.0
        lines = [
            f"{e.execution_id} {e.seq} {e.type} {crc32(e.data or b'')} {crc32(e.detail_data or b'')}\n"
            for e in fields["events"]
        ]
        note_line("acks", "".join(lines).removesuffix("\n"))


def note(execution: str, what: object) -> None:
    note_line("ledger", execution, what, os.getpid())


def note_line(file: str, *words: object) -> None:
    with open(file, "ab", buffering=0) as notes:  # At once, and whole: others write there too.
        notes.write((" ".join(map(str, words)) + "\n").encode())


def note_error(error: StoreError) -> None:
    with suppress(OSError):  # The disk may be full for notes, too.
        note_line("store-errors", error)


@task
async def work(execution: str, key: str, seconds: float) -> int:
    note(execution, key)
    await asyncio.sleep(seconds)
    return len(key)


@task
async def hold(execution: str, key: str, seconds: float) -> int:
    """Long enough to be stopped in; says whether it came to its end or was told to stop."""
    note_line("begun", execution, key, os.getpid(), time.monotonic())
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note_line("cancelled", execution, key, os.getpid(), time.monotonic())
        raise
    note_line("ended", execution, key, os.getpid(), time.monotonic())
    return len(key)


@workflow
async def holding(ctx: ExecutionContext[list[float]]) -> int:
    steps, seconds = ctx.input
    return sum([await hold(ctx.execution_id, f"step-{step}", seconds) for step in range(int(steps))])


@workflow
async def healthy(ctx: ExecutionContext[list[float]]) -> int:
    steps, seconds = ctx.input
    return sum([await work(ctx.execution_id, f"step-{step}", seconds) for step in range(int(steps))])


@task
async def is_enough() -> bool:
    return os.path.exists("enough")


@workflow
async def lasting(ctx: ExecutionContext[float]) -> int:
    """Works until the test says that it is enough: on a slow machine other work may end before the test has looked."""
    steps = 0
    while not await is_enough():
        await work(ctx.execution_id, f"step-{steps}", ctx.input)
        steps += 1
    return steps


@task
def end_the_process(execution: str, key: str) -> None:
    note(execution, key)
    if key == "exits":
        os._exit(3)
    if key == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    grown = []
    while True:  # As the kernel does when memory runs out.
        grown.append(b"x" * (10 << 20))
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > LARGEST_MB << 10:
            os.kill(os.getpid(), signal.SIGKILL)


@workflow
async def poison(ctx: ExecutionContext[str]) -> int:
    first = await work(ctx.execution_id, "before", 0)
    await end_the_process(ctx.execution_id, ctx.input)
    return first


WORKFLOWS = {each.name: each for each in (healthy, lasting, holding, poison)}


# -- builds


def no_isolation() -> None:
    """BROKEN: what ran beside the poison is suspected again and again together with it."""
    adapter.SUSPECT_TAKEOVERS = 1 << 30


def full_at_first() -> None:
    """Sound, but it begins with a full disk: no file of this process may grow for a while."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    threading.Timer(FULL_SECONDS, resource.setrlimit, (resource.RLIMIT_FSIZE, unlimited)).start()


def no_output_commit() -> None:
    """BROKEN: effects start before what they follow from is stored, on a disk that takes its time."""
    append = SqliteStore._append

    def slowly(self: Any, appends: Any) -> Any:
        time.sleep(0.003)
        return append(self, appends)

    SqliteStore._append = slowly
    Log.when_durable = lambda self, callback: self._journal.soon(callback)


def refusals_told() -> None:
    """Sound; notes appends that are refused, or wrongly stored, and when it learns that it was taken for dead.

    Nothing is put aside: to be taken over again and again is what happens here.
    """
    broken.no_quarantine()
    append = SqliteStore._append

    def telling(self: Any, appends: Any) -> Any:
        results = append(self, appends)
        for each, result in zip(appends, results, strict=True):
            if result is AppendResult.STALE:
                note_line("refused", each.execution_id, each.fence, os.getpid())
            elif fence_of(self, each.execution_id) != each.fence:
                note_line("accepted", each.execution_id, each.fence, os.getpid())
        return results

    SqliteStore._append = telling
    telemetry.attach(superseded)


def fence_of(store: SqliteStore, execution_id: str) -> int:
    """As it is at this moment, in which nobody else can write."""
    query = "SELECT fence FROM executions WHERE execution_id = ?"
    return store._database._writer.execute(query, (execution_id,)).fetchone()[0]


def superseded(name: str, fields: dict[str, Any]) -> None:
    if name == "worker.superseded":
        note_line("superseded", os.getpid(), time.monotonic())


def no_fence() -> None:
    """BROKEN: an append does not compare the fence, and whoever was taken for dead does not care."""
    refusals_told()
    broken.no_fence()
    app.App._superseded = lambda self: None


BUILDS = {
    "refusals_told": refusals_told,
    "no_fence": no_fence,
    "sound": lambda: None,
    "no_quarantine": broken.no_quarantine,
    "no_isolation": no_isolation,
    "full_at_first": full_at_first,
    "no_output_commit": no_output_commit,
}


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


def opened() -> app.App:
    """The app, as soon as its database can be opened."""
    while True:
        try:
            return app.current()
        except StoreError as error:
            note_error(error)
            time.sleep(POLL_SECONDS)


class Pool:
    """Runs what is due, until everything is finished, blocked or paused."""

    def __init__(self, slots: int) -> None:
        self.here, self.slots = opened(), slots
        self.running: dict[str, asyncio.Task] = {}
        self.rescue_at = 0.0

    async def run(self) -> None:
        while True:
            try:
                if not self.look():
                    return
            except StoreError as error:  # It is tried again.
                note_error(error)
            await asyncio.sleep(POLL_SECONDS)

    def look(self) -> bool:
        """Start what is due; False if nothing is left to do."""
        if time.monotonic() >= self.rescue_at:
            self.here.store.rescue(now=self.here.clock.now())
            self.rescue_at = time.monotonic() + RESCUE_SECONDS
        self.running = {id_: each for id_, each in self.running.items() if not each.done()}
        due = [row for row in self.rows(ExecutionState.SCHEDULED) if row.blocked_reason is None]
        self.start([row for row in reversed(due) if row.execution_id not in self.running])
        return bool(due or self.running or self.rows(ExecutionState.RUNNING))

    def rows(self, state: ExecutionState) -> list[ExecutionRow]:
        return self.here.store.list(state=state, limit=1000)

    def start(self, rows: list[ExecutionRow]) -> None:
        for row in rows[: self.slots - len(self.running)]:
            self.running[row.execution_id] = asyncio.create_task(self.drive(row))

    async def drive(self, row: ExecutionRow) -> None:
        try:
            await self.here.engine.run(WORKFLOWS[row.workflow].definition, row.execution_id)
        except ExecutionConflictError as error:
            note_line("conflicts", row.execution_id, error)
        except StoreError as error:
            note_error(error)


def live(build: str, what: str, *arguments: str) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    BUILDS[build]()
    if what == "schedule":
        schedule(*arguments)
    else:
        global began
        note_line("pids", os.getpid())
        began = time.monotonic()
        telemetry.attach(acknowledge)
        asyncio.run(Pool(int(arguments[0])).run())
        app.close_all()


if __name__ == "__main__":
    from mortal import serve

    assert threading.active_count() == 1
    serve(live)
