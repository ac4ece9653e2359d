"""One background loop of a server."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger("flux.server")


class Service:
    """Ticks until it is stopped; a tick that fails is logged, and the next one comes all the same.

    Args:
        name: For the log.
        tick: What is done.
        seconds: Between two ticks.
    """

    def __init__(self, name: str, tick: Callable[[], Awaitable[None]], *, seconds: float) -> None:
        self.name = name
        self._tick, self._seconds = tick, seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, on the running loop."""
        self._task = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """End; a tick that is under way is cancelled."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._tick()
            except Exception as error:  # noqa: BLE001 - a loop that ends would be missed too late.
                logger.warning("%s failed: %s", self.name, error)
            await asyncio.sleep(self._seconds)
