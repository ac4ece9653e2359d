"""The attempts of an execution's calls, as tasks of the host loop."""

import asyncio
import functools
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
        self._journal = journal
        self._host = asyncio.get_running_loop()
        self._running: dict[str, tuple[Call, Attempts, asyncio.Task[Outcome]]] = {}
        self._stopping: list[asyncio.Task[Any]] = []
        self.acting = 0  # Attempts in user code.

    def is_running(self, call_id: str) -> bool:
        """Whether an attempt, or the wait between two, is under way."""
        return call_id in self._running

    def is_rolling_back(self, call_id: str) -> bool:
        """Whether what a call did is being undone, which takes its time."""
        return call_id in self._running and self._running[call_id][1].is_rolling_back

    def perform(self, call: Call, task: TaskDefinition, progress: Sequence[ExecutionEvent], *, undo: bool) -> None:
        """Make the attempts of a call; everything that led to it is durable.

        Args:
            undo: Roll it back instead: it was cancelled.
        """
        attempts = Attempts(
            task,
            call.id,
            call.arguments.copy,
            call.arguments.instance,
            around=_Around(self, call, task),
            clock=self.parts.clock,
            threads=self.parts.threads,
            progress=progress,
            grace_seconds=self.parts.cancel_grace_seconds,
            was_interrupted=self.log.was_interrupted(call),
            redactor=call.attempt.redactor if call.attempt is not None else None,
        )
        work = attempts.undo() if undo else self._perform(call, task, attempts)
        performance = lineage.create_task(self._host, work, call.context)
        self._running[call.id] = call, attempts, performance
        performance.add_done_callback(functools.partial(self._performed, call))

    def cancel(self, call_id: str) -> bool:
        """Cancel the attempts of a call; `call_stopped` follows when they have cleaned up.

        Returns:
            Whether that can be forced; False while the call is rolled back, which takes its time.
        """
        if self.is_rolling_back(call_id):
            return False
        _, attempts, performance = self._running[call_id]
        attempts.is_given_up = True
        performance.cancel()
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
        for call, _, performance in list(self._running.values()):
            if performance.done():
                self._performed(call, performance)

    def report_last(self) -> None:
        """Report what has ended by itself, before the rest is stopped: this loop may be closing and cancel all."""
        for call, _, performance in list(self._running.values()):
            if performance.done() and not performance.cancelling():
                self._performed(call, performance)

    def stop(self) -> None:
        """Cancel everything, and report nothing of it any more."""
        for _, attempts, performance in self._running.values():
            attempts.is_given_up = True
            self._stopping.append(performance)
        self._running = {}
        for performance in self._stopping:
            performance.cancel()

    async def stopped(self, timeout_seconds: float) -> bool:
        """Stop, and wait until everything has cleaned up; False if that takes longer."""
        self.stop()
        if self._stopping:
            await asyncio.wait(self._stopping, timeout=timeout_seconds)
        return all(performance.done() for performance in self._stopping)

    async def _perform(self, call: Call, task: TaskDefinition, attempts: Attempts) -> Succeeded | Failed:
        if task.cache_seconds is not None:
            now = self.parts.clock.now()
            cached = self.parts.store.cached_result(task.cache_key(call.arguments), now=now)
            if cached is not None:
                return Succeeded(serde.decode(cached), cached, may_be_cached=False)
        if not self.parts.lease.is_trusted():
            await self.until_trusted(call)
        return await attempts.run()

    def _performed(self, call: Call, performance: "asyncio.Task[Outcome]") -> None:
        running = self._running.get(call.id)
        if running is None or running[2] is not performance or not self.log.is_live():
            return  # Given up, stopped, or reported; or it will be.
        del self._running[call.id]
        if running[1].is_given_up:
            self.log.call_stopped(call, running[1].left_behind)  # It did not fail, whatever it makes of that.
        elif performance.cancelled():
            failure = RuntimeError("the task cancelled itself, which would end more than itself")
            self.log.call_ended(call, Failed(serde.encode_failure(failure)))
        elif (error := performance.exception()) is not None:
            self.log.call_broke(error)
        else:
            self.log.call_ended(call, performance.result())

    def record(self, call: Call, type_: Type, value: bytes | None, detail: bytes | None) -> None:
        """Record a step of a call that is still performed."""
        if call.id in self._running:
            self.log.call_progressed(call, type_, value, detail)

    async def until_trusted(self, call: Call) -> None:
        """Another process may have taken over: start nothing until the heartbeat knows."""
        while not self.parts.lease.is_trusted(is_finishing=call.attempt is not None):
            await asyncio.sleep(LEASE_POLL_SECONDS)

    def count(self, change: int) -> None:
        """Count the attempts that are in user code: while there are any, no commit may block the loop."""
        self.acting += change
        self._journal.count_attempts(change)


class _Around:
    """The surroundings of the attempts of one call."""

    __slots__ = ("_call", "_performer", "_task")

    def __init__(self, performer: Performer, call: Call, task: TaskDefinition) -> None:
        self._performer, self._call, self._task = performer, call, task

    @property
    def execution_id(self) -> str:
        return self._performer.log.execution_id

    @property
    def name(self) -> str:
        return self._call.name

    def idempotency_key(self) -> str:
        return self._performer.log.idempotency_key(self._call)

    def reference_id(self) -> str:
        return f"{self._call.name}_{self.execution_id}_{self._call.id}"

    def record(self, type_: Type, value: bytes | None, detail: bytes | None = None) -> None:
        self._performer.record(self._call, type_, value, detail)

    async def before_acting(self) -> None:
        if not self._task.pure:
            await self._performer.log.until_durable()
        await self._performer.until_trusted(self._call)

    def begin(self, part: str) -> Attempt:
        return self._performer.log.begin_attempt(self._call, part)

    async def end(self, attempt: Attempt | None) -> None:
        if attempt is None:
            return
        if attempt.has_open_calls:
            await attempt.end()
        self._performer.log.end_attempt(attempt)

    def entered(self, attempt: Attempt | None) -> None:
        self._performer.count(1)
        if attempt is not None:
            attempt.enter()

    def left(self, attempt: Attempt | None) -> None:
        self._performer.count(-1)

    def secrets(self, names: Sequence[str]) -> Mapping[str, Any]:
        return self._performer.parts.secrets(names)

    async def run_in_process(
        self, function: Callable[..., Any], named: Mapping[str, Any], on_start: Callable[[], None] | None
    ) -> Any:
        return await self._performer.parts.processes.run(function, named, on_start=on_start)
