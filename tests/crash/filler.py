"""A process whose disk is full for a while, in the middle of a run.

Usage: filler.py tmpfs|limit BUILD THEN, where THEN is what happens when the engine has noticed: there is `room` again,
the process `dies`, or `gives-up` and makes room afterwards; `paused` is `room` beside an open pause.  The full disk is
mounted at `.flux`, or is a limit that no file of this process may outgrow; its own notes are small, and elsewhere.
"""

import asyncio
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any
from zlib import crc32

from flux import ExecutionContext, pause, task, telemetry, workflow
from flux.errors import StoreError
from flux.ports import AppendResult
from flux.store.sqlite import SqliteStore

kind, build, then = sys.argv[1:]
ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
acks = os.open("acks", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
failures = 0


def fill_disk() -> None:
    if kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        return
    with open(".flux/filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


def make_room() -> None:
    if kind == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    else:
        os.unlink(".flux/filler")


@task
async def act(execution: str, key: str) -> str:
    os.write(ledger, f"{execution} {key} {os.getpid()}\n".encode())
    if key == "4" and not Path("was-full").exists():
        Path("was-full").touch()
        fill_disk()
    return key * 5000


@workflow
async def eight(ctx: ExecutionContext[int]) -> int:
    return sum([len(await act(ctx.execution_id, str(n))) for n in range(ctx.input)])


@workflow
async def eight_beside_a_pause(ctx: ExecutionContext[int]) -> None:
    await asyncio.gather(pause("open"), *(act(ctx.execution_id, str(n)) for n in range(4)), in_turn(ctx))


async def in_turn(ctx: ExecutionContext[int]) -> None:
    for n in range(4, ctx.input):
        await act(ctx.execution_id, str(n))


def note(name: str, fields: dict[str, Any]) -> None:
    global failures
    if name == "events.appended":
        for e in fields["events"]:
            told = f"{e.execution_id} {e.seq} {e.type} {crc32(e.data or b'')} {crc32(e.detail_data or b'')}\n"
            os.write(acks, told.encode())
    elif name == "store.failed":
        failures += 1
        if failures == 3 and then != "gives-up":
            Path("ledger-when-full").write_text(Path("ledger").read_text())
            if then == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            make_room()


def failures_are_successes() -> None:
    """BROKEN: what could not be written is acknowledged all the same."""
    append = SqliteStore._append

    def careless(self: Any, appends: Any) -> Any:
        try:
            return append(self, appends)
        except StoreError as error:
            note("store.failed", {"error": error})
            return [AppendResult.STORED for _ in appends]

    SqliteStore._append = careless


def main() -> None:
    if build == "careless":
        failures_are_successes()
    telemetry.attach(note)
    wanted = eight_beside_a_pause if then == "paused" else eight
    try:
        ctx = wanted.run(8, execution_id="eight")
    except StoreError:
        if then != "gives-up":
            raise
        make_room()
        print("result", eight.run(8, execution_id="another").state)
        ctx = eight.run(8, execution_id="eight")
    if ctx.has_finished:
        os.write(acks, f"{ctx.execution_id} result {ctx.state} {ctx.output}\n".encode())
    print("result", ctx.state, ctx.output, failures)


if __name__ == "__main__":
    main()
