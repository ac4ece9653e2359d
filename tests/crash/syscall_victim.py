"""A run that is killed at one of its system calls, and then continued.  See test_every_syscall.py.

Arguments: the story to run.  Effects are lines of the file `effects`.
"""

import asyncio
import os
import sys

from flux import ExecutionContext, pause, task, workflow
from flux.domain.execution import ExecutionState

OUTPUTS = {"answered": ["a", "b", "rolled back", "fine", "c"], "cancelled": None}


def act(what: str) -> int:
    """Do it, durably; returns how often it was done before."""
    with open("effects", "a+") as file:
        file.seek(0)
        before = file.read().split().count(what)
        file.write(f"{what}\n")
        file.flush()
        os.fsync(file.fileno())
    return before


@task
async def step(name: str) -> str:
    act(name)
    return name


@task.with_options(retry_max_attempts=3, retry_delay=0)
async def flaky(name: str) -> str:
    if act(name) == 0:
        raise OSError("the first time")
    return name


def undo(name: str) -> None:
    act(f"undo-{name}")


@task.with_options(rollback=undo)
async def hopeless(name: str) -> str:
    act(name)
    raise ValueError(name)


@workflow
async def answered(ctx: ExecutionContext[None]) -> list[str]:
    results = [await step("a"), await flaky("b")]
    try:
        results.append(await hopeless("h"))
    except ValueError:
        results.append("rolled back")
    return [*results, await pause("question"), await step("c")]


@workflow
async def cancelled(ctx: ExecutionContext[None]) -> None:
    await step("a")
    try:
        await pause("question")
    except asyncio.CancelledError:
        await step("tidied")
        raise


def main(story: str) -> None:
    chosen = {"answered": answered, "cancelled": cancelled}[story]
    context = chosen.run(None, execution_id="x")
    if context.is_paused:
        context = answered.resume("x", "fine") if chosen is answered else cancelled.cancel("x")
    wanted = ExecutionState.COMPLETED if chosen is answered else ExecutionState.CANCELLED
    assert (context.state, context.output) == (wanted, OUTPUTS[story]), context


if __name__ == "__main__":
    main(*sys.argv[1:])
