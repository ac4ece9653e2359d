"""Time as a part that is passed in, so that tests decide what time it is."""

import time
from typing import Protocol


class Clock(Protocol):
    """What the engine asks about time."""

    def now(self) -> int:
        """Wall-clock time, in microseconds since the Unix epoch (UTC)."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()
