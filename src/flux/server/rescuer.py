"""Gives back what dead workers held."""

import asyncio

from flux.clock import Clock
from flux.ports import Store
from flux.server.service import Service

SECONDS = 3.0


def rescuer(store: Store, clock: Clock) -> Service:
    """The service that looks for dead workers: whoever else is alive takes their executions over."""

    async def tick() -> None:
        await asyncio.to_thread(store.rescue, now=clock.now())

    return Service("the rescue of dead workers' executions", tick, seconds=SECONDS)
