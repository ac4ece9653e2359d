"""What the servers of the tests serve."""

from typing import Any

from pydantic import BaseModel

from flux import ExecutionContext, pause, task, workflow
from flux.tasks import sleep, wait_for_signal

done: list[Any] = []
broken: set[str] = set()


class Order(BaseModel):
    items: dict[str, int]
    customer: str = "nobody"


@task
async def greet(name: str) -> str:
    return f"Hello, {name}!"


@task
async def act(what: str) -> str:
    if what in broken:
        raise ValueError(f"{what} is broken")
    done.append(what)
    return what


@workflow
async def hello(ctx: ExecutionContext[str]) -> str:
    """Say hello.

    To whom the input names.
    """
    return await greet(ctx.input)


@workflow
async def order(ctx: ExecutionContext[Order]) -> int:
    return sum(ctx.input.items.values())


@workflow
async def survey(ctx: ExecutionContext[None]) -> list[Any]:
    return [await pause("mood"), await pause("weather")]


@workflow
async def listen(ctx: ExecutionContext[None]) -> Any:
    return await wait_for_signal("news")


@workflow
async def steps(ctx: ExecutionContext[str]) -> list[str]:
    return [await act(f"{ctx.input}-{n}") for n in range(3)]


@workflow
async def parent(ctx: ExecutionContext[str]) -> str:
    return await hello(ctx.input) + await act(f"{ctx.input}-after")


@workflow
async def nap(ctx: ExecutionContext[float]) -> str:
    await sleep(ctx.input)
    return "awake"


ALL = [hello, order, survey, listen, steps, parent, nap]
