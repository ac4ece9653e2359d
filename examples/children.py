"""Executions in an execution: each album is an execution of its own, with its own id and its own history.

flux run examples/children.py:library '["sea", "hills", "empty"]' --id photos
flux executions list

Watch for: the albums run side by side, and the parent is recorded as one call for each, however much an album does. One
that fails is an error in the parent, which may go on without it. Cancelling the parent cancels its children.
"""

import asyncio

from flux import ExecutionContext, call, task, workflow

PHOTOS = {"sea": ["boat", "gull"], "hills": ["goat", "fog", "hut"], "empty": []}


@task
async def shrink(photo: str) -> str:
    return f"{photo}.small"


@workflow
async def album(ctx: ExecutionContext[str]) -> list[str]:
    photos = PHOTOS[ctx.input]
    if not photos:
        raise ValueError(f"the album {ctx.input!r} has no photos")
    return await shrink.map(photos)


@workflow
async def index(ctx: ExecutionContext[list[str]]) -> str:
    return " ".join(sorted(ctx.input))


@workflow
async def library(ctx: ExecutionContext[list[str]]) -> str:
    albums = await asyncio.gather(*(album(name) for name in ctx.input), return_exceptions=True)
    good = [photo for photos in albums if isinstance(photos, list) for photo in photos]
    text: str = await call("index", good)  # By name, for a workflow that this file need not import.
    return text


if __name__ == "__main__":
    ctx = library.run(["sea", "hills", "empty"])
    print(ctx.output)
    for event in ctx.events:
        print(event.type, event.name, event.call_id)
