"""Durable waiting."""

import asyncio

from flux.domain.durations import Duration, in_seconds


async def sleep(duration: Duration) -> None:
    """Wait.  In a body the wait survives restarts: it ends when it would have ended.

    It is `asyncio.sleep`, which is durable in a body as well, for those who think in timedeltas.

    Args:
        duration: Seconds, or a `timedelta`.

    Raises:
        InvalidValueError: It is not a duration.

    Example:
        >>> await sleep(timedelta(days=3))
    """
    await asyncio.sleep(in_seconds("duration", duration))
