"""Ten thousand of anything, in a process of its own: says, in one line, what that cost.  See test_many.py.

Arguments: what there is so many of, and how many.
"""

import asyncio
import json
import logging
import resource
import sys
import time
from pathlib import Path

from flux import ExecutionContext, pause, task, workflow

WAVE = 250  # Executions at once; the others are rows.


@task
async def give(x: int) -> int:
    return x


@workflow
async def branches(ctx: ExecutionContext[int]) -> int:
    return sum(await asyncio.gather(*(give(n) for n in range(ctx.input))))


@workflow
async def waiting(ctx: ExecutionContext[int]) -> int:
    return await pause("how many?")


@workflow
async def deep(ctx: ExecutionContext[int]) -> int:
    return 0 if ctx.input == 0 else 1 + await deep(ctx.input - 1)


@task
async def nested(depth: int) -> int:
    return 0 if depth == 0 else 1 + await nested(depth - 1)


@workflow
async def nesting(ctx: ExecutionContext[int]) -> int:
    return await nested(ctx.input)


async def crowd(count: int) -> int:
    numbers = range(count)
    for first in range(0, count, WAVE):
        wave = numbers[first : first + WAVE]
        paused = await asyncio.gather(*(waiting.run_async(n, execution_id=f"x{n}") for n in wave))
        assert all(context.is_paused for context in paused)
    total = 0
    for first in range(0, count, WAVE):
        wave = numbers[first : first + WAVE]
        done = await asyncio.gather(*(waiting.resume_async(f"x{n}", n) for n in wave))
        total += sum(context.output for context in done)
    return total


def peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def main(what: str, text: str) -> None:
    logging.disable(logging.WARNING)  # Of the long history.
    count = int(text)
    began = time.process_time()
    if what == "waiting":
        output = asyncio.run(crowd(count))
    else:
        output = {"branches": branches, "deep": deep, "nesting": nesting}[what].run(count).output
    print(json.dumps({"output": output, "cpu": time.process_time() - began, "mb": peak_mb()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
