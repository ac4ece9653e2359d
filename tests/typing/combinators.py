"""Types of what bodies are written with; mypy and pyright check this file (it is never run)."""

from datetime import datetime
from typing import Any, assert_type
from uuid import UUID

from flux import ExecutionContext, task, workflow
from flux.tasks import choice, now, parallel, pipeline, randint, randrange, sleep, uuid4


@task
async def double(x: int) -> int:
    return 2 * x


@task
async def text(x: int) -> str:
    return str(x)


@workflow
async def body(ctx: ExecutionContext[None]) -> None:
    assert_type(await now(), datetime)
    assert_type(await uuid4(), UUID)
    assert_type(await randint(1, 6), int)
    assert_type(await randrange(6), int)
    assert_type(await choice(["a", "b"]), str)
    assert_type(await parallel(double(1), double(2)), list[int])
    assert_type(await pipeline(double, text, input=1), Any)
    await sleep(5)
