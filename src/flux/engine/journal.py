"""Output commit and group commit: events are buffered, appended together, and nothing acts before its cause is stored.

A `Log` is one execution's end of the journal: it numbers events and keeps what waits for them.  A `Journal` gathers
the logs of one host loop; while a commit is on its way the next batch gathers, so there is no timer.  A `Committer`
decides on which thread a batch is written; there is one for each process and store.
"""

import asyncio
import collections
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from flux import telemetry
from flux.clock import Clock
from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.domain.execution import ExecutionState, Transition, apply
from flux.domain.history import History
from flux.errors import CorruptedDatabaseError, NewerDatabaseError, StoreError
from flux.ports import Append, AppendResult, NewExecution, Pause, Store

logger = logging.getLogger("flux.journal")

# How far the body may run ahead of the disk: bounds memory, and what a crash makes it decide again.
AHEAD_EVENTS = 10_000
AHEAD_BYTES = 16 * 1024 * 1024

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


class LogOwner(Protocol):
    """Who is told what became of a log's appends."""

    def log_superseded(self, result: AppendResult) -> None:
        """The store refused an append: stop at once, deliver nothing more."""
        ...

    def log_got_news(self) -> None:
        """It was not parked, because something is in the inbox."""
        ...

    def log_failed(self, error: StoreError) -> None:
        """The database cannot be used."""
        ...


class Log:
    """One execution's end of the journal.

    Args:
        history: As it is stored.
        create: The execution, if its first append makes it.
    """

    def __init__(
        self,
        journal: "Journal",
        owner: LogOwner,
        *,
        execution_id: str,
        fence: int,
        history: History,
        create: NewExecution | None = None,
    ) -> None:
        self._journal, self._owner = journal, owner
        self._execution_id, self._fence, self._create = execution_id, fence, create
        self._seq = self._taken = history.last_seq
        # Everything that is to be stored, events and parkings alike, has a position; waiting is for positions.
        self._position = self._durable = 0
        self._answering = 0  # The position that the append under way reaches.
        self._time = history.events[-1].time_us if history.events else 0
        self._events: list[ExecutionEvent] = []
        self._waiting_bytes = self._flying_bytes = 0  # Of values that no append, or no answered one, has taken yet.
        self._waiters: collections.deque[tuple[int, Callable[[], None]]] = collections.deque()
        self._opened: list[Pause] = []
        self._closed: list[str] = []
        self._consumed: list[int] = []
        self._state = ExecutionState.RUNNING
        self._wake_at: int | None = None
        self._blocked: tuple[str, str] | None = None
        self.is_dirty = False
        self.is_closed = False

    def record(
        self,
        type_: ExecutionEventType,
        call_id: str,
        name: str,
        data: bytes | None = None,
        detail: bytes | None = None,
    ) -> ExecutionEvent:
        """Give a fact its place in the history.  It is in memory until the next commit."""
        self._seq += 1
        self._position += 1
        self._time = max(self._time, self._journal.clock.now())
        event = ExecutionEvent(self._execution_id, self._seq, type_, call_id, name, data, detail, time_us=self._time)
        self._events.append(event)
        if data is not None:
            self._waiting_bytes += len(data)
        self._touch()
        return event

    def pause_opened(self, pause: Pause) -> None:
        """Store an open pause with the events recorded so far."""
        self._opened.append(pause)

    def pause_closed(self, call_id: str) -> None:
        """Remove an open pause with the events recorded so far."""
        self._closed.append(call_id)

    def message_consumed(self, message_id: int) -> None:
        """Remove an inbox row in the commit that moves it into the history."""
        self._consumed.append(message_id)

    def park(self, transition: Transition, *, wake_at: int | None = None) -> ExecutionState:
        """Give the execution up with the next commit; it is not parked over something in its inbox.

        Returns:
            The state that it then has.
        """
        self._state, self._wake_at = apply(ExecutionState.RUNNING, transition), wake_at
        self._position += 1
        self._touch()
        return self._state

    def block(self, reason: str, version: str) -> None:
        """Give the execution up, to be claimed by no worker until its version differs or a person retries."""
        self._blocked = (reason, version)
        self.park(Transition.RELEASE)

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call back when everything recorded so far is on disk, soon if it is already."""
        if self._position == self._durable:
            self._journal.soon(callback)
        else:
            self._waiters.append((self._position, callback))

    def is_far_ahead(self) -> bool:
        """Whether so much is not yet durable that even pure work should wait."""
        ahead_bytes = self._waiting_bytes + self._flying_bytes
        return self._position - self._durable > AHEAD_EVENTS or ahead_bytes > AHEAD_BYTES

    @property
    def has_waiters(self) -> bool:
        return bool(self._waiters)

    def forget_waiters(self) -> None:
        """Call nobody back of those who wait now."""
        self._waiters.clear()

    def close(self) -> None:
        """Record and call back nothing more."""
        self.is_closed = True
        self._waiters.clear()
        self._events.clear()

    def _touch(self) -> None:
        if not self.is_dirty:
            self.is_dirty = True
            self._journal.touch(self)

    def take(self) -> Append | None:
        """What to store next: all that was recorded since the last time (called by the journal)."""
        self.is_dirty = False
        if self.is_closed:
            return None
        events, self._events = self._events, []
        append = Append(
            execution_id=self._execution_id,
            fence=self._fence,
            expected_seq=self._taken,
            events=events,
            create=self._create,
            state=self._state,
            wake_at=self._wake_at,
        )
        if self._blocked:
            append.blocked_reason, append.blocked_version = self._blocked
        if self._opened or self._closed or self._consumed:
            append.opened, append.closed, append.consumed = self._opened, self._closed, self._consumed
            self._opened, self._closed, self._consumed = [], [], []
        self._answering = self._position
        self._flying_bytes, self._waiting_bytes = self._waiting_bytes, 0
        self._taken += len(events)
        return append

    def answered(self, append: Append, result: AppendResult) -> None:
        """Go on after a commit (called by the journal, on the host loop)."""
        if self.is_closed:
            return
        match result:
            case AppendResult.STORED:
                self._stored(append)
            case AppendResult.NEWS:
                self._unpark(append)
            case AppendResult.STALE | AppendResult.EXISTS | AppendResult.REFUSED:
                self._owner.log_superseded(result)

    def failed(self, error: StoreError) -> None:
        """The commit will not succeed (called by the journal, on the host loop)."""
        if not self.is_closed:
            self._owner.log_failed(error)

    def _stored(self, append: Append) -> None:
        self._create = None
        self._durable = self._answering
        self._flying_bytes = 0
        if append.events and telemetry.attached():
            telemetry.emit("events.appended", execution_id=self._execution_id, events=append.events)
        while self._waiters and self._waiters[0][0] <= self._durable:
            self._waiters.popleft()[1]()

    def _unpark(self, append: Append) -> None:
        """Nothing of the append was stored: store its events after all, and stay awake."""
        self._events[:0] = append.events
        self._taken = append.expected_seq
        self._opened[:0], self._closed[:0], self._consumed[:0] = append.opened, append.closed, append.consumed
        self._state, self._wake_at = ExecutionState.RUNNING, None
        self._waiters.clear()  # Only the parking itself waits for its commit.
        self._touch()
        self._owner.log_got_news()


class Journal:
    """The logs of one host loop.

    Args:
        committer: Writes the batches.
        host: The loop on which logs are used and called back.
        inline: Whether a commit may block this loop when nothing else could run on it anyway.
    """

    def __init__(
        self, committer: Committer, host: asyncio.AbstractEventLoop, clock: Clock, *, inline: bool = False
    ) -> None:
        self.clock = clock
        self.active_attempts = 0  # Attempts that run on this loop now: while there are any, it must not block.
        self._committer, self._host, self._inline = committer, host, inline
        self._dirty: list[Log] = []
        self._is_scheduled = self._is_busy = False

    def touch(self, log: Log) -> None:
        """Note that a log has something to store."""
        self._dirty.append(log)
        if not self._is_scheduled and not self._is_busy:
            self._is_scheduled = True
            self._host.call_soon(self._flush)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back in the host loop's next turn."""
        self._host.call_soon(callback)

    def _flush(self) -> None:
        self._is_scheduled = False
        logs, self._dirty = self._dirty, []
        batch: list[tuple[Log, Append]] = []
        is_awaited = False
        for log in logs:
            is_awaited = is_awaited or log.has_waiters
            append = log.take()
            if append is not None:
                batch.append((log, append))
        if not batch:
            return
        appends = [append for _, append in batch]
        if self._inline and is_awaited and self.active_attempts == 0:
            results = self._committer.try_commit(appends)
            if results is not None:
                self._answer(batch, results)
                return
        self._is_busy = True
        self._committer.submit(appends, lambda results: self._hand_back(batch, results))

    def _hand_back(self, batch: list[tuple[Log, Append]], results: Results) -> None:
        try:
            self._host.call_soon_threadsafe(self._committed, batch, results)
        except RuntimeError:
            logger.debug("a host loop closed before its last commit was answered")

    def _committed(self, batch: list[tuple[Log, Append]], results: Results) -> None:
        self._is_busy = False
        self._answer(batch, results)
        if self._dirty and not self._is_scheduled:
            self._is_scheduled = True
            self._host.call_soon(self._flush)

    def _answer(self, batch: list[tuple[Log, Append]], results: Results) -> None:
        if isinstance(results, StoreError):
            for log, _ in batch:
                log.failed(results)
            return
        for (log, append), result in zip(batch, results, strict=True):
            log.answered(append, result)


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
