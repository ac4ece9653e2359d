"""Lines that tasks print and log, kept in the database beside the history of their execution.

They are gathered in memory and stored by a thread of its own, so that no task waits for them: a process that dies
takes those of its last moment with it, and what comes faster than it can be stored is dropped, and counted.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from flux import telemetry
from flux.catalogue import Catalogue, Line
from flux.clock import Clock
from flux.errors import StoreError
from flux.observability import taps
from flux.ports import ExecutionRow, Store

if TYPE_CHECKING:
    from flux.engine.attempt import Attempt

logger = logging.getLogger("flux.lines")

SECONDS = 0.2
PATIENCE_SECONDS = 1.0  # Between two tries of a database that fails.
LONGEST_BYTES = 8192
MOST = 10_000  # Of an execution.
BUFFER_LINES, BUFFER_CHARACTERS = 10_000, 8_000_000
WARN_SECONDS = 10.0
LATE_US = 1_000_000
AT_ONCE = 500  # In one transaction: the engine waits no longer than for these.


def are_complete(execution: ExecutionRow, now: int) -> bool:
    """Whether none of its lines is still on its way: they are stored a moment after they were printed."""
    return execution.finished_at is not None and now - execution.finished_at >= LATE_US


class _Said(NamedTuple):
    attempt: "Attempt"
    stream: str
    text: str
    time_us: int


class Lines:
    """Keeps what the tasks of one store say.

    Args:
        store: Whose executions are meant: a process may have several.
        seconds: Between two transactions.
    """

    def __init__(self, catalogue: Catalogue, store: Store, clock: Clock, *, seconds: float = SECONDS) -> None:
        self._catalogue, self._store, self._clock, self._seconds = catalogue, store, clock, seconds
        # One that may be taken again: a signal handler or a finaliser may print in the middle of what is below.
        self._lock, self._storing = threading.RLock(), threading.Lock()
        self._said: list[_Said] = []
        self._begun: dict[tuple[Attempt, str], str] = {}  # Lines that have no end yet.
        self._characters = self._dropped = 0
        self._warn_at = 0.0
        self._has_some, self._closing = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._leave: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to listen; harmless when repeated."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flux-lines", daemon=True)
            self._thread.start()
            self._leave = taps.listen(self)

    def close(self) -> None:
        """Store what is there, and listen no more."""
        if self._thread is None or self._leave is None:
            return
        self._leave()
        self._closing.set()
        self._has_some.set()
        self._thread.join()
        self.flush(ends_all=True)

    # -- what tasks say

    def printed(self, attempt: "Attempt", stream: str, text: str) -> None:
        """Keep the lines that end in this text, and what it begins until that ends."""
        if attempt.store is not self._store:
            return
        key = attempt, stream
        with self._lock:
            text = self._begun.pop(key, "") + text
            if "\n" in text:
                text = self._end(attempt, stream, text)
            if text:
                self._begun[key] = text[: LONGEST_BYTES + 1]
            self._tell()

    def _end(self, attempt: "Attempt", stream: str, text: str) -> str:
        """Keep the lines that end in a text; returns what is left of it."""
        now = self._clock.now()
        *ended, rest = text.split("\n", max(1, BUFFER_LINES - len(self._said)))
        for line in ended:
            self._add(attempt, stream, line.removesuffix("\r"), now)
        if "\n" in rest:  # More than there is room for.
            self._dropped += rest.count("\n")
            rest = rest.rpartition("\n")[2]
        return rest

    def logged(self, attempt: "Attempt", level: str, text: str) -> None:
        """Keep a record; one that has several lines is several, so that none can pass for another record."""
        if attempt.store is not self._store:
            return
        with self._lock:
            now = self._clock.now()
            for line in text.split("\n", BUFFER_LINES):
                self._add(attempt, level, line, now)
            self._tell()

    def _add(self, attempt: "Attempt", stream: str, text: str, now: int) -> None:
        if len(self._said) >= BUFFER_LINES or self._characters >= BUFFER_CHARACTERS:
            self._dropped += 1
            return
        text = text[: LONGEST_BYTES + 1]
        self._characters += len(text)
        self._said.append(_Said(attempt, stream, text, now))

    def _tell(self) -> None:
        if not self._has_some.is_set():
            self._has_some.set()

    # -- storing

    def flush(self, *, ends_all: bool = False) -> bool:
        """Store what was said so far; False if the database cannot be written now.

        Args:
            ends_all: Take lines that have no end yet as they are.
        """
        with self._storing:
            with self._lock:
                self._end_lines(ends_all=ends_all)
                said, self._said, self._characters = self._said, [], 0
                dropped, self._dropped = self._dropped, 0
            if dropped:
                self._tell_of(dropped)
            for start in range(0, len(said), AT_ONCE):
                if not self._store_lines(said[start : start + AT_ONCE]):
                    with self._lock:
                        self._said[:0] = said[start:]
                        self._characters = sum(len(each.text) for each in self._said)
                    return False
            return True

    def _tell_of(self, dropped: int) -> None:
        telemetry.emit("lines.dropped", lines=dropped)
        now = self._clock.monotonic()
        if now >= self._warn_at:
            self._warn_at = now + WARN_SECONDS
            logger.warning("%d lines that tasks printed were dropped: they came faster than they are kept", dropped)

    def _store_lines(self, said: Sequence[_Said]) -> bool:
        try:
            self._catalogue.add_lines([_line(each) for each in said], most=MOST)
        except (StoreError, OSError) as error:
            logger.debug("what tasks printed cannot be kept now: %s", error)
            return False
        return True

    def _end_lines(self, *, ends_all: bool) -> None:
        """Take what attempts left without a line's end; the lock is held."""
        ended = [key for key in self._begun if ends_all or key[0].is_over]
        for attempt, stream in ended:
            self._add(attempt, stream, self._begun.pop((attempt, stream)), self._clock.now())
        if not self._begun:
            self._has_some.clear()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._has_some.wait()
            self._closing.wait(self._seconds)
            if not self.flush():
                self._has_some.set()
                self._closing.wait(PATIENCE_SECONDS)


def _line(said: _Said) -> Line:
    attempt, text = said.attempt, said.text
    if attempt.redactor is not None:
        text = attempt.redactor.text(text)
    return Line(
        id=0,
        execution_id=attempt.execution_id,
        call_id=attempt.call.id,
        task=attempt.call.name,
        stream=said.stream,
        text=_cut(text),
        time_us=said.time_us,
    )


def _cut(text: str) -> str:
    """A text that fits, and that every database takes."""
    data = text.encode("utf-8", "backslashreplace")
    return data.decode() if len(data) <= LONGEST_BYTES else data[: LONGEST_BYTES - 3].decode("utf-8", "ignore") + "…"
