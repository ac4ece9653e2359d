"""Calls that type checkers must refuse: each line marked `error` and no other (it is never run)."""

from flux import ExecutionContext, call, task, workflow
from flux.tasks import Graph, wait_for_signal


@task
async def double(x: int) -> int:
    return 2 * x


@task.with_options(retry_max_attempts=1)
def length(text: str, *, strip: bool = False) -> int:
    return len(text)


class Shop:
    @task
    async def price(self, sku: str) -> float:
        return 1.0


@workflow
async def greet(ctx: ExecutionContext[str]) -> str:
    return ctx.input


@workflow
async def body(ctx: ExecutionContext[int]) -> None:
    await double("x")  # error
    await double(1, 2)  # error
    await double()  # error
    await double(y=1)  # error
    await length(1)  # error
    await length("a", True)  # error
    await double.with_options(timeout=1)("x")  # error
    await double.map(["x"])  # error
    await Shop().price(5)  # error
    result: str = await double(1)  # error
    double(1) + 1  # error
    ctx.input.upper()  # error
    await greet(5)  # error
    greeting: int = await greet("x")  # error
    await call(5)  # error
    await wait_for_signal(5)  # error
    await wait_for_signal("paid", 5)  # error
    Graph("g").add_node("a", 5)  # error
    Graph("g").add_edge("a", "b", condition=True)  # error
    Graph(5)  # error


def callers() -> None:
    greet.run(5)  # error
    greet.run("x", 5)  # error
    greet.start(5)  # error
    task.with_options(retries=3)  # error
    task.with_options(retry_max_attempts="3")  # error
    double.with_options(timeuot=1)  # error
    task.with_options(cache=60)  # error
    task.with_options(executor="thraed")  # error
    task.with_options(output_storage="folder")  # error
    task.with_options(secret_requests=5)  # error
    workflow.with_options(nmae="x")  # error
    workflow.with_options(output_storage="folder")  # error
    greet.signal(5, "paid")  # error
    greet.cancel(5)  # error
