"""Tasks in a row, each given what the one before it returned."""

from collections.abc import Awaitable, Callable
from typing import Any

from flux.tasks.combinator import combine


async def pipeline(*tasks: Callable[[Any], Awaitable[Any]], input: Any) -> Any:  # noqa: A002
    """Give `input` to the first task, its result to the second, and so on; returns the last result.

    Example:
        >>> total = await pipeline(download, parse, count, input=url)
    """
    return await combine("pipeline", _in_turn(tasks, input))


async def _in_turn(tasks: tuple[Callable[[Any], Awaitable[Any]], ...], value: Any) -> Any:
    for task in tasks:
        value = await task(value)
    return value
