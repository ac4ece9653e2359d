"""A process that shares executions with others.  It is told what to do, and tells what it does, in lines.

Usage: rival.py BUILD, in the directory of the database.  On standard input: `ID INPUT` runs an execution, `open ID`
lets its task that waits go on.
"""

import asyncio
import os
import sys
import threading
from typing import Any

from broken import no_fence, no_heartbeat

from flux import ExecutionContext, task, telemetry, workflow
from flux.store.sqlite import SqliteStore

ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
gates: dict[str, threading.Event] = {}
printing = threading.Lock()


def tell(*words: object) -> None:
    with printing:
        print(*words)


def effect(execution: str, key: str) -> None:
    os.write(ledger, f"{execution} {key} {os.getpid()}\n".encode())


@task
async def act(execution: str, key: str, value: int) -> int:
    effect(execution, key)
    await asyncio.sleep(0.001)
    return value + 1


@task
def act_when_told(execution: str, key: str, value: int) -> int:
    effect(execution, key)
    tell("waiting", execution)
    gates[execution].wait()
    return value + 1


@workflow
async def three(ctx: ExecutionContext[int]) -> int:
    value = await act(ctx.execution_id, "first", ctx.input)
    value = await act(ctx.execution_id, "second", value)
    return await act(ctx.execution_id, "third", value)


@workflow
async def held(ctx: ExecutionContext[int]) -> int:
    value = await act(ctx.execution_id, "first", ctx.input)
    value = await act_when_told(ctx.execution_id, "second", value)
    return await act(ctx.execution_id, "third", value)


# -- builds


def tell_appends() -> None:
    append = SqliteStore._append

    def telling(self: Any, appends: Any) -> Any:
        results = append(self, appends)
        for each, result in zip(appends, results, strict=True):
            tell("append", each.execution_id, each.fence, result)
        return results

    SqliteStore._append = telling


def no_fence_nor_heartbeat() -> None:
    """BROKEN: nothing stands between."""
    no_heartbeat()
    no_fence()


BUILDS = {"sound": lambda: None, "no_heartbeat": no_heartbeat, "no_fence": no_fence_nor_heartbeat}


def run(id_: str, value: int) -> None:
    try:
        ctx = (held if id_.startswith("held") else three).run(value, execution_id=id_)
    except Exception as error:  # noqa: BLE001 - the test is told.
        tell("raised", id_, repr(error))
    else:
        tell("result", id_, ctx.state, ctx.output)


def main() -> None:
    BUILDS[sys.argv[1]]()
    tell_appends()
    telemetry.attach(lambda name, fields: tell("telemetry", name))
    tell("up")
    for line in sys.stdin:
        word, rest = line.split()
        if word == "open":
            gates[rest].set()
        else:
            gates[word] = threading.Event()
            threading.Thread(target=run, args=(word, int(rest)), daemon=True).start()


if __name__ == "__main__":
    main()
