"""Output commit and group commit: events are buffered, appended together, and nothing acts before its cause is stored.

A `Log` is one execution's end of the journal: it numbers events and keeps what waits for them.  A `Journal` gathers
the logs of one host loop; while a commit is on its way the next batch gathers, so there is no timer.
"""

import asyncio
import collections
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from flux import telemetry
from flux.clock import Clock
from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.domain.execution import ExecutionState, Transition, apply
from flux.domain.history import History
from flux.engine import lineage
from flux.engine.committer import Committer, Results
from flux.errors import StoreError
from flux.ports import Append, AppendResult, CachedResult, NewExecution, Pause

logger = logging.getLogger("flux.journal")

# How far the body may run ahead of the disk: bounds memory, and what a crash makes it decide again.
AHEAD_EVENTS = 10_000
AHEAD_BYTES = 16 * 1024 * 1024


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
    """One execution's end of the journal: what is recorded here is in the history at once, and stored soon.

    Args:
        history: As it is stored; it grows with what is recorded.
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
        self.history = history
        self._seq = self._taken = history.last_seq
        # Everything that is to be stored, events and parkings alike, has a position; waiting is for positions.
        self._position = self._durable = 0
        self._answering = 0  # The position that the append under way reaches.
        self._time = history.events[-1].time_us if history.events else 0
        self._events: list[ExecutionEvent] = []
        self._waiting_bytes = self._flying_bytes = 0  # Of values that no append, or no answered one, has taken yet.
        self._waiters: collections.deque[tuple[int, Callable[[], None]]] = collections.deque()
        self._companions: _Companions | None = None  # Most appends have none.
        self._restart = False
        self._state = ExecutionState.RUNNING
        self._ends_children = False
        self._wake_at: int | None = None
        self._blocked: tuple[str, str] | None = None
        self.is_dirty = False
        self.is_closed = False
        journal.follower.open()

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
        self.history.append(event)
        if data is not None:
            self._waiting_bytes += len(data)
        self._touch()
        return event

    def pause_opened(self, pause: Pause) -> None:
        """Store an open pause with the events recorded so far."""
        self._with.opened.append(pause)

    def pause_closed(self, call_id: str) -> None:
        """Remove an open pause with the events recorded so far."""
        self._with.closed.append(call_id)

    def message_consumed(self, message_id: int) -> None:
        """Remove an inbox row in the commit that moves it into the history."""
        self._with.consumed.append(message_id)

    def child_made(self, creation: Append) -> None:
        """Create a child execution in the commit that holds the start of its call."""
        self._with.children.append(creation)

    def child_cancelled(self, execution_id: str) -> None:
        """Ask a child execution to cancel, in the commit that holds the reason."""
        self._with.cancels.append(execution_id)
        self._touch()

    def end_children(self) -> None:
        """Ask every child to cancel without its clean-up, in the commit that ends the execution."""
        self._ends_children = True

    def result_cached(self, result: CachedResult) -> None:
        """Let equal calls of other executions answer with a result, from the commit on that holds it."""
        self._with.cached.append(result)

    def restart(self) -> None:
        """Begin a fresh history with what is recorded next; everything before it is durable."""
        self._restart = True
        self.history.restart()

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
        if not self.is_closed:
            self._journal.follower.close()
        self.is_closed = True
        self._waiters.clear()
        self._events.clear()

    @property
    def _with(self) -> "_Companions":
        if self._companions is None:
            self._companions = _Companions()
        return self._companions

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
            ends_children=self._ends_children and self._state.is_finished,
        )
        if self._blocked:
            append.blocked_reason, append.blocked_version = self._blocked
        if self._restart:
            append.restart, self._restart = True, False
        if self._companions is not None:
            self._companions.join(append)
            self._companions = None
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
            first = self.history.events[0]
            telemetry.emit(
                "events.appended",
                execution_id=self._execution_id,
                workflow=first.name,
                begun_us=first.time_us,
                events=append.events,
            )
        while self._waiters and self._waiters[0][0] <= self._durable:
            self._waiters.popleft()[1]()

    def _unpark(self, append: Append) -> None:
        """Nothing of the append was stored: store its events after all, and stay awake.

        If it was to end the execution, that is taken back: what the news tells of comes before.
        """
        events = list(append.events)
        if append.state.is_finished:
            events.pop()
            self.history.undo()
            self._seq -= 1
        self._events[:0] = events
        self._taken = append.expected_seq
        self._restart = self._restart or append.restart
        self._with.take_back(append)
        self._state, self._wake_at = ExecutionState.RUNNING, None
        self._waiters.clear()  # Only the parking itself waits for its commit.
        self._touch()
        self._owner.log_got_news()


@dataclass(slots=True, eq=False)
class _Companions:
    """What an append stores besides events."""

    opened: list[Pause] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    consumed: list[int] = field(default_factory=list)
    children: list[Append] = field(default_factory=list)
    cancels: list[str] = field(default_factory=list)
    cached: list[CachedResult] = field(default_factory=list)

    def join(self, append: Append) -> None:
        """Go with an append."""
        append.opened, append.closed, append.consumed = self.opened, self.closed, self.consumed
        append.children, append.cancels, append.cached = self.children, self.cancels, self.cached

    def take_back(self, append: Append) -> None:
        """Go with the next append, before what was added meanwhile: that one was not stored."""
        self.opened[:0], self.closed[:0], self.consumed[:0] = append.opened, append.closed, append.consumed
        self.children[:0], self.cancels[:0], self.cached[:0] = append.children, append.cancels, append.cached


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
        self._active_attempts = 0  # That run on this loop now: while there are any, it must not block.
        self.follower = lineage.follower(host)
        self._committer, self._host, self._inline = committer, host, inline
        self._dirty: list[Log] = []
        self._is_scheduled = self._is_busy = False

    def touch(self, log: Log) -> None:
        """Note that a log has something to store."""
        self._dirty.append(log)
        if not self._is_scheduled and not self._is_busy:
            self._is_scheduled = True
            self._host.call_soon(self._flush)

    def attempt_began(self) -> None:
        """User code of an attempt begins on this loop."""
        self._active_attempts += 1
        self.follower.begin()

    def attempt_ended(self) -> None:
        """It has ended."""
        self._active_attempts -= 1

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
        if self._inline and is_awaited and self._active_attempts == 0:
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
