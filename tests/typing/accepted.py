"""Types that users rely on; mypy and pyright check this file (it is never run)."""

from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, assert_type

from flux import ExecutionContext, TaskMetadata, pause, task, workflow
from flux.domain.events import ExecutionEvent
from flux.output_storage import LocalFileStorage, OutputStorage, OutputStorageReference
from flux.task import Task
from flux.workflow import Workflow


@task
async def double(x: int) -> int:
    return 2 * x


@task
def length(text: str, *, strip: bool = False) -> float:
    return float(len(text.strip() if strip else text))


@task.with_options(retry_max_attempts=3, timeout=30, fallback=length.func)
async def fetch(url: str, retries: int = 2) -> bytes:
    return url.encode() * retries


@task.with_options(pure=True)
def pick(names: list[str]) -> str | None:
    return names[0] if names else None


class Shelf(OutputStorage):
    def store(self, reference_id: str, value: Any) -> OutputStorageReference:
        return OutputStorageReference("shelf", reference_id)

    def retrieve(self, reference: OutputStorageReference) -> Any:
        return reference.reference_id

    def delete(self, reference: OutputStorageReference) -> None:
        pass


def undo(url: str) -> None:
    pass


@task.with_options(
    name="get_{url}",
    retry_max_attempts=3,
    retry_delay=timedelta(seconds=1),
    retry_backoff=1.5,
    retry_max_delay=60,
    retry_jitter=True,
    retry_on=(OSError, ValueError),
    no_retry_on=FileNotFoundError,
    timeout=timedelta(minutes=1),
    fallback=undo,
    rollback=undo,
    pure=False,
    at_most_once=True,
    cache=timedelta(hours=1),
    metadata=True,
    secret_requests=["KEY"],
    output_storage=Shelf(),
    executor="thread",
    serializer="json",
)
async def informed(
    url: str, *, metadata: TaskMetadata | None = None, secrets: dict[str, str] | None = None
) -> dict[str, int]:
    return {url: metadata.attempt if metadata else 0}


class Shop:
    @task
    async def price(self, sku: str) -> float:
        return 1.0

    @staticmethod
    @task
    async def currency(country: str) -> str:
        return country

    @task.with_options(retry_max_attempts=1)
    def stock(self, sku: str, at: int = 0) -> int:
        return 1


@workflow
async def greet(ctx: ExecutionContext[str]) -> list[str]:
    assert_type(ctx.input, str)
    assert_type(ctx.execution_id, str)
    assert_type(ctx.events, list[ExecutionEvent])
    return [ctx.input]


@workflow.with_options(name="other", version="1", secret_requests=["KEY"], output_storage=LocalFileStorage())
async def counting(ctx: ExecutionContext[int]) -> int:
    return ctx.input


@workflow
def plain(ctx: ExecutionContext[dict[str, int]]) -> int:
    return ctx.input["x"]


@workflow
async def body(ctx: ExecutionContext[None]) -> None:
    assert_type(await double(1), int)
    assert_type(await double(x=1), int)
    assert_type(await length("a", strip=True), float)
    assert_type(await fetch("u"), bytes)
    assert_type(await fetch("u", retries=3), bytes)
    assert_type(await pick(["a"]), str | None)
    assert_type(await double.with_options(retry_max_attempts=1)(1), int)
    assert_type(await fetch.with_options(name="x")("u"), bytes)
    assert_type(await double.map([1, 2]), list[int])
    assert_type(await length.map(["a"], max_concurrent=1), list[float])
    shop = Shop()
    assert_type(await shop.price("s"), float)
    assert_type(await shop.stock("s", at=1), int)
    assert_type(await shop.price.map(["s"]), list[float])
    assert_type(await Shop.currency("uk"), str)
    assert_type(await pause("p"), Any)
    assert_type(await informed("u"), dict[str, int])
    assert_type(await informed.map(["u"]), list[dict[str, int]])


@workflow
async def parent(ctx: ExecutionContext[str]) -> int:
    assert_type(await greet(ctx.input), list[str])
    assert_type(await counting(1), int)
    assert_type(await counting.with_options(name="again")(1), int)
    assert_type(await plain({"x": 1}), int)
    assert_type(await body(None), None)
    return await counting(1)


def callers() -> None:
    task_of_ints: Task[[int], int] = double
    assert_type(task_of_ints.name, str)
    assert_type(greet, Workflow[str, list[str]])
    assert_type(greet.run("x"), ExecutionContext[str])
    assert_type(greet.run("x", execution_id="e"), ExecutionContext[str])
    assert_type(greet.run(execution_id="e"), ExecutionContext[str])
    assert_type(counting.run(1).input, int)
    assert_type(plain.run({"x": 1}), ExecutionContext[dict[str, int]])
    assert_type(greet.resume("id", 5), ExecutionContext[str])
    assert_type(counting.with_options(version="2").run(1), ExecutionContext[int])
    assert_type(greet.start("x").wait(), ExecutionContext[Any])
    assert_type(greet.start("x").execution_id, str)
    assert_type(greet.cancel("id"), ExecutionContext[str])
    greet.signal("id", "name", 5, client_id="c")
    greet.execution("id").signal("name")
    coroutine: Coroutine[Any, Any, int] = double(1)
    coroutine.close()


async def asynchronous() -> None:
    assert_type(await greet.run_async("x"), ExecutionContext[str])
    assert_type(await greet.resume_async("id"), ExecutionContext[str])
    assert_type(await greet.cancel_async("id"), ExecutionContext[str])
    assert_type(await greet.start("x").result(), ExecutionContext[Any])
    assert_type(await double(1), int)
