"""The calls of one execution that have started and not ended: started when their cause is durable, cancelled, undone.

The walk of a call: it is made (`made`), its start is recorded, the commit that holds every earlier event lets it act
(`_launch`), its attempts run, their outcome is recorded and, in the same step, handed to whoever made the call: to the
body by `Driver.deliver`, to a task body by its `Attempt`.
"""

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from flux import serde, telemetry
from flux.domain.definitions import TaskDefinition
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.history import ROLLS_BACK, WITHHELD
from flux.engine import outcomes, withheld
from flux.engine.attempt import Attempt
from flux.engine.calls import Call, ChildRequest, PauseRequest
from flux.engine.children import Children
from flux.engine.journal import Journal, Log
from flux.engine.parts import Parts
from flux.engine.performer import Performer
from flux.engine.promises import Promises
from flux.engine.surroundings import Failed, RolledBack, Succeeded
from flux.engine.threads import resolve
from flux.errors import ExecutionTimeoutError
from flux.ports import Message, Pause

MICROSECONDS = 1_000_000
_BEGINNINGS = frozenset({Type.TASK_RETRY_STARTED, Type.TASK_FALLBACK_STARTED, Type.TASK_ROLLBACK_STARTED})
_ROLLED_BACK = frozenset({Type.TASK_ROLLBACK_COMPLETED, Type.TASK_ROLLBACK_FAILED})

Outcome = Succeeded | Failed | RolledBack


class Driver(Protocol):
    """Who drives the execution."""

    execution_id: str

    def deliver(self, event: ExecutionEvent) -> None:
        """Give the body an outcome."""
        ...

    def look(self) -> None:
        """What is waited for has changed: see whether anything is left to wait for here."""
        ...

    def catch_up(self) -> None:
        """Receive what has come in meanwhile."""
        ...

    def is_live(self) -> bool:
        """Whether calls are made, recorded and delivered at all."""
        ...

    def broke(self, error: BaseException) -> None:
        """Flux itself failed: show it, record nothing."""
        ...

    def guard(self, step: Callable[..., None], *args: Any) -> None:
        """Take a step from a callback of the host loop."""
        ...


class OpenCalls:
    """The open calls of one execution.

    Args:
        children: Drives those that are executions of their own.
    """

    def __init__(self, parts: Parts, journal: Journal, log: Log, driver: Driver, children: Children) -> None:
        self.host = asyncio.get_running_loop()
        self.history = log.history
        self.promises = Promises(driver.is_live)
        self._parts, self._log, self._driver, self._children = parts, log, driver, children
        self.is_live = driver.is_live
        self._performer = Performer(parts, journal, self)
        self._open: dict[str, Call] = {}
        self._attempts: dict[str, Attempt] = {}  # Of calls whose user code runs now.
        self._cancelled: set[str] = set()
        self._undoing: set[str] = set()  # Those of them that are being rolled back.
        self._begun: set[str] = set()
        self._left = self.history.open_inside()  # By another process; an attempt may take them up again.
        self._stored_seq = self.history.last_seq  # What came before this may have been begun by another process.
        self._deadlines: dict[str, int] = {}  # Of pauses inside tasks.
        self._deferred: list[Callable[[], None]] | None = None

    def __bool__(self) -> bool:
        return bool(self._open)

    # -- made, and started

    def made(self, call: Call) -> None:
        """Record the start of a call, unless it is recorded, and run it."""
        record = self.history.calls.get(call.id)
        is_new = record is None or record.started is None
        if is_new:
            data, target = call.arguments.data, call.target
            if target.secret_requests and withheld.path_to_secret(call, self._parts.secrets) is not None:
                call.name, data = target.name, WITHHELD  # A name may be made of arguments.
            self._log.record(Type.TASK_STARTED, call.id, call.name, data, call.detail)
        self._open[call.id] = call
        match call.target:
            case PauseRequest() as request:
                self._pause(call, request)
            case ChildRequest() as request:
                if is_new and self._is_child(call):
                    self._log.child_made(self._children.creation_of(call, request, self._parts.clock.now()))
                self._soon(call, pure=False)
            case TaskDefinition() as task:
                if record is not None and record.is_rolling_back:
                    self._cancelled.add(call.id)
                    self._undoing.add(call.id)
                self._soon(call, pure=task.pure)

    def _is_child(self, call: Call) -> bool:
        """Whether a call is an execution of its own: with a secret in its input none is created."""
        return isinstance(call.target, ChildRequest) and not self.history.calls[call.id].is_withheld

    def defer(self) -> None:
        """Start nothing yet: the body is being replayed, and may have cancelled what it seems to start."""
        self._deferred = []

    def start_deferred(self) -> None:
        """Start what was deferred and is still wanted."""
        deferred, self._deferred = self._deferred or [], None
        for start in deferred:
            start()

    def _soon(self, call: Call, *, pure: bool) -> None:
        if self._deferred is not None:
            self._deferred.append(functools.partial(self._soon, call, pure=pure))
        elif pure and not self._log.is_far_ahead():
            self._launch(call)
        else:
            self._log.when_durable(functools.partial(self._launch, call))

    def _launch(self, call: Call) -> None:
        """Every earlier event is on disk: the call may act."""
        is_wanted = call.id not in self._cancelled or call.id in self._undoing
        if self._open.get(call.id) is not call or not is_wanted or not self.is_live():
            return  # It has ended, or another call has its id by now: the history began anew, or was replayed.
        match call.target:
            case ChildRequest(workflow) if self._is_child(call):
                self._children.drive(call.id, workflow)
            case ChildRequest():
                self.host.call_soon(self._driver.guard, self._refuse, call)
            case TaskDefinition() as task if not self._performer.is_running(call.id):
                progress = self.history.calls[call.id].progress
                self._performer.perform(call, task, progress, undo=call.id in self._undoing)
            case _:
                return

    def _refuse(self, call: Call) -> None:
        if self._open.get(call.id) is call and call.id not in self._cancelled and self.is_live():
            failure = serde.encode_failure(withheld.refusal(call, self._parts.secrets))
            self._ended(call, self._log.record(Type.TASK_FAILED, call.id, call.name, failure))

    def acting(self) -> tuple[bool, list[str]]:
        """Whether an attempt is in user code, and which children are driven here."""
        return self._performer.acting > 0, self._children.driven()

    # -- waiting for somebody outside

    def waits_outside(self, call: Call) -> bool:
        """Whether only somebody outside can bring this call's outcome; not recursive, because tasks nest deeply."""
        if call.id not in self._attempts and isinstance(call.target, TaskDefinition):
            return False  # The most frequent case, in fewer steps.
        undecided = [call]
        while undecided:
            each = undecided.pop()
            is_given_up = each.id in self._cancelled and not self._performer.is_rolling_back(each.id)
            is_wanted = each.id in self._open and not is_given_up
            match each.target:
                case ChildRequest():
                    if not self._children.is_paused(each.id):
                        return False
                case TaskDefinition() if is_wanted and each.id in self._attempts:
                    inner = self._attempts[each.id].waits_for()
                    if not inner:
                        return False
                    undecided += inner
                case _:
                    if not is_wanted or not isinstance(each.target, PauseRequest):
                        return False
        return True

    def all_wait_outside(self) -> bool:
        """Whether nothing runs: each call of the body, or left by a call that has ended, waits for somebody outside."""
        return all(self.waits_outside(each) for each in self._open.values() if not each.attempt or self._is_left(each))

    def _is_left(self, inner: Call) -> bool:
        """Whether the call that this one was made inside has ended, and has left it running."""
        return inner.parent not in self._open

    def first_pause(self) -> PauseRequest | None:
        """The open pause that is answered first: that was made first, in whatever order a replay makes them."""
        pauses = [(call.id, call.target) for call in self._open.values() if isinstance(call.target, PauseRequest)]
        return min(pauses, key=lambda pause: self.history.calls[pause[0]].progress[0].seq, default=("", None))[1]

    def next_deadline(self) -> int | None:
        """When the next pause inside a task times out, in microseconds since the epoch."""
        return min(self._deadlines.values(), default=None)

    def _pause(self, call: Call, request: PauseRequest) -> None:
        record = self.history.calls[call.id]
        enclosing = list(call.attempt.enclosing()) if call.attempt is not None else []
        if not record.progress:
            self._log.record(Type.TASK_PAUSED, call.id, "pause", serde.encode(request.label))
            self._log.pause_opened(Pause(self._pause_id(call.id), request.label))
            for attempt in enclosing:
                self._log.record(Type.TASK_PAUSED, attempt.call.id, attempt.call.name, serde.encode(request.label))
        for attempt in enclosing:
            attempt.pause_began()
        if call.attempt is not None and request.timeout_seconds is not None:
            deadline = record.progress[0].time_us + round(request.timeout_seconds * MICROSECONDS)
            self._deadlines[call.id] = deadline
            delay = max(0, deadline - self._parts.clock.now()) / MICROSECONDS
            self.host.call_later(delay, self._driver.guard, self._time_out, call, request)
        self._look_soon()

    def _time_out(self, call: Call, request: PauseRequest) -> None:
        """A pause inside a task was not answered in time; an answer that is in the inbox already was."""
        self._driver.catch_up()
        if self._open.get(call.id) is call and call.id not in self._cancelled and self.is_live():
            error = ExecutionTimeoutError(request.timeout_text)
            self._close_pause(call)
            self._ended(call, self._log.record(Type.TASK_FAILED, call.id, call.name, serde.encode_failure(error)))

    def _close_pause(self, call: Call) -> None:
        self._log.pause_closed(self._pause_id(call.id))
        self._deadlines.pop(call.id, None)
        if call.attempt is not None:
            for attempt in call.attempt.enclosing():
                attempt.pause_ended()

    # -- answered from outside

    def _pause_id(self, call_id: str) -> str:
        """By what a resume is bound to a pause: a history that begins anew has calls of the same ids."""
        generation = self._children.generation
        return call_id if generation == 1 else f"{call_id}#{generation}"

    def resumed(self, message: Message) -> None:
        """Answer a pause, which may be inside a task that does not run at this moment."""
        call_id = message.call_id.partition("#")[0]
        record = self.history.calls.get(call_id)
        is_over = record is None or record.outcome is not None or call_id in self._cancelled
        if is_over or self._pause_id(call_id) != message.call_id:
            return  # It timed out, or was of the history before this one; that it was resumed is recorded all the same.
        value = {"name": message.name, "input": serde.decode(message.data)}
        self._log.record(Type.TASK_RESUMED, call_id, "pause", serde.encode(value, extra_levels=1))
        call = self._open.get(call_id)
        if call is not None:
            self._close_pause(call)
        else:
            self._log.pause_closed(message.call_id)
        event = self._log.record(Type.TASK_COMPLETED, call_id, "pause", message.data)
        if call is not None:
            self._ended(call, event)

    def child_ended(self, message: Message) -> None:
        """A child execution has finished: its result is the outcome of the call that it is."""
        call = self._open.get(message.call_id)
        if call is None:
            return
        self._children.forget(call.id)
        if call.id in self._cancelled:
            self._ended(call, self._log.record(Type.TASK_CANCELLED, call.id, call.name))
        else:
            type_, data = self._children.outcome(call, message)
            self._ended(call, self._log.record(type_, call.id, call.name, data))

    # -- cancelled

    def cancelled(self, call: Call) -> None:
        """Whoever made the call gave it up: stop it, and end it when it has stopped, or after the grace."""
        if call.id in self._cancelled or call.id not in self._open or not self.is_live():
            return
        self._cancelled.add(call.id)
        if (attempt := self._attempts.get(call.id)) is not None:
            attempt.came_to_us = None  # It is told now.
        if isinstance(call.target, ChildRequest) and self._is_child(call):
            self._cancel_child(call, call.target)
        elif self._performer.is_running(call.id):
            if self._performer.cancel(call.id):
                grace, generation = self._parts.cancel_grace_seconds, self._children.generation
                self.host.call_later(grace, self._driver.guard, self._end_grace, call.id, generation)
        else:
            self.host.call_soon(self._driver.guard, self._end_cancelled, call.id)

    def cancel_all(self) -> None:
        """Give up every call of the body, and end what another process has left inside of those that had ended."""
        for outer_id in [each for each in self._left if each not in self._open]:
            self._end_left(outer_id, self._left.pop(outer_id))
        for call in list(self._open.values()):
            if call.attempt is None:
                self.cancelled(call)

    def _cancel_child(self, call: Call, request: ChildRequest) -> None:
        """Ask it; it cleans up as it likes, and tells when it is done."""
        self._log.child_cancelled(self._children.id_of(call.id))
        self._log.when_durable(functools.partial(self._children.drive, call.id, request.workflow))

    def _end_grace(self, call_id: str, generation: int) -> None:
        if generation != self._children.generation:
            return  # It is another call of the same id.
        inside = (inner_id for inner_id in self._open if inner_id.startswith(f"{call_id}/"))
        if any(self._performer.is_rolling_back(inner_id) for inner_id in inside):
            grace = self._parts.cancel_grace_seconds
            self.host.call_later(grace, self._driver.guard, self._end_grace, call_id, generation)
        else:
            self._end_cancelled(call_id)

    def _end_cancelled(self, call_id: str, left_behind: str | None = None) -> None:
        call = self._open.get(call_id)
        if call is None or call_id in self._undoing or not self.is_live():
            return
        left_behind = self._performer.give_up(call_id) or left_behind
        if left_behind is not None:
            telemetry.emit("task.left_behind", execution_id=self._driver.execution_id, call_id=call_id, task=call.name)
        value = serde.encode(left_behind) if left_behind is not None else None
        self._attempts.pop(call_id, None)
        if isinstance(call.target, PauseRequest):
            self._close_pause(call)
        if isinstance(call.target, TaskDefinition) and self._is_to_be_undone(call, call.target):
            self._undoing.add(call_id)
        self._end_inside(call)
        if call_id in self._undoing:
            self._log.record(Type.TASK_CANCELLED, call_id, call.name, value, ROLLS_BACK)
            self._launch(call)
        else:
            self._ended(call, self._log.record(Type.TASK_CANCELLED, call_id, call.name, value))

    def _end_inside(self, call: Call) -> None:
        """End the calls inside this one that an interrupted attempt made, and that none has taken up."""
        if left := self._left and self._left.get(call.id.partition("/")[0]):
            rollback = f"{call.id}/rollback/" if call.id in self._undoing else None  # It goes on.
            self._end_left(call.id, [each for each in left if rollback is None or not each.startswith(rollback)])

    def _end_left(self, outer_id: str, left: Sequence[str]) -> None:
        for inner_id in reversed(left):
            record, is_inside = self.history.calls[inner_id], inner_id.startswith(f"{outer_id}/")
            if record.outcome is None and record.started is not None and is_inside and inner_id not in self._open:
                self._log.pause_closed(self._pause_id(inner_id))
                self._log.record(Type.TASK_CANCELLED, inner_id, record.started.name)

    def _is_to_be_undone(self, call: Call, task: TaskDefinition) -> bool:
        """Whether it may have acted, and has a rollback that did not run to its end."""
        record = self.history.calls[call.id]
        if task.rollback is None or any(event.type in _ROLLED_BACK for event in record.progress):
            return False
        return call.id in self._begun or (record.started is not None and record.started.seq <= self._stored_seq)

    # -- performed (see `performer.CallLog`)

    def begin_attempt(self, call: Call, part: str) -> Attempt:
        """An attempt of a call begins."""
        record = self.history.calls[call.id]
        assert record.started is not None
        began = record.started
        if record.progress:
            began = next((e for e in reversed(record.progress) if e.type in _BEGINNINGS), began)
        came_to_us = began.time_us if began.seq <= self._stored_seq else None
        self._begun.add(call.id)
        attempt = self._attempts[call.id] = Attempt(self, call, part, began.seq, came_to_us)
        return attempt

    def end_attempt(self, attempt: Attempt) -> None:
        """It has ended."""
        attempt.is_over = True
        if self._attempts.get(attempt.call.id) is attempt:
            del self._attempts[attempt.call.id]

    def idempotency_key(self, call: Call) -> str:
        """What is the same in every attempt of a call, after every crash, and in no other call."""
        return self._children.id_of(call.id)

    @property
    def execution_id(self) -> str:
        """Whose calls these are."""
        return self._driver.execution_id

    def was_interrupted(self, call: Call) -> bool:
        """Whether another process may have begun an attempt of this call."""
        started = self.history.calls[call.id].started
        return started is not None and started.seq <= self._stored_seq

    def call_progressed(self, call: Call, type_: Type, data: bytes | None, detail: bytes | None) -> None:
        """Record a step between the start of a call and its outcome."""
        is_wanted = call.id not in self._cancelled or type_.startswith("TASK_ROLLBACK")
        if self.is_live() and call.id in self._open and is_wanted:
            self._log.record(type_, call.id, call.name, data, detail)

    def call_ended(self, call: Call, outcome: Outcome) -> None:
        """Record the outcome of a call and hand it on, in one step."""
        self._driver.guard(self._end, call, outcome)

    def _end(self, call: Call, outcome: Outcome) -> None:
        self._undoing.discard(call.id)
        self._end_inside(call)
        match outcome:
            case RolledBack(type_, data):
                self._ended(call, self._log.record(type_, call.id, call.name, data))
            case _ if call.id in self._cancelled:
                self._end_cancelled(call.id)  # A late result is dropped.
            case Succeeded(value, data, may_be_cached):
                event = self._log.record(Type.TASK_COMPLETED, call.id, call.name, data)
                event.remember(value)
                task = call.target
                # Not if it was cached: a result that is asked for often would never expire.
                if may_be_cached and isinstance(task, TaskDefinition) and task.cache_seconds is not None:
                    self._log.result_cached(outcomes.to_cache(task, call.arguments, data, self._parts.clock.now()))
                self._ended(call, event)
            case Failed(data):
                self._ended(call, self._log.record(Type.TASK_FAILED, call.id, call.name, data))

    def call_stopped(self, call: Call, left_behind: str | None) -> None:
        """A cancelled call has cleaned up; one that the closing host loop cancelled is no fact."""
        if call.id in self._cancelled:
            self._driver.guard(self._end_cancelled, call.id, left_behind)

    def call_broke(self, error: BaseException) -> None:
        """Flux itself failed while it performed a call."""
        self._driver.broke(error)

    def _ended(self, call: Call, event: ExecutionEvent) -> None:
        self._open.pop(call.id, None)
        self._cancelled.discard(call.id)
        self._undoing.discard(call.id)
        if call.attempt is None:
            self._driver.deliver(event)
        else:
            call.attempt.answered(call, event)
            if self._is_left(call):
                self._look_soon()  # Nobody else is left who would.

    # -- for the attempts

    def look(self) -> None:
        """See `Driver.look`."""
        self._driver.guard(self._driver.look)

    def _look_soon(self) -> None:
        if self._deferred is None:
            self.host.call_soon(self.look)

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call back when everything recorded so far is on disk."""
        self._log.when_durable(callback)

    async def until_durable(self) -> None:
        """Wait until everything recorded so far is on disk."""
        durable = self.promises.make()
        self._log.when_durable(functools.partial(resolve, durable))
        await durable

    # -- its life

    def revive(self) -> None:
        """The execution was not parked after all: go on."""
        self.promises.revive()
        self._performer.report()
        for call in list(self._open.values()):
            if isinstance(call.target, ChildRequest) and self._is_child(call):
                self._children.drive(call.id, call.target.workflow)  # Also one that was cancelled: it has its clean-up.

    def restarted(self) -> None:
        """A fresh history begins; no call is open, and none of it was begun by another process."""
        self._stored_seq = 0
        self._begun.clear()
        self._left.clear()

    def report_last(self) -> None:
        """Report what has ended and would be reported in the loop's next turn."""
        self._performer.report_last()

    def stop(self) -> None:
        """Cancel everything, and report nothing of it any more."""
        self.promises.break_all()
        self._performer.stop()
        self._children.stop()

    async def stopped(self, timeout_seconds: float) -> bool:
        """Stop, and wait until everything has cleaned up; False if that takes longer."""
        self.stop()
        await self._children.stopped()
        return await self._performer.stopped(timeout_seconds)
