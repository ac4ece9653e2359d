"""Futures that the code of tasks waits for: for the outcome of a call, for the disk, for an execution that may park."""

import asyncio
from collections.abc import Callable
from typing import Any

from flux.engine.threads import resolve


class Promises:
    """Makes futures, and cancels them when nobody will keep them any more: what waits would wait for ever.

    Args:
        is_live: Whether anything is kept at this moment.
    """

    def __init__(self, is_live: Callable[[], bool]) -> None:
        self._host, self._is_live = asyncio.get_running_loop(), is_live
        self._made: dict[asyncio.Future[Any], None] = {}  # In order, as a set of them is not.
        self._revived: list[asyncio.Future[Any]] = []
        self._is_broken = False

    def make(self) -> "asyncio.Future[Any]":
        """One more."""
        promise: asyncio.Future[Any] = self._host.create_future()
        self._made[promise] = None
        promise.add_done_callback(self._made.pop)
        return promise

    async def until_live(self) -> None:
        """Wait out a parking.

        Raises:
            CancelledError: It succeeded: nobody needs what waits here.
        """
        while not self._is_live():
            if self._is_broken:
                await asyncio.sleep(0)  # What asks again and again lets others run.
                raise asyncio.CancelledError
            live = self.make()
            self._revived.append(live)
            await live

    def revive(self) -> None:
        """The execution was not parked after all."""
        revived, self._revived = self._revived, []
        for live in revived:
            resolve(live)

    def break_all(self) -> None:
        """Nobody keeps them, nor those that are still made."""
        self._is_broken = True
        for promise in list(self._made):
            promise.cancel()
