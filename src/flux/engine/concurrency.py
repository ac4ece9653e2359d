"""Many awaitables at once: what `parallel` and `map` share; plain asyncio, in a body as anywhere."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from flux.errors import InvalidValueError

R = TypeVar("R")

SIBLING_GRACE_SECONDS = 2.0


async def run_all(
    coroutines: Iterable[Coroutine[Any, Any, R]], *, max_concurrent: int | None, raise_on_error: bool
) -> list[R]:
    """Run coroutines concurrently; gives their results in the order given.

    Args:
        coroutines: What to run.
        max_concurrent: Most of them at a time; all at once by default.
        raise_on_error: If not, the result of one that failed is None.

    Raises:
        Exception: Whatever the first to fail raised.  The others may finish for 2 seconds, then they are cancelled.
        InvalidValueError: `max_concurrent` is not a positive number.
    """
    waiting = list(coroutines)
    if max_concurrent is not None and (not isinstance(max_concurrent, int) or max_concurrent < 1):
        for coroutine in waiting:
            coroutine.close()
        raise InvalidValueError(f"max_concurrent is {max_concurrent!r}: it is 1 or more, or None for all at once")
    limit = asyncio.Semaphore(max_concurrent) if max_concurrent is not None else None
    tasks = [asyncio.ensure_future(coroutine if limit is None else _within(limit, coroutine)) for coroutine in waiting]
    try:
        if raise_on_error:
            await _until_first_failure(tasks)
            return [task.result() for task in tasks]
        await asyncio.wait(tasks) if tasks else None
        return [_result_or_none(task) for task in tasks]
    except BaseException:
        await _cancel(tasks)
        raise
    finally:
        for coroutine in waiting:
            coroutine.close()  # Those that never began, behind the limit, would warn that nobody awaited them.


async def _within(limit: asyncio.Semaphore, coroutine: Coroutine[Any, Any, R]) -> R:
    async with limit:
        return await coroutine


async def _until_first_failure(tasks: list[asyncio.Task[R]]) -> None:
    if not tasks:
        return
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    failed = [task for task in tasks if task in done and (task.cancelled() or task.exception() is not None)]
    if not failed:
        return
    if pending:
        await asyncio.wait(pending, timeout=SIBLING_GRACE_SECONDS)
    failed[0].result()


async def _cancel(tasks: list[asyncio.Task[R]]) -> None:
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    if pending:
        await asyncio.wait(pending)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # Looked at, so that asyncio does not report it as lost.


def _result_or_none(task: "asyncio.Task[R]") -> Any:
    if task.cancelled() or task.exception() is not None:
        return None
    return task.result()
