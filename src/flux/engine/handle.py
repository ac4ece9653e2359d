"""The handle of an execution that runs on its own."""

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import Any

from flux.domain.execution_context import ExecutionContext
from flux.engine.hosts import Running
from flux.errors import ExecutionConflictError


class Handle:
    """An execution that runs, or can be run, on its own.

    Args:
        start: Runs it until it is finished or paused.
        send_signal: Takes what `signal` takes.
        send_cancel: Takes what `cancel` takes.

    Attributes:
        execution_id: By which it is known.
    """

    def __init__(
        self,
        execution_id: str,
        start: Callable[[], Running],
        *,
        send_signal: Callable[..., Any],
        send_cancel: Callable[..., Any],
    ) -> None:
        self.execution_id = execution_id
        self._start, self._send_signal, self._send_cancel = start, send_signal, send_cancel
        self._running: Running | None = None

    async def result(self) -> ExecutionContext[Any]:
        """Wait until it is finished or paused."""
        running = self.run()
        if isinstance(running, concurrent.futures.Future):
            return await asyncio.shield(asyncio.wrap_future(running))
        return await asyncio.shield(running)

    def wait(self, timeout: float | None = None) -> ExecutionContext[Any]:
        """Block this thread until it is finished or paused, at most `timeout` seconds."""
        running = self.run()
        if isinstance(running, concurrent.futures.Future):
            return running.result(timeout)
        raise ExecutionConflictError(
            "the execution runs on this thread's event loop, which wait() would block: use 'await handle.result()'"
        )

    def signal(self, name: str, value: Any = None, *, client_id: str | None = None) -> None:
        """Send it a signal; see `Workflow.signal`."""
        self._send_signal(name, value, client_id=client_id)

    def cancel(self, *, now: bool = False) -> None:
        """Ask it to cancel; `result` tells how it ended.  With `now`, it ends without its clean-up."""
        self._send_cancel(now=now)

    def run(self) -> Running:
        """What runs it here; one that was paused is tried again: it may have been answered."""
        running = self._running
        if running is None or (running.done() and not _is_settled(running)):
            running = self._running = self._start()
        return running


def _is_settled(running: Running) -> bool:
    return running.cancelled() or running.exception() is not None or running.result().has_finished
