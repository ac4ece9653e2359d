"""Processes that answer pauses, one that asks and is killed again and again, and two that are a month apart.

Usage: clicker.py ask TOTAL: for each line on standard input, SECONDS, a process asks, until it has all answers or is
killed after so long.
clicker.py click NAME: answer whatever is open, until there is nothing left to answer; what was accepted is in `acks`.
clicker.py month pause|resume: ask on the first day, or answer on the thirtieth.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from mortal import serve

from flux import ExecutionContext, app, pause, task, workflow
from flux.errors import ExecutionConflictError, NotFoundError, StoreError

EXECUTION = "chain"
DAYS = 30


@task
def act(what: str) -> str:
    with open("ledger", "a") as ledger:
        ledger.write(f"{what}\n")
    return what


@workflow
async def chain(ctx: ExecutionContext[int]) -> list[str]:
    return [await pause("next") for _ in range(ctx.input)]


def ask(total: int) -> None:
    while not chain.run(total, execution_id=EXECUTION).has_finished:
        time.sleep(0.001)


def click(name: str) -> None:
    acks, number = os.open("acks", os.O_WRONLY | os.O_APPEND | os.O_CREAT), 0
    while not _is_over():
        try:
            app.current().send_resume(EXECUTION, f"{name}-{number}")
        except (ExecutionConflictError, NotFoundError, StoreError):
            time.sleep(0.001)  # There is no open pause at this moment.
            continue
        os.write(acks, f"{name}-{number}\n".encode())
        number += 1


def _is_over() -> bool:
    row = app.current().get(EXECUTION)
    return row is not None and row.state.is_finished


@workflow
async def patient(ctx: ExecutionContext[None]) -> Any:
    began = asyncio.get_running_loop().time()
    done = await act("before")
    answer = await pause("approval")
    return [done, answer, await act("after"), asyncio.get_running_loop().time() - began]


def month(action: str) -> None:
    from flux.testing.virtual_time import EPOCH_US, MICROSECONDS, VirtualLoop
    from support.simulation import Process

    later = DAYS * 86_400 * MICROSECONDS if action == "resume" else 0
    process = Process(Path(), seed=0, starts_at=EPOCH_US + later)
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(process.time)) as runner:
        if action == "pause":
            context = runner.run(process.app.run_async(patient.definition, None, "patient"))
        else:
            context = runner.run(process.app.resume_async(patient.definition, "patient", "yes", None))
    process.close()
    print(json.dumps([str(context.state), context.output]))


def main() -> None:
    match sys.argv[1:]:
        case ["ask", total]:
            serve(lambda: ask(int(total)))
        case ["click", name]:
            click(name)
        case ["month", action]:
            month(action)


if __name__ == "__main__":
    main()
