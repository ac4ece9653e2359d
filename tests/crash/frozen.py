"""A process whose disk may freeze: it starts tasks all the time, of which some wait for no commit.

Usage: frozen.py BUILD.
"""

import asyncio
import os
import sys
import time
from typing import Any
from zlib import crc32

from flux import ExecutionContext, task, telemetry, workflow
from flux.engine.lease import Lease


def note(file: str, *words: object) -> None:
    with open(file, "ab", buffering=0) as notes:
        notes.write((" ".join(map(str, words)) + "\n").encode())


@task.with_options(pure=True)
async def look(n: int) -> int:
    note("looks", time.time(), os.getpid())
    await asyncio.sleep(0.01)
    return n


@task
async def act(execution: str, key: str) -> int:
    note("ledger", execution, key, os.getpid())
    await asyncio.sleep(0.02)
    return 1


@workflow
async def busy(ctx: ExecutionContext[int]) -> int:
    async def looking() -> int:
        return sum([await look(1) for _ in range(ctx.input)])

    async def acting() -> int:
        return sum([await act(ctx.execution_id, f"act-{n}") for n in range(40)])

    return sum(await asyncio.gather(looking(), acting()))


def acknowledge(name: str, fields: dict[str, Any]) -> None:
    if name == "events.appended":
        for e in fields["events"]:
            note("acks", e.execution_id, e.seq, e.type, crc32(e.data or b""), crc32(e.detail_data or b""))


def blind_trust() -> None:
    """BROKEN: it believes its lease to be good whatever the clock says."""
    Lease.is_trusted = lambda self: True


BUILDS = {"sound": lambda: None, "blind_trust": blind_trust}

if __name__ == "__main__":
    BUILDS[sys.argv[1]]()
    telemetry.attach(acknowledge)
    print("up", os.getpid(), flush=True)
    print("result", busy.run(150, execution_id="busy").output, flush=True)
