"""On which thread a batch of the journal is written, and what happens when that fails."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from flux import telemetry
from flux.errors import CorruptedDatabaseError, NewerDatabaseError, StoreError
from flux.ports import Append, AppendResult, Store

logger = logging.getLogger("flux.journal")

Results = Sequence[AppendResult] | StoreError


class Committer(Protocol):
    """Writes batches, on a thread of its choice."""

    def try_commit(self, appends: Sequence[Append]) -> Sequence[AppendResult] | None:
        """Write now, on this thread, or return None at once if that would have to wait."""
        ...

    def submit(self, appends: Sequence[Append], done: Callable[[Results], None]) -> None:
        """Write soon; `done` is called, on any thread, with the answers or with the error that stays."""
        ...

    def close(self) -> None:
        """Finish what was submitted, then stop."""
        ...


class InlineCommitter:
    """Writes on the calling thread, always: for tests and simulations, in which nothing may be concurrent."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def try_commit(self, appends: Sequence[Append]) -> Sequence[AppendResult] | None:
        return self._store.append(appends)

    def submit(self, appends: Sequence[Append], done: Callable[[Results], None]) -> None:
        try:
            results: Results = self._store.append(appends)
        except StoreError as error:
            results = error
        done(results)

    def close(self) -> None:
        """Nothing is ever under way."""


class ThreadCommitter:
    """Writes on a thread of its own, everything that waits in one transaction; inline where nothing has to wait.

    A failed commit is never acknowledged: the batch stays in memory, the database is opened anew and the same
    bytes are appended again, which the store recognises if they had arrived after all.

    Args:
        patience_seconds: How long a failing database is tried before the error is handed to those who wait.
    """

    def __init__(self, store: Store, *, patience_seconds: float = 30.0) -> None:
        self._store, self._patience = store, patience_seconds
        self._queue: queue.SimpleQueue[tuple[Sequence[Append], Callable[[Results], None]] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def try_commit(self, appends: Sequence[Append]) -> Sequence[AppendResult] | None:
        try:
            return self._store.try_append(appends)
        except (StoreError, OSError):
            return None  # The thread tries it again, with patience.

    def submit(self, appends: Sequence[Append], done: Callable[[Results], None]) -> None:
        if self._stopping.is_set():
            done(StoreError("the database was closed: nothing can be recorded any more"))
            return
        self._queue.put((appends, done))
        if self._thread is None:
            self._start()

    def close(self) -> None:
        self._stopping.set()
        self._queue.put(None)
        if self._thread is not None:
            self._thread.join()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="flux-writer", daemon=True)
                self._thread.start()

    def _write(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            submissions = [first]
            while not self._queue.empty():
                more = self._queue.get()
                if more is None:
                    self._queue.put(None)
                    break
                submissions.append(more)
            self._commit(submissions)

    def _commit(self, submissions: Sequence[tuple[Sequence[Append], Callable[[Results], None]]]) -> None:
        appends = [append for part, _ in submissions for append in part]
        try:
            results = self._append_with_patience(appends)
        except Exception as error:  # noqa: BLE001 - a thread that ended here would leave everybody waiting for ever.
            failure = error if isinstance(error, StoreError) else StoreError(f"a commit failed: {error!r}")
            for _, done in submissions:
                done(failure)
            return
        start = 0
        for part, done in submissions:
            done(results[start : start + len(part)])
            start += len(part)

    def _append_with_patience(self, appends: Sequence[Append]) -> Sequence[AppendResult]:
        deadline, delay = time.monotonic() + self._patience, 0.05
        is_open = True
        while True:
            try:
                if not is_open:
                    self._store.reopen()
                    is_open = True
                return self._store.append(appends)
            except (NewerDatabaseError, CorruptedDatabaseError):
                raise
            except (StoreError, OSError) as error:
                is_open = False
                if time.monotonic() > deadline or self._stopping.is_set():
                    raise
                logger.warning("the database cannot be written, trying again: %s", error)
                telemetry.emit("store.failed", error=error)
            self._stopping.wait(delay)
            delay = min(delay * 2, 1.0)
