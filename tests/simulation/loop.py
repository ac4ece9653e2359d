"""The event loop of a simulated process: it never waits, and takes one turn when the universe says so."""

import asyncio
import heapq
import math
from asyncio import events as asyncio_events
from collections.abc import Callable
from typing import Any, Protocol

MICROSECONDS = 1_000_000
NEVER = 1 << 62
CLOSE_TRIES = 20  # What awaits in its clean-up is closed again.


class Time(Protocol):
    """What a loop asks its surroundings."""

    us: int


class _InOrder(dict[Any, None]):
    """As a set, in order: a set of tasks has them by their addresses, and a seed would not take one course."""

    add = dict.setdefault

    def discard(self, each: Any) -> None:
        self.pop(each, None)


class OrderedGroup(asyncio.TaskGroup):
    """A group that cancels its tasks in the order in which they were made."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks = _InOrder()


class ProcessLoop(asyncio.BaseEventLoop):
    """Asyncio's own loop, but for how it runs: callback by callback, and anything may happen between two of them.

    Args:
        time: The clock of the universe.
        lost: Told of what asyncio would log: an error that nobody has looked at, for instance.
    """

    def __init__(self, time: Time, lost: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._universe, self._lost = time, lost
        self._due: list[tuple[int, int, asyncio.TimerHandle]] = []
        self._armed = 0

    def time(self) -> float:
        return self._universe.us / MICROSECONDS

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._armed += 1
        us = math.ceil(when * MICROSECONDS - 0.01)
        heapq.heappush(self._due, (us, self._armed, timer))
        return timer

    def next_due(self) -> int:
        """When a callback is due next: at once, if one is ready."""
        if self._ready:
            return 0
        while self._due and self._due[0][2]._cancelled:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else NEVER

    def turn(self) -> None:
        """Run the next callback, as the running loop."""
        while self._due and self._due[0][0] <= self._universe.us:
            self._ready.append(heapq.heappop(self._due)[2])
        handle = self._ready.popleft()
        if handle._cancelled:
            return
        asyncio_events._set_running_loop(self)
        try:
            handle._run()
        finally:
            asyncio_events._set_running_loop(None)

    def end(self) -> None:
        """Forget everything.  What is suspended is closed here, lest it be at a moment that nobody has chosen."""
        self._lost = lambda _: None
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False
            for _ in range(CLOSE_TRIES):
                if _is_closed(task.get_coro()):
                    break
        self._due.clear()
        self.close()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self._lost(context)

    def run_in_executor(self, *args: Any) -> Any:
        raise RuntimeError("nothing in a simulation may run in a thread: it would not be in the seed's hands")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is left out when its time has come."""

    def _write_to_self(self) -> None:
        """Nobody sleeps."""


def _is_closed(coroutine: Any) -> bool:
    """Close a coroutine; whatever it does meanwhile means nothing.  False if it goes on."""
    try:
        coroutine.close()
    except BaseException as error:  # noqa: BLE001 - its clean-up may raise anything.
        return "ignored GeneratorExit" not in str(error)
    return True
