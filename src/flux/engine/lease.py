"""A process's proof that it is alive: a row in `workers`, extended from a thread that user code cannot starve."""

import logging
import threading
from collections.abc import Callable

from flux import telemetry
from flux.clock import Clock
from flux.ids import new_id
from flux.ports import Store

logger = logging.getLogger("flux.lease")

MICROSECONDS = 1_000_000


class Lease:
    """Keeps this process's executions its own, and knows until when it may trust that.

    A process that was stopped for longer than its lease finds it expired, and starts no attempt until it has renewed
    it or learnt that another process has taken over.

    Args:
        lost: Called, on the heartbeat's thread, when the worker was rescued: it owns nothing any more.
        renewed: Called, on that thread, when the lease was extended: the database can be written.
        seconds: How long the lease runs; it is extended three times as often.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        lost: Callable[[], None],
        renewed: Callable[[], None] = lambda: None,
        *,
        seconds: float = 10.0,
    ) -> None:
        self._store, self._clock, self._seconds = store, clock, seconds
        self._lost, self._renewed = lost, renewed
        self._margin = seconds / 5
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._trusted_until = 0.0
        self._is_draining = False
        self.worker = ""

    def acquire(self) -> str:
        """Register this process if it is not, and return the worker's id."""
        with self._lock:
            if not self.worker:
                began, worker = self._clock.monotonic(), new_id()
                self._store.register_worker(worker, lease_expires_at=self._expiry())
                self._trusted_until = began + self._seconds - self._margin
                self.worker = worker
                self._start()
            return self.worker

    def is_trusted(self, *, is_finishing: bool = False) -> bool:
        """Whether an attempt may start: no other process can have taken over yet, and this one is not draining.

        Args:
            is_finishing: Whether the attempt is part of one that is under way, which a drain lets end.
        """
        return self._clock.monotonic() < self._trusted_until and (is_finishing or not self._is_draining)

    def drain(self) -> None:
        """Start no attempt any more: this process gives back what it has."""
        self._is_draining = True

    def end_drain(self) -> None:
        """It has given back everything: it may begin anew."""
        self._is_draining = False

    def beat(self) -> None:
        """Extend the lease once (the thread calls it, and tests do).

        Raises:
            StoreError: The database cannot be written now.
        """
        worker, began = self.worker, self._clock.monotonic()
        if not worker:
            return
        if self._store.heartbeat(worker, lease_expires_at=self._expiry()):
            self._trusted_until = began + self._seconds - self._margin
            self._renewed()
            return
        with self._lock:
            self.worker, self._trusted_until = "", 0.0
        telemetry.emit("worker.superseded", worker=worker)
        self._lost()

    def retire(self) -> None:
        """Stop for good: what this process still owned is free at once, and nobody has to find it dead."""
        self.close()
        worker, self.worker, self._trusted_until = self.worker, "", 0.0
        if worker:
            self._store.remove_worker(worker)

    def close(self) -> None:
        """Stop the heartbeat."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _expiry(self) -> int:
        return self._clock.now() + round(self._seconds * MICROSECONDS)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flux-heartbeat", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(self._seconds / 3):
            try:
                self.beat()
            except Exception as error:  # noqa: BLE001 - a heartbeat that stops would have the living taken for dead.
                logger.warning("the heartbeat could not be written: %s", error)
