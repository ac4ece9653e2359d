"""Virtual time: an event loop that never waits, and the clock that goes with it; this module is for simulations."""

import asyncio
import heapq
import math
import selectors
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flux.engine.attempt import Attempt

EPOCH_US = 1_767_225_600_000_000  # 2026-01-01, so that no test depends on the day.
MICROSECONDS = 1_000_000
JUMPS = 300_000  # More than any test needs: a simulation that polls for ever fails instead of hanging.
NEVER_SECONDS = 1e9  # 31 years: what is due later is not waited for, so that a test that is stuck notices it.
PATIENCE_SECONDS = 10.0  # Real ones, for a thread or a socket.


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

    @property
    def date(self) -> datetime:
        """What the clocks show, in UTC."""
        return datetime.fromtimestamp(EPOCH_US // MICROSECONDS, UTC) + self.elapsed

    def now(self) -> int:
        return EPOCH_US + self.us

    def monotonic(self) -> float:
        return self.us / MICROSECONDS


class _JumpingSelector(selectors.DefaultSelector):
    """Where a real selector would wait, the time is set to the end of the wait."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self.threads = 0  # Functions in threads that have not returned.
        self._time = time
        self._jumps = 0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.threads or len(self.get_map()) > 1:  # One is the loop's own, by which threads wake it.
            return self._wait()
        self._jumps += 1
        if timeout is None or self._jumps > JUMPS:
            what = "it polls without an end" if timeout is not None else "it waits for what nothing here can bring"
            raise RuntimeError(
                f"a task or a workflow is stuck after {self._time.elapsed} of virtual time: {what} (an Event or a "
                "Future that nobody sets, or that a thread of its own would set): put a fake in the task's place"
            )
        self._time.us += max(1, round(timeout * MICROSECONDS))
        return []

    def _wait(self) -> Any:
        """What happens outside takes real time, and virtual time stands still meanwhile."""
        ready = super().select(PATIENCE_SECONDS)
        if not ready:
            what = "a function in a thread" if self.threads else "a socket, or another file"
            raise RuntimeError(
                f"a task has waited for {what} for {PATIENCE_SECONDS:g} s, and virtual time does not run meanwhile: "
                "put a fake in its place, or close the connections that it leaves open"
            )
        return ready


class _Timer(asyncio.TimerHandle):
    """Of equal times, the one that was set first is due first: in a heap that is left to chance."""

    __slots__ = ("number",)
    number: int

    def __lt__(self, other: Any) -> bool:
        return (self.when(), self.number) < (other.when(), other.number)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A host loop on virtual time: sleeping a month takes no time at all.

    While a function runs in a thread (`asyncio.to_thread`), or a socket is open, it waits for real.
    """

    def __init__(self, time: VirtualTime) -> None:
        self._virtual = time
        self._jumping = _JumpingSelector(time)
        self._timers = 0
        super().__init__(self._jumping)
        self._clock_resolution = 0.1 / MICROSECONDS  # Timers a microsecond apart fire one after the other.

    def time(self) -> float:
        return self._virtual.us / MICROSECONDS

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        self._check_closed()  # type: ignore[attr-defined]
        self._timers += 1
        when = math.ceil(when * MICROSECONDS - 0.01) / MICROSECONDS if when < NEVER_SECONDS else when
        timer = _Timer(when, callback, args, self, context)
        timer.number = self._timers
        if when < NEVER_SECONDS:
            timer._scheduled = True  # type: ignore[attr-defined]  # As asyncio's own does.
            heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        return timer

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]
        future = super().run_in_executor(executor, func, *args)
        self._jumping.threads += 1
        future.add_done_callback(self._returned)
        return future

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        self._jumping.threads += 1  # It waits in a thread of its own.
        await super().shutdown_default_executor()

    def _returned(self, _: "asyncio.Future[Any]") -> None:
        self._jumping.threads -= 1

    def _write_to_self(self) -> None:
        """Only from other threads it has to be woken."""
        if self._thread_id != threading.get_ident():  # type: ignore[attr-defined]
            super()._write_to_self()  # type: ignore[misc]


class RememberingLoop(VirtualLoop):
    """As if the world went on with what a crash has interrupted: a race has the same winner then as without one.

    An attempt that is made again goes on in the time of the one before, as far as that is over; so it ends when that
    one would have ended.
    """

    def time(self) -> float:
        us, attempt = self._virtual.us, self._interrupted()
        if attempt is not None and attempt.came_to_us is not None:
            us = min(us, attempt.came_to_us - EPOCH_US)
        return us / MICROSECONDS

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        attempt = self._interrupted()
        if attempt is not None:
            callback = _going_on(attempt, EPOCH_US + math.ceil(when * MICROSECONDS - 0.01), callback)
        return super().call_at(when, callback, *args, context=context)

    def _interrupted(self) -> "Attempt | None":
        branch = getattr(asyncio.current_task(self), "_flux_branch", None)
        attempt: Attempt | None = branch.attempt if branch is not None else None
        return attempt if attempt is not None and attempt.came_to_us is not None and not attempt.is_over else None


def _going_on(attempt: "Attempt", us: int, callback: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> None:
        if attempt.came_to_us is not None:
            attempt.came_to_us = max(attempt.came_to_us, us)
        callback(*args)

    return call
