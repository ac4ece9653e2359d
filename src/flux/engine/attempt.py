"""One attempt of a call, for the code that runs in it: what that code calls, and what it waits for.

A task body acts on the world, so nothing runs ahead there: it is handed a result when that is durable.  A call that
succeeded in an earlier attempt answers in a later one; a failure counts only in the attempt that it happened in.
"""

import asyncio
import contextvars
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flux import serde
from flux.domain.definitions import Arguments, TaskDefinition
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.history import CallRecord
from flux.domain.redaction import Redactor
from flux.engine import lineage
from flux.engine.calls import Call, PauseRequest, Target, result_of
from flux.engine.lineage import Branch
from flux.errors import BodyError, InvalidValueError
from flux.ports import Store

if TYPE_CHECKING:
    from flux.engine.open_calls import OpenCalls

_UNDONE = object()
WAKING_TURNS = 10  # Of the host loop: one for each future between two asyncio tasks, as of a `gather` in a `gather`.


class Attempt:
    """One attempt.

    Args:
        calls: The open calls of the execution.
        call: Of which this is an attempt.
        part: "" for an attempt of the task itself, else "fallback/" or "rollback/": their calls are told apart.
        since: The seq of the event that began it.
        came_to_us: For one that another process began: when that was.  Simulations let it go on from there.
    """

    def __init__(self, calls: "OpenCalls", call: Call, part: str, since: int, came_to_us: int | None) -> None:
        self.call = call
        self.is_over = False
        self.redactor: Redactor | None = None  # Knows the secrets that the code of this attempt has been given.
        self.came_to_us = came_to_us
        self._calls, self._since = calls, since
        self._prefix = f"{call.id}/{part}"
        self._open: dict[str, tuple[Call, Branch]] = {}
        self._branches: dict[Branch, asyncio.Task[Any]] = {}
        self._pauses = 0
        self._paused_since = self._paused_seconds = 0.0

    @property
    def execution_id(self) -> str:
        """Of the execution that it belongs to."""
        return self._calls.execution_id

    @property
    def store(self) -> Store:
        """Where that is."""
        return self._calls._parts.store

    def description(self) -> dict[str, Any]:
        """What tells it from others, for logs."""
        history = self._calls.history
        record = history.calls.get(self.call.id)
        retries = sum(event.type is Type.TASK_RETRY_STARTED for event in record.progress) if record is not None else 0
        return {
            "execution_id": self.execution_id,
            "workflow": history.events[0].name if history.events else "",
            "call_id": self.call.id,
            "task": self.call.name,
            "attempt": retries + 1,
        }

    def enter(self) -> None:
        """The running asyncio task is the one that the attempt begins in."""
        lineage.enter(Branch(self))

    def branched(self, branch: Branch, task: "asyncio.Task[Any]") -> None:
        """The attempt has created an asyncio task."""
        self._branches[branch] = task
        task.add_done_callback(lambda _: self._branch_ended(branch))

    def enclosing(self) -> Iterator["Attempt"]:
        """The attempts that this one runs in, itself first."""
        attempt: Attempt | None = self
        while attempt is not None:
            yield attempt
            attempt = attempt.call.attempt

    # -- calls

    async def make_call(self, branch: Branch, target: Target, arguments: Arguments) -> Any:
        """Make a call and wait until its outcome is durable.

        Raises:
            BodyError: The attempt is over, or this is not its event loop.
        """
        name = target.name_of(arguments)
        self._check(name)
        if self.redactor is not None:
            named, data = arguments.named, arguments.data
            if isinstance(target, PauseRequest):
                named, data = {**named, "output": serde.decode(target.output)}, data + target.output
            self.refuse_secrets(repr(self.redactor.text(name)), named, data, "arguments")
        if not self._calls.is_live():
            await self._calls.promises.until_live()
        place, value = self._prefix + branch.next_call(), _UNDONE
        while value is _UNDONE:
            call_id, answer = self._look_up(place, target, name, arguments.data)
            if answer is None:
                value = await self._make(call_id, name, branch, target, arguments)
                continue
            self._came_to(answer)
            await self._calls.until_durable()
            if answer.type is not Type.TASK_COMPLETED:
                raise answer.value_copy()
            value = result_of(target, answer)
        return value

    async def _make(self, call_id: str, name: str, branch: Branch, target: Target, arguments: Arguments) -> Any:
        """Make a call; gives `_UNDONE` if it was cancelled before, and its interrupted rollback has ended."""
        future = self._calls.promises.make()
        call = Call(call_id, name, target, arguments, future, self.call.id, contextvars.copy_context(), self)
        self._open[call_id] = call, branch
        self._calls.made(call)
        try:
            return await future
        except asyncio.CancelledError:
            if call_id in self._open:
                await self._cancel(call)
            raise

    def refuse_secrets(self, what: str, value: Any, data: bytes, path: str = "value") -> None:
        """Raises: InvalidValueError: What is given a value, which is recorded, and that holds a secret of this task."""
        found = self.redactor.find(value, data, path=path) if self.redactor is not None else None
        if found is not None:
            raise InvalidValueError(
                f"{what} was given a secret that the task {self.call.name!r} requested, at {found}, which would be "
                "recorded: let the task that needs the secret request it"
            )

    def answered(self, call: Call, event: ExecutionEvent) -> None:
        """A call has ended: hand its outcome over when that is durable."""
        self._open.pop(call.id, None)
        self._came_to(event)
        future = call.future
        self._calls.when_durable(lambda: _settle(future, call, event))

    def _came_to(self, event: ExecutionEvent) -> None:
        if self.came_to_us is not None:
            self.came_to_us = max(self.came_to_us, event.time_us)

    def _check(self, name: str) -> None:
        here = asyncio.get_running_loop()
        if here is not self._calls.host:
            raise BodyError(
                f"the task {name!r} was called on another event loop, in a thread of the task {self.call.name!r}: a "
                f"`def` task cannot call tasks, so make {self.call.name!r} an `async def` and await the call there"
            )
        if self.is_over:
            raise BodyError(
                f"the task {name!r} was called by what the task {self.call.name!r} left running after its end: await "
                "everything that makes calls before the task returns"
            )

    def _look_up(self, place: str, target: Target, name: str, data: bytes) -> tuple[str, ExecutionEvent | None]:
        """The id of a call, and what the history answers it with."""
        known = self._calls.history.calls
        is_pure = isinstance(target, TaskDefinition) and target.pure
        for count in itertools.count(1):
            call_id = place if count == 1 else f"{place}~{count}"
            record = known.get(call_id)
            if record is None:
                return call_id, None
            if self._fits(record, name, data, is_pure=is_pure):
                return call_id, record.outcome
        raise AssertionError

    def _fits(self, record: CallRecord, name: str, data: bytes, *, is_pure: bool) -> bool:
        outcome = record.outcome
        if not record.is_start_of(name, data):
            return False
        if outcome is None:
            return True  # It was interrupted, or its rollback was: that goes on.
        if outcome.type is Type.TASK_COMPLETED:
            return not is_pure or outcome.seq > self._since
        return outcome.type is Type.TASK_FAILED and outcome.seq > self._since

    async def _cancel(self, call: Call) -> None:
        """Give a call up, and wait until it has ended, however often this is cancelled meanwhile.

        Its caller and the end of the attempt may both do so, and it may have ended before the second of them begins.
        """
        if call.id not in self._open:
            return
        if not call.is_cancelled:
            call.future, call.is_cancelled = self._calls.promises.make(), True
        ended = call.future
        self._calls.cancelled(call)
        while not ended.done() and self._calls.is_live():
            try:
                await asyncio.shield(ended)
            except asyncio.CancelledError:
                continue

    def progressed(self, data: bytes) -> None:
        """Record how far it has come; safe from its threads."""
        if self.redactor is not None:
            data = self.redactor.encoded(data)
        if asyncio._get_running_loop() is self._calls.host:
            self._record_progress(data)  # At once: this may be the last thing that it does.
        else:
            self._calls.host.call_soon_threadsafe(self._record_progress, data)

    def _record_progress(self, data: bytes) -> None:
        if not self.is_over:
            self._calls.call_progressed(self.call, Type.TASK_PROGRESS, data, None)

    # -- what it waits for

    def waits_for(self) -> list[Call]:
        """The calls that it waits for, if it waits for nothing else.

        That is so when every asyncio task of it either makes such a call or has created one that does: what else those
        do beside is not known here.
        """
        waiting = {ancestor for _, branch in self._open.values() for ancestor in branch.ancestors}
        return [call for call, _ in self._open.values()] if waiting.issuperset(self._branches) else []

    def pause_began(self) -> None:
        """A pause is open, here or further inside."""
        self._pauses += 1
        if self._pauses == 1:
            self._paused_since = self._calls.host.time()

    def pause_ended(self) -> None:
        """It is not any more."""
        self._pauses -= 1
        if not self._pauses:
            self._paused_seconds += self._calls.host.time() - self._paused_since

    def take_paused_seconds(self) -> float:
        """How long it was paused since this was last asked: that does not count towards its timeout."""
        if self._pauses:
            now = self._calls.host.time()
            self._paused_seconds += now - self._paused_since
            self._paused_since = now
        seconds, self._paused_seconds = self._paused_seconds, 0.0
        return seconds

    def _branch_ended(self, branch: Branch, turns: int = WAKING_TURNS) -> None:
        """Whoever waits for it goes on, and does so in a later turn: until then the attempt does not only wait."""
        if turns:
            self._calls.host.call_soon(self._branch_ended, branch, turns - 1)
            return
        self._branches.pop(branch, None)
        if self._open:
            self._calls.look()

    # -- its end

    @property
    def has_open_calls(self) -> bool:
        return bool(self._open)

    async def end(self) -> None:
        """Make no more calls, and cancel those that were left running.

        An execution may be about to be parked, because it seemed to wait for these alone: what follows could not be
        recorded, so it waits for the refusal.
        """
        self.is_over = True
        await self._calls.promises.until_live()
        await asyncio.gather(*(self._cancel(call) for call, _ in list(self._open.values())))


def _settle(future: "asyncio.Future[Any]", call: Call, event: ExecutionEvent) -> None:
    if future.done():
        return
    if call.is_cancelled:
        future.set_result(None)
    elif event.type is Type.TASK_COMPLETED:
        try:
            future.set_result(result_of(call.target, event))
        except Exception as error:  # noqa: BLE001 - an output storage of the user's may raise anything.
            future.set_exception(error)
    elif event.type is Type.TASK_FAILED:
        future.set_exception(event.value_copy())
    elif event.type is Type.TASK_CANCELLED:
        future.cancel()
    else:
        future.set_result(_UNDONE)
