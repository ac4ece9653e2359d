"""Daemon threads for sync tasks: an abandoned one never keeps the process alive at its end."""

import asyncio
import collections
import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

IDLE_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class _Job:
    context: contextvars.Context
    function: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    on_start: Callable[[], None] | None
    is_running: bool = False
    is_abandoned: bool = False


class ThreadLeft(asyncio.CancelledError):
    """The caller was cancelled, and its thread goes on."""


class Threads:
    """Runs sync functions off the loop, each in a copy of the caller's context.

    An attempt that timed out leaves its thread behind: Python cannot stop it.  Such a thread is not counted, so that
    it does not take the place of another task.

    Args:
        limit: Most threads at work at once; further functions wait.
    """

    def __init__(self, limit: int = 64) -> None:
        self._limit = limit
        self._jobs: collections.deque[_Job] = collections.deque()
        self._has_jobs = threading.Condition()
        self._idle = self._total = 0

    async def run(self, function: Callable[[], Any], on_start: Callable[[], None] | None = None) -> Any:
        """Call the function in a thread and return what it returns.

        When the caller is cancelled, the thread goes on until the function returns, and its result is dropped.

        Args:
            function: Takes no arguments.
            on_start: Called on the caller's loop when the function leaves the queue and begins.

        Raises:
            ThreadLeft: The caller was cancelled after that.
        """
        loop = asyncio.get_running_loop()
        job = _Job(contextvars.copy_context(), function, loop, loop.create_future(), on_start)
        with self._has_jobs:
            self._jobs.append(job)
            self._staff()
        try:
            return await job.future
        except asyncio.CancelledError:
            if job.future.cancelled() and self._abandon(job):  # Else it is what the function has raised.
                raise ThreadLeft from None
            raise

    def _staff(self) -> None:
        """See that somebody takes the waiting jobs; the lock is held."""
        if self._idle >= len(self._jobs):
            self._has_jobs.notify()
        elif self._total < self._limit:
            self._total += 1
            threading.Thread(target=self._work, name="flux-task", daemon=True).start()

    def _abandon(self, job: _Job) -> bool:
        """Returns: Whether it had begun."""
        with self._has_jobs:
            if job.is_running:
                job.is_abandoned = True
                self._total -= 1
                if self._jobs:
                    self._staff()
            return job.is_running

    def _work(self) -> None:
        while True:
            with self._has_jobs:
                self._idle += 1
                has_job = self._has_jobs.wait_for(lambda: self._jobs, IDLE_SECONDS)
                self._idle -= 1
                if not has_job:
                    self._total -= 1
                    return
                job = self._jobs.popleft()
                if job.future.cancelled():
                    continue
                job.is_running = True
            _perform(job)
            with self._has_jobs:
                job.is_running = False
                if job.is_abandoned:
                    return
            del job


def _perform(job: _Job) -> None:
    try:
        if job.on_start is not None:
            job.loop.call_soon_threadsafe(job.on_start)
        try:
            value, error = job.context.run(job.function), None
        except BaseException as caught:  # noqa: BLE001 - a thread must hand on whatever its task raised.
            value, error = None, caught
        job.loop.call_soon_threadsafe(_settle, job.future, value, error)
    except RuntimeError:
        return  # The loop is closed: nobody waits.


def resolve(future: "asyncio.Future[None]") -> None:
    """Set a future that may be done, or given up, already."""
    if not future.done():
        future.set_result(None)


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration | GeneratorExit):  # A future refuses one, a coroutine is closed by the other.
        future.set_exception(RuntimeError(f"the task raised {error!r}"))
    else:
        future.set_exception(error)
