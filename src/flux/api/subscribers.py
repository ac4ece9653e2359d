"""The event streams that are open: so many for each caller, so many in all, each only while its token holds."""

import asyncio
from collections.abc import Callable

from flux.api.access import Caller, Limits
from flux.api.errors import RefusedError
from flux.errors import StoreError

_LATER = {"Retry-After": "5"}


class Subscribers:
    """Counts the open streams, and ends those whose token no longer counts.

    Args:
        limits: How many there may be.
        holds: Whether the token of a caller still counts.
    """

    def __init__(self, limits: Limits, holds: Callable[[Caller], bool]) -> None:
        self._limits, self._holds = limits, holds
        self._open: dict[asyncio.Timeout, Caller] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, caller: Caller, end: asyncio.Timeout) -> None:
        """Count a stream; `end` is what it runs under, and how it is ended.

        Raises:
            RefusedError: There are too many.
        """
        if sum(each.key == caller.key for each in self._open.values()) >= self._limits.streams_each:
            hint = f"close one; {self._limits.streams_each} may be open, and /api/stream follows all executions"
            raise RefusedError(429, "TooManyStreams", "too many event streams are open for you", hint, **_LATER)
        if len(self._open) >= self._limits.streams:
            raise RefusedError(503, "TooManyStreams", "too many event streams are open", "try again later", **_LATER)
        self._open[end] = caller
        if self._timer is None:
            self._wait()

    def leave(self, end: asyncio.Timeout) -> None:
        """Forget a stream."""
        self._open.pop(end, None)

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._limits.recheck_seconds, self._recheck)

    def _recheck(self) -> None:
        self._timer = None
        held = {caller: self._still_holds(caller) for caller in set(self._open.values())}
        for end, caller in list(self._open.items()):
            if not held[caller]:
                del self._open[end]
                end.reschedule(0)
        if self._open:
            self._wait()

    def _still_holds(self, caller: Caller) -> bool:
        try:
            return self._holds(caller)
        except StoreError:
            return False  # Whoever comes back is told that the database is lost.
