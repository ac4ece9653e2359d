"""Durable waiting."""

import asyncio
from datetime import timedelta


async def sleep(duration: float | timedelta) -> None:
    """Wait.  In a body the wait survives restarts: it ends when it would have ended.

    It is `asyncio.sleep`, which is durable in a body as well, for those who think in timedeltas.

    Args:
        duration: Seconds, or a `timedelta`.

    Example:
        >>> await sleep(timedelta(days=3))
    """
    await asyncio.sleep(duration.total_seconds() if isinstance(duration, timedelta) else duration)
