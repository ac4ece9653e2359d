"""A watch over the loop of a worker: a task that blocks it stops every execution of the process."""

import asyncio
import logging
import sys
import threading
import time
import traceback

from flux import telemetry

logger = logging.getLogger("flux.worker")

TICK_SECONDS = 0.25
SLOW_SECONDS = 1.0


class LoopWatch:
    """Warns, with the stack, when the loop on which it runs has done nothing for more than a second."""

    def __init__(self) -> None:
        self._ticked_at = time.monotonic()
        self._is_told = False
        self._thread_id = 0
        self._stopping = threading.Event()

    async def run(self) -> None:
        """Watch the running loop until this is cancelled."""
        self._thread_id = threading.get_ident()
        thread = threading.Thread(target=self._watch, name="flux-loop-watch", daemon=True)
        thread.start()
        try:
            while True:
                self._tick(time.monotonic())
                await asyncio.sleep(TICK_SECONDS)
        finally:
            self._stopping.set()
            thread.join()

    def look(self, now: float) -> None:
        """Warn if the loop stands still at this time of the monotonic clock, once for each time."""
        if self._is_told or now - self._ticked_at < SLOW_SECONDS:
            return
        self._is_told = True
        frame = sys._current_frames().get(self._thread_id)
        stack = "".join(traceback.format_stack(frame)) if frame else ""
        logger.warning(
            "the event loop has been blocked for %.1f s, and every execution of this worker stands still: make the "
            "task that blocks it a plain `def`, which gets a thread, or await what it waits for\n%s",
            now - self._ticked_at,
            stack,
        )
        telemetry.emit("loop.blocked", seconds=now - self._ticked_at, stack=stack)

    def _tick(self, now: float) -> None:
        if self._is_told:
            telemetry.emit("loop.released", seconds=now - self._ticked_at)
        self._ticked_at, self._is_told = now, False

    def _watch(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            self.look(time.monotonic())
