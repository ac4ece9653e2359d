"""A process that is killed in executions of every depth: calls inside tasks, children, and histories that begin anew.

Usage: nested.py BUILD.  For each line on standard input, SECONDS EXECUTION INPUT, a process runs that execution to its
end, or is killed after so long.  It writes down what it does and what it was told is stored.
"""

import asyncio
import os
import sys
import time
from typing import Any
from zlib import crc32

from broken import no_quarantine
from mortal import serve

from flux import ExecutionContext, task, telemetry, workflow
from flux.engine.attempt import Attempt
from flux.tasks import continue_as_new, sleep

Result = tuple[str, int]  # The key of an effect, and what came of it.
GENERATIONS = 2


def write(line: str) -> None:
    with open("log", "a", buffering=1) as log:
        log.write(f"{line}\n")


def compute(key: str, value: int) -> Result:
    write(f"began {key}")
    return key, (value * 31 + crc32(key.encode())) % 1_000_003


@task
async def act(key: str, value: int) -> Result:
    result = compute(key, value)
    await asyncio.sleep(0.002)
    return result


@task
def act_in_thread(key: str, value: int) -> Result:
    result = compute(key, value)
    time.sleep(0.002)
    return result


@task
async def enclose(key: str, value: int, depth: int) -> int:
    """Calls tasks one after the other, at once, and inside each other."""
    _, value = await act(f"{key}.first", value)
    results = await asyncio.gather(act(f"{key}.left", value), act_in_thread(f"{key}.right", value))
    value = sum(result for _, result in results)
    if depth:
        value += await enclose(f"{key}.inner", value, depth - 1)
    await asyncio.sleep(0.002)
    return value


@workflow
async def branch(ctx: ExecutionContext[list[Any]]) -> int:
    key, value = ctx.input
    _, value = await act(f"{key}.act", value)
    await sleep(0.002)
    return value + await enclose(f"{key}.enclosed", value, 1)


@workflow
async def twig(ctx: ExecutionContext[list[Any]]) -> int:
    key, value = ctx.input
    return await branch([f"{key}.below", value]) + 1


@workflow
async def tree(ctx: ExecutionContext[list[int]]) -> int:
    generation, value = ctx.input
    key = f"{ctx.execution_id}/{generation}"
    values = await asyncio.gather(
        branch([f"{key}.one", value]), twig([f"{key}.two", value]), enclose(f"{key}.three", value, 2)
    )
    _, value = await act(f"{key}.last", sum(values))
    if generation < GENERATIONS:
        await continue_as_new([generation + 1, value])
    return value


def forget_calls_inside() -> None:
    """BROKEN: a call inside a task that is run again is made again, whatever the history has."""
    look_up = Attempt._look_up

    def forgetful(self: Any, *args: Any) -> Any:
        call_id, answer = look_up(self, *args)
        return (call_id, None) if answer is None else (f"{call_id}~{os.getpid()}", None)

    Attempt._look_up = forgetful


BUILDS = {"sound": lambda: None, "forget_calls_inside": forget_calls_inside}


def note(name: str, fields: dict[str, Any]) -> None:
    if name == "events.appended":
        for event in fields["events"]:
            if event.type == "TASK_COMPLETED" and event.name.startswith("act"):
                write(f"stored {event.value[0]}")


def live(execution: str, value: str) -> None:
    telemetry.attach(note)
    context = tree.run([1, int(value)], execution_id=execution)
    write(f"result {execution} {context.state} {context.output}")


if __name__ == "__main__":
    no_quarantine()
    BUILDS[sys.argv[1]]()
    serve(live)
