"""The writer thread of a simulated process: what it sends arrives some time later, and so do the answers."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flux.engine.committer import Results
from flux.errors import StoreError
from flux.ports import Append
from simulation.faults import Killed

if TYPE_CHECKING:
    from simulation.process import Process

Submission = tuple[Sequence[Append], Callable[[Results], None]]

BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.05, 1.0


class SimulatedCommitter:
    """As `ThreadCommitter`: all that waits in one transaction, one at a time, and the same bytes again after an error.

    Args:
        process: Whose it is.
        patience_seconds: How long it tries.
    """

    def __init__(self, process: "Process", *, patience_seconds: float) -> None:
        self._process, self._patience = process, patience_seconds
        self._waiting: list[Submission] = []
        self._is_busy = False

    def try_commit(self, appends: Sequence[Append]) -> None:
        """It always has to wait."""

    def submit(self, appends: Sequence[Append], done: Callable[[Results], None]) -> None:
        self._waiting.append((appends, done))
        if not self._is_busy:
            self._is_busy = True
            self._process.after(0, self._begin)

    def close(self) -> None:
        """Nothing is under way when a process ends in peace."""

    def _begin(self) -> None:
        sent, self._waiting = self._waiting, []
        self._is_busy = bool(sent)
        if sent:
            deadline = self._process.clock.monotonic() + self._patience
            self._send(sent, deadline, BACKOFF_SECONDS)

    def _send(self, sent: list[Submission], deadline: float, backoff: float, *, is_open: bool = True) -> None:
        """Once sent, it arrives, whatever becomes of the sender meanwhile."""
        process = self._process

        def arrive() -> None:
            if not process.is_reachable():
                return
            try:
                if not is_open:
                    process.store.reopen()
                results: Results = process.store.arrived([append for part, _ in sent for append in part])
            except StoreError as error:
                if process.clock.monotonic() < deadline:
                    longer = min(2 * backoff, LONGEST_BACKOFF_SECONDS)
                    process.after(backoff, lambda: self._send(sent, deadline, longer, is_open=False))
                    return
                results = error
            except Killed:
                return
            process.after(process.latency(), lambda: self._answer(sent, results))

        process.universe.after(process.latency(), arrive)

    def _answer(self, sent: list[Submission], results: Results) -> None:
        start = 0
        for part, done in sent:
            done(results if isinstance(results, StoreError) else results[start : start + len(part)])
            start += len(part)
        self._begin()
