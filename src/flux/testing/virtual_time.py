"""Virtual time: an event loop that never waits, and the clock that goes with it; this module is for simulations."""

import asyncio
import math
import selectors
from datetime import timedelta
from typing import Any

EPOCH_US = 1_767_225_600_000_000  # 2026-01-01, so that no test depends on the day.
MICROSECONDS = 1_000_000
JUMPS = 300_000  # More than any test needs: a simulation that polls for ever fails instead of hanging.


class VirtualTime:
    """A `Clock` that stands still until a `VirtualLoop` has nothing left to do.

    Args:
        us: Microseconds since the beginning of the simulation.
    """

    def __init__(self, us: int = 0) -> None:
        self.us = us

    @property
    def elapsed(self) -> timedelta:
        """How much time has passed."""
        return timedelta(microseconds=self.us)

    def now(self) -> int:
        return EPOCH_US + self.us

    def monotonic(self) -> float:
        return self.us / MICROSECONDS


class _JumpingSelector(selectors.DefaultSelector):
    """Where a real selector would wait, the time is set to the end of the wait."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self._time = time
        self._jumps = 0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        self._jumps += 1
        if timeout is None or self._jumps > JUMPS:
            what = "nothing is left that could ever happen" if timeout is None else "it polls without an end"
            raise RuntimeError(f"the simulation is stuck at {self._time.us} us: {what}")
        self._time.us += max(1, math.ceil(timeout * MICROSECONDS - 0.01))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A host loop on virtual time, for code of one thread: sleeping a month takes no time at all."""

    def __init__(self, time: VirtualTime) -> None:
        self._virtual = time
        super().__init__(_JumpingSelector(time))
        self._clock_resolution = 0.1 / MICROSECONDS  # Timers a microsecond apart fire one after the other.

    def time(self) -> float:
        return self._virtual.us / MICROSECONDS

    def _write_to_self(self) -> None:
        """Nobody has to wake it: there are no other threads."""
