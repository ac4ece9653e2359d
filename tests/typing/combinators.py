"""Types of what bodies are written with; mypy and pyright check this file (it is never run)."""

from datetime import datetime, timedelta
from typing import Any, assert_type
from uuid import UUID

from flux import ExecutionContext, call, task, workflow
from flux.tasks import (
    Graph,
    choice,
    continue_as_new,
    now,
    parallel,
    pipeline,
    progress,
    randint,
    randrange,
    sleep,
    uuid4,
    wait_for_signal,
)


@task
async def double(x: int) -> int:
    return 2 * x


@task
async def text(x: int) -> str:
    progress(x)
    await progress({"done": x})
    return str(x)


graph = (
    Graph("g")
    .add_node("double", double)
    .add_node("text", text)
    .add_node("plain", lambda x: x)
    .add_edge("double", "text", condition=lambda x: x > 1)
    .add_edge("text", "plain")
    .start_with("double")
    .end_with("plain")
    .validate()
)
assert_type(graph, Graph)


@workflow
async def child(ctx: ExecutionContext[int]) -> int:
    return ctx.input


@workflow
async def body(ctx: ExecutionContext[None]) -> None:
    assert_type(await now(), datetime)
    assert_type(await uuid4(), UUID)
    assert_type(await randint(1, 6), int)
    assert_type(await randrange(6), int)
    assert_type(await choice(["a", "b"]), str)
    assert_type(await parallel(double(1), double(2)), list[int])
    assert_type(await pipeline(double, text, input=1), Any)
    assert_type(await parallel(child(1), child(2)), list[int])
    assert_type(await graph(1), Any)
    assert_type(await call("child", 1), Any)
    assert_type(await wait_for_signal("paid", timeout=timedelta(days=3)), Any)
    await sleep(5)
    await continue_as_new(None)
    assert_type("never", int)  # What follows is not reached.
