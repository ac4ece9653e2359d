"""The attempts of an execution's calls, as tasks of the host loop."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from flux import serde
from flux.domain.definitions import TaskDefinition
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.engine import lineage
from flux.engine.attempt import Attempt
from flux.engine.attempts import Attempts
from flux.engine.calls import Call
from flux.engine.journal import Journal
from flux.engine.parts import Parts
from flux.engine.surroundings import Failed, RolledBack, Succeeded

LEASE_POLL_SECONDS = 0.05

Outcome = Succeeded | Failed | RolledBack


class CallLog(Protocol):
    """Where the steps of calls are written, and who learns how they ended."""

    @property
    def execution_id(self) -> str:
        """Whose calls are performed."""
        ...

    def is_live(self) -> bool:
        """Whether anything is recorded at this moment; what ends meanwhile is reported later (`report`)."""
        ...

    def begin_attempt(self, call: Call, part: str) -> Attempt:
        """An attempt of a call begins."""
        ...

    def end_attempt(self, attempt: Attempt) -> None:
        """It has ended."""
        ...

    def was_interrupted(self, call: Call) -> bool:
        """Whether another process may have begun an attempt of this call."""
        ...

    def idempotency_key(self, call: Call) -> str:
        """What is the same in every attempt of a call, after every crash, and in no other call."""
        ...

    def call_progressed(self, call: Call, type_: Type, data: bytes | None, detail: bytes | None) -> None:
        """Record a step between the start of a call and its outcome."""
        ...

    def call_ended(self, call: Call, outcome: Outcome) -> None:
        """Record and hand on the outcome of a call."""
        ...

    def call_stopped(self, call: Call, left_behind: str | None) -> None:
        """A cancelled call has cleaned up after itself."""
        ...

    def call_broke(self, error: BaseException) -> None:
        """Flux itself failed while it performed a call: show it, record nothing."""
        ...

    async def until_durable(self) -> None:
        """Wait until everything recorded so far is on disk."""
        ...


class Performer:
    """Performs calls: each is a host task in the context of its caller.

    Args:
        journal: Knows from here whether user code runs on the host loop.
        log: Of the execution.
    """

    def __init__(self, parts: Parts, journal: Journal, log: CallLog) -> None:
        self.parts, self.log = parts, log
        self.host = asyncio.get_running_loop()
        self._journal = journal
        self._running: dict[str, _Performance] = {}
        self._stopping: list[asyncio.Task[Any]] = []
        self.acting = 0  # Attempts in user code.

    def is_running(self, call_id: str) -> bool:
        """Whether an attempt, or the wait between two, is under way."""
        return call_id in self._running

    def is_rolling_back(self, call_id: str) -> bool:
        """Whether what a call did is being undone, which takes its time."""
        return call_id in self._running and self._running[call_id].is_rolling_back

    def perform(self, call: Call, task: TaskDefinition, progress: Sequence[ExecutionEvent], *, undo: bool) -> None:
        """Make the attempts of a call; everything that led to it is durable.

        Args:
            undo: Roll it back instead: it was cancelled.
        """
        self._running[call.id] = _Performance(self, call, task, progress, undo=undo)

    def cancel(self, call_id: str) -> bool:
        """Cancel the attempts of a call; `call_stopped` follows when they have cleaned up.

        Returns:
            Whether that can be forced; False while the call is rolled back, which takes its time.
        """
        if self.is_rolling_back(call_id):
            return False
        self._running[call_id].give_up()
        return True

    def give_up(self, call_id: str) -> str | None:
        """Wait no longer for a call: whatever still comes of it is dropped.

        Returns:
            What goes on of it all the same, in a sentence.
        """
        if self._running.pop(call_id, None) is None:
            return None
        return f"It did not stop within {self.parts.cancel_grace_seconds:g} s, and was left behind."

    def report(self) -> None:
        """Report now what has ended and could not be reported."""
        for performance in list(self._running.values()):
            if performance.outcome is not None:
                self.ended(performance)

    def report_last(self) -> None:
        """Report what has ended by itself, before the rest is stopped: this loop may be closing and cancel all."""
        for performance in list(self._running.values()):
            if performance.outcome is not None and not performance.is_being_cancelled:
                self.ended(performance)

    def stop(self) -> None:
        """Cancel everything, and report nothing of it any more."""
        for performance in self._running.values():
            performance.is_given_up = True
            self._stopping.append(performance.host_task)
        self._running = {}
        for host_task in self._stopping:
            host_task.cancel()

    async def stopped(self, timeout_seconds: float) -> bool:
        """Stop, and wait until everything has cleaned up; False if that takes longer."""
        self.stop()
        if self._stopping:
            await asyncio.wait(self._stopping, timeout=timeout_seconds)
        return all(host_task.done() for host_task in self._stopping)

    def ended(self, performance: "_Performance") -> None:
        """Report how a call has ended, unless it was given up, stopped, or reported; or it will be."""
        call, outcome = performance.call, performance.outcome
        if self._running.get(call.id) is not performance or not self.log.is_live():
            return
        del self._running[call.id]
        if performance.is_given_up:
            self.log.call_stopped(call, performance.left_behind)  # It did not fail, whatever it makes of that.
        elif isinstance(outcome, asyncio.CancelledError):
            failure = RuntimeError("the task cancelled itself, which would end more than itself")
            self.log.call_ended(call, Failed(serde.encode_failure(failure)))
        elif isinstance(outcome, BaseException):
            self.log.call_broke(outcome)
        elif outcome is not None:
            self.log.call_ended(call, outcome)

    async def until_trusted(self, call: Call) -> None:
        """Another process may have taken over: start nothing until the heartbeat knows."""
        while not self.parts.lease.is_trusted(is_finishing=call.attempt is not None):
            await asyncio.sleep(LEASE_POLL_SECONDS)

    def entered(self) -> None:
        """One more attempt is in user code: while there are any, no commit may block the loop."""
        self.acting += 1
        self._journal.attempt_began()

    def left(self) -> None:
        """One less is."""
        self.acting -= 1
        self._journal.attempt_ended()


class _Performance(Attempts):
    """One call while it is performed: its attempts, and the host task that makes them."""

    __slots__ = ("_has_begun", "_performer", "_undo", "call", "host_task", "outcome")

    def __init__(
        self, performer: Performer, call: Call, task: TaskDefinition, progress: Sequence[ExecutionEvent], *, undo: bool
    ) -> None:
        parts = performer.parts
        super().__init__(
            task,
            call.id,
            call.arguments,
            clock=parts.clock,
            threads=parts.threads,
            progress=progress,
            grace_seconds=parts.cancel_grace_seconds,
            was_interrupted=performer.log.was_interrupted(call),
            redactor=call.attempt.redactor if call.attempt is not None else None,
        )
        self._performer, self._undo, self.call = performer, undo, call
        self._has_begun = False
        self.outcome: Outcome | BaseException | None = None
        self.host_task = lineage.create_task(performer.host, self._perform(), call.context)

    @property
    def is_being_cancelled(self) -> bool:
        """Whether somebody has cancelled its host task."""
        return self.host_task.cancelling() > 0

    def give_up(self) -> None:
        """Cancel it; its end is reported when it has cleaned up."""
        self.is_given_up = True
        self.host_task.cancel()
        if not self._has_begun:  # And never will: nothing of it runs that could tell.
            self.outcome = asyncio.CancelledError()
            self._performer.host.call_soon(self._performer.ended, self)

    async def _perform(self) -> None:
        """Perform the call and report its outcome, in the turn of the host loop in which it ends.

        What was cancelled is reported in the next one: a closing loop cancels everything, in any order, and whoever
        drives the execution must learn that before it takes the end of a task for a fact.
        """
        self._has_begun = True
        try:
            self.outcome = await self._outcome()
        except Exception as error:  # noqa: BLE001 - a fault of Flux itself: shown by `run`.
            self.outcome = error
        except (asyncio.CancelledError, KeyboardInterrupt) as error:
            self.outcome = error
            self._performer.host.call_soon(self._performer.ended, self)
            if not isinstance(error, asyncio.CancelledError):
                raise
            return
        if self.is_being_cancelled:
            self._performer.host.call_soon(self._performer.ended, self)
        else:
            lineage.exit(self.host_task)
            self._performer.ended(self)

    async def _outcome(self) -> Outcome:
        if self._undo:
            return await self.undo()
        parts = self._performer.parts
        if self._task.cache_seconds is not None:
            key = self._task.cache_key(self.call.arguments)
            cached = parts.store.cached_result(key, now=parts.clock.now())
            if cached is not None:
                return Succeeded(serde.decode(cached), cached, may_be_cached=False)
        if not parts.lease.is_trusted():
            await self._performer.until_trusted(self.call)
        return await self.run()

    # -- see `Surroundings`

    @property
    def execution_id(self) -> str:
        return self._performer.log.execution_id

    @property
    def name(self) -> str:
        return self.call.name

    def idempotency_key(self) -> str:
        return self._performer.log.idempotency_key(self.call)

    def reference_id(self) -> str:
        return f"{self.call.name}_{self.execution_id}_{self.call.id}"

    def record(self, type_: Type, value: bytes | None, detail: bytes | None = None) -> None:
        if self._performer.is_running(self.call.id):
            self._performer.log.call_progressed(self.call, type_, value, detail)

    async def before_acting(self) -> None:
        if not self._task.pure:
            await self._performer.log.until_durable()
        await self._performer.until_trusted(self.call)

    def begin(self, part: str) -> Attempt:
        return self._performer.log.begin_attempt(self.call, part)

    def end(self, attempt: Attempt) -> None:
        self._performer.log.end_attempt(attempt)

    def entered(self, attempt: Attempt | None) -> None:
        self._performer.entered()
        if attempt is not None:
            attempt.enter()

    def left(self, attempt: Attempt | None) -> None:
        self._performer.left()

    def secrets(self, names: Sequence[str]) -> Mapping[str, Any]:
        return self._performer.parts.secrets(names)

    async def run_in_process(
        self, function: Callable[..., Any], named: Mapping[str, Any], on_start: Callable[[], None] | None
    ) -> Any:
        return await self._performer.parts.processes.run(function, named, on_start=on_start)
