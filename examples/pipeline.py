"""Tasks in a row, each given what the one before it returned; the timeline shows them as one entry.

flux run examples/pipeline.py '3, 1, x, 2'

Watch for: every step is an event with a number. That list is all that Flux knows of an execution.
"""

from flux import ExecutionContext, task, workflow
from flux.tasks import pipeline


@task
async def split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


@task
async def numbers(parts: list[str]) -> list[int]:
    return [int(part) for part in parts if part.isdecimal()]


@task
async def total(values: list[int]) -> int:
    return sum(values)


@workflow
async def add_up(ctx: ExecutionContext[str]) -> int:
    result: int = await pipeline(split, numbers, total, input=ctx.input)
    return result


if __name__ == "__main__":
    ctx = add_up.run("3, 1, x, 2")
    print(ctx.output)
    for event in ctx.events:
        print(event.seq, event.type, event.name)
