"""A watch over bodies that do not let go: whoever computes in a body blocks every execution of its host loop."""

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable

from flux import telemetry
from flux.engine.loop import Drain

logger = logging.getLogger("flux.body")

TICK_SECONDS = 0.5
SLOW_SECONDS = 1.0


class Watch:
    """Warns, with the stack, of a body that is drained for longer than a second; once for each drain.

    Args:
        drains: Gives what is being drained at this moment, in any thread.
    """

    def __init__(self, drains: Callable[[], Iterable[Drain]]) -> None:
        self._drains = drains
        self._warned: set[Drain] = set()
        self._is_needed = threading.Event()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def wake(self) -> None:
        """Look from now on, until nothing runs any more."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="flux-watch", daemon=True)
                self._thread.start()
        if not self._is_needed.is_set():
            self._is_needed.set()

    def rest(self) -> None:
        """Nothing runs: sleep until `wake`."""
        self._is_needed.clear()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._is_needed.set()
        if self._thread is not None:
            self._thread.join()

    def look(self, now: float) -> None:
        """Warn of what has been drained for too long at this time of the monotonic clock."""
        drains = set(self._drains())
        self._warned &= drains
        for drain in drains - self._warned:
            if now - drain.began > SLOW_SECONDS:
                self._warned.add(drain)
                self._warn(drain, now - drain.began)

    def _warn(self, drain: Drain, seconds: float) -> None:
        frame = sys._current_frames().get(drain.thread)
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        logger.warning(
            "a workflow body has computed for %.1f s without waiting, and everything beside it stands still: "
            "move the work into a @task\n%s",
            seconds,
            stack,
        )
        telemetry.emit("body.stalled", seconds=seconds, stack=stack)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._is_needed.wait()
            self.look(time.monotonic())
            self._closing.wait(TICK_SECONDS)
