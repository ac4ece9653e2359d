"""Many calls at once, as one entry of the timeline."""

from collections.abc import Coroutine
from typing import Any, TypeVar

from flux.engine.concurrency import run_all
from flux.tasks.combinator import combine

R = TypeVar("R")


async def parallel(
    *coroutines: Coroutine[Any, Any, R], max_concurrent: int | None = None, raise_on_error: bool = True
) -> list[R]:
    """Run coroutines concurrently; gives their results in the order given.

    Args:
        coroutines: Usually calls of tasks.
        max_concurrent: Most of them at a time; all at once by default.
        raise_on_error: If not, the result of one that failed is None.

    Raises:
        ExecutionError: One failed.  The others may finish for 2 seconds, then they are cancelled.

    Example:
        >>> a, b = await parallel(fetch("a"), fetch("b"))
    """
    work = run_all(coroutines, max_concurrent=max_concurrent, raise_on_error=raise_on_error)
    return await combine("parallel", work)
