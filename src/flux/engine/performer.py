"""The attempts of an execution's calls, as tasks of the host loop."""

import asyncio
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flux.domain.definitions import TaskDefinition
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.engine.attempts import Attempts, Failed, Succeeded
from flux.engine.calls import CURRENT_ATTEMPT, Call
from flux.engine.journal import Journal
from flux.engine.parts import Parts
from flux.engine.threads import resolve

LEASE_POLL_SECONDS = 0.05


class CallLog(Protocol):
    """Where the steps of calls are written, and who learns how they ended."""

    def call_progressed(self, call: Call, type_: Type, data: bytes | None, detail: bytes | None) -> None:
        """Record a step between the start of a call and its outcome."""
        ...

    def call_ended(self, call: Call, outcome: Succeeded | Failed) -> None:
        """Record and deliver the outcome of a call."""
        ...

    def call_stopped(self, call: Call) -> None:
        """A cancelled call has cleaned up after itself."""
        ...

    def call_broke(self, error: BaseException) -> None:
        """Flux itself failed while it performed a call: show it, record nothing."""
        ...

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call back when everything recorded so far is on disk."""
        ...


class Performer:
    """Performs calls: each is a host task in the context of its caller.

    Args:
        journal: Knows from here whether user code runs on the host loop.
        log: Of the execution.
    """

    def __init__(self, parts: Parts, journal: Journal, log: CallLog) -> None:
        self._parts, self._journal, self._log = parts, journal, log
        self._host = asyncio.get_running_loop()
        self._running: dict[str, tuple[Call, asyncio.Task[Any]]] = {}
        self._stopping: list[asyncio.Task[Any]] = []

    def is_running(self, call_id: str) -> bool:
        """Whether an attempt, or the wait between two, is under way."""
        return call_id in self._running

    def perform(self, call: Call, task: TaskDefinition, progress: Sequence[ExecutionEvent]) -> None:
        """Make the attempts of a call; everything that led to it is durable."""
        performance = self._host.create_task(self._perform(call, task, progress), context=call.context)
        self._running[call.id] = call, performance
        performance.add_done_callback(functools.partial(self._performed, call))

    def cancel(self, call_id: str) -> None:
        """Cancel the attempts of a call; `call_stopped` follows when they have cleaned up."""
        self._running[call_id][1].cancel()

    def give_up(self, call_id: str) -> None:
        """Wait no longer for a call: whatever still comes of it is dropped."""
        self._running.pop(call_id, None)

    def report(self) -> None:
        """Report now what has ended and would be reported in the loop's next turn."""
        for call, performance in list(self._running.values()):
            if performance.done():
                self._performed(call, performance)

    def stop(self) -> None:
        """Cancel everything, and report nothing of it any more."""
        self._stopping = [performance for _, performance in self._running.values()]
        self._running = {}
        for performance in self._stopping:
            performance.cancel()

    async def stopped(self, timeout_seconds: float) -> bool:
        """Stop, and wait until everything has cleaned up; False if that takes longer."""
        self.stop()
        if self._stopping:
            await asyncio.wait(self._stopping, timeout=timeout_seconds)
        return all(performance.done() for performance in self._stopping)

    async def _perform(
        self, call: Call, task: TaskDefinition, progress: Sequence[ExecutionEvent]
    ) -> Succeeded | Failed:
        CURRENT_ATTEMPT.set(call)
        attempts = Attempts(
            task,
            call.id,
            call.arguments.copy,
            call.arguments.instance,
            recorder=_CallRecorder(self, call, task),
            clock=self._parts.clock,
            threads=self._parts.threads,
            progress=progress,
            grace_seconds=self._parts.cancel_grace_seconds,
        )
        if not self._parts.lease.is_trusted():
            await self.until_trusted()
        return await attempts.run()

    def _performed(self, call: Call, performance: asyncio.Task[Any]) -> None:
        if self._running.get(call.id, (None, None))[1] is not performance:
            return  # Given up, stopped, or reported.
        del self._running[call.id]
        # A task that was asked to end did not fail by itself, whatever it makes of that.
        if performance.cancelled() or performance.cancelling():
            self._log.call_stopped(call)
        elif (error := performance.exception()) is not None:
            self._log.call_broke(error)
        else:
            self._log.call_ended(call, performance.result())

    def record(self, call: Call, type_: Type, value: bytes | None, detail: bytes | None) -> None:
        """Record a step of a call that is still performed."""
        if call.id in self._running:
            self._log.call_progressed(call, type_, value, detail)

    async def until_durable(self) -> None:
        """Wait until everything recorded so far is on disk."""
        durable: asyncio.Future[None] = self._host.create_future()
        self._log.when_durable(functools.partial(resolve, durable))
        await durable

    async def until_trusted(self) -> None:
        """Another process may have taken over: start nothing until the heartbeat knows."""
        while not self._parts.lease.is_trusted():
            await asyncio.sleep(LEASE_POLL_SECONDS)

    def count(self, change: int) -> None:
        """Count the attempts that are in user code: while there are any, no commit may block the loop."""
        self._journal.active_attempts += change


@dataclass(slots=True, eq=False)
class _CallRecorder:
    """A performer, as the attempts of one call see it."""

    performer: Performer
    call: Call
    task: TaskDefinition

    def record(self, type_: Type, value: bytes | None, detail: bytes | None = None) -> None:
        self.performer.record(self.call, type_, value, detail)

    async def before_acting(self) -> None:
        if not self.task.pure:
            await self.performer.until_durable()
        await self.performer.until_trusted()

    def acting(self, *, is_active: bool) -> None:
        self.performer.count(1 if is_active else -1)
