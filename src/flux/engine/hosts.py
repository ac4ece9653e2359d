"""The event loops that executions run on where the caller brings none."""

import asyncio
import concurrent.futures
import contextvars
import os
import threading
from collections.abc import Coroutine
from typing import Any

from flux.domain.execution_context import ExecutionContext
from flux.engine import lineage

CLOSE_SECONDS = 10.0  # Longer than the grace of cancelled calls.

Context = ExecutionContext[Any]
Running = asyncio.Task[Context] | concurrent.futures.Future[Context]


def block_on(work: Coroutine[Any, Any, Context]) -> Context:
    """Run on this thread's own loop; where one runs already (a notebook), in a thread made for it."""
    if running_loop() is None:
        try:
            return _own_runner().run(work)
        except (KeyboardInterrupt, SystemExit):
            close_own_loop()  # What the interrupt cut short must not go on in the next run's loop.
            raise
    with concurrent.futures.ThreadPoolExecutor(1, "flux-run") as thread:
        return thread.submit(asyncio.run, work).result()


class Background:
    """Runs executions on their own: on the running loop, or on one of its own, on a daemon thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._started: set[asyncio.Task[Context]] = set()

    def spawn(self, work: Coroutine[Any, Any, Context]) -> Running:
        """Start it, and return what it will give."""
        loop = running_loop()
        if loop is None or loop is _own_loop():  # Our own loop stands still between two runs.
            return self._submit(work)
        context = contextvars.copy_context()
        context.run(lineage.leave)  # A task that starts a workflow is not part of it.
        task: asyncio.Task[Context] = lineage.create_task(loop, work, context)
        self._started.add(task)
        task.add_done_callback(self._started.discard)
        return task

    def close(self) -> None:
        """Cancel what runs on the loop of its own, and stop that."""
        loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _submit(self, work: Coroutine[Any, Any, Context]) -> concurrent.futures.Future[Context]:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="flux-loop", daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _OwnRunner:
    """One reused `asyncio.Runner` of a thread: making a loop for each run would cost more than a short run."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self._process = os.getpid()

    def close(self) -> None:
        """Close the loop, unless a task in it goes on although it is cancelled: nobody can wait for that."""
        loop = self.runner.get_loop()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_SECONDS))
            if pending:
                _abandoned.append(self)
                return
        self.runner.close()

    def __del__(self) -> None:
        if os.getpid() == self._process:  # A forked child shares its parent's selector.
            self.runner.close()


_threads_own = threading.local()
_abandoned: list[object] = []


def _own_runner() -> asyncio.Runner:
    if not hasattr(_threads_own, "holder"):
        _threads_own.holder = _OwnRunner()
    holder: _OwnRunner = _threads_own.holder
    return holder.runner


def close_own_loop() -> None:
    """Close this thread's own loop; the next run makes another."""
    holder: _OwnRunner | None = _threads_own.__dict__.pop("holder", None)
    if holder is not None:
        holder.close()


def _own_loop() -> asyncio.AbstractEventLoop | None:
    holder: _OwnRunner | None = _threads_own.__dict__.get("holder")
    return holder.runner.get_loop() if holder is not None else None


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs on this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _forget_after_fork() -> None:
    """A forked child shares its parent's selector: it must not touch it, not even to close it."""
    _abandoned.append(_threads_own.__dict__.pop("holder", None))


os.register_at_fork(after_in_child=_forget_after_fork)
