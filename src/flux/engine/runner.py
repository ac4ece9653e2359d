"""One execution under way on a host loop: it carries out what the body decides, and delivers what comes of it.

The walk of a call: the body makes it (`call_made`), its start is recorded, the commit that holds every earlier event
lets it act (`_launch`), its attempts run, their outcome is recorded (`call_ended`) and delivered to the body in the
same step, which makes the next call.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from flux import serde
from flux.domain.definitions import TaskDefinition, WorkflowDefinition
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState, Transition
from flux.domain.execution_context import ExecutionContext
from flux.domain.history import DECIDED_BY_BODY, History
from flux.engine.attempts import Failed, Succeeded
from flux.engine.body import Body, Raised, Returned
from flux.engine.calls import Call, PauseRequest
from flux.engine.inbox import Inbox
from flux.engine.journal import Journal, Log
from flux.engine.loop import BodyTimer, Drain
from flux.engine.outcomes import Asleep, Blocked, Phase, RunOutcome, Settled, Superseded, encode_outcome
from flux.engine.parts import Parts
from flux.engine.performer import Performer
from flux.engine.threads import resolve
from flux.errors import BodyError, FluxError, StoreError
from flux.ports import AppendResult, Message, NewExecution, Pause

logger = logging.getLogger("flux.engine")

MICROSECONDS = 1_000_000


class Runner:
    """Runs one claimed execution until it is settled, asleep, blocked, or somebody else's.

    Args:
        journal: Of the host loop that this runs on.
        workflow: Whose body.
        events: The stored history; empty for a new execution.
        create: The new execution, when its first commit creates it.
        input_data: Encoded input of a new execution.
    """

    def __init__(
        self,
        parts: Parts,
        journal: Journal,
        workflow: WorkflowDefinition,
        *,
        execution_id: str,
        fence: int,
        events: Sequence[ExecutionEvent],
        create: NewExecution | None = None,
        input_data: bytes | None = None,
    ) -> None:
        self.execution_id = execution_id
        self._parts, self._workflow = parts, workflow
        self._fence = fence
        self._history = History(events)
        self._input_data = input_data
        self._host = asyncio.get_running_loop()
        self._log = Log(journal, self, execution_id=execution_id, fence=fence, history=self._history, create=create)
        self.done: asyncio.Future[RunOutcome] = self._host.create_future()
        self._body: Body | None = None
        self._open: dict[str, Call] = {}  # Started, and not ended as far as this run knows.
        self._pauses: dict[str, PauseRequest] = {}  # Those of them that wait for somebody outside.
        self._performer = Performer(parts, journal, self)
        self._cancelled: set[str] = set()
        # While the body is replayed: what is to be started afterwards.
        self._resumed: list[tuple[Call, TaskDefinition]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._armed: BodyTimer | None = None  # The timer that it waits for.
        self._inbox = Inbox(parts.store, execution_id, functools.partial(self._guard, self._read_inbox))
        self._phase = Phase.LIVE
        self._unparked: asyncio.Future[None] | None = None  # While a release waits for a parking.

    @property
    def current_drain(self) -> Drain | None:
        """What the body is doing at this moment, if it runs (asked by the watch, from its own thread)."""
        body = self._body
        return body.loop.current_drain if body is not None else None

    # -- its life

    def begin(self) -> None:
        """Start or continue the execution; call it from a plain callback of the host loop."""
        self._guard(self._begin)

    def _begin(self) -> None:
        if not any(e.type is Type.WORKFLOW_STARTED for e in self._history.events[:3]):
            data = self._history.events[0].data if self._history.events else self._input_data
            self._record(Type.WORKFLOW_STARTED, "", self._workflow.name, data)
        self._load()

    async def release(self) -> None:
        """Give the execution back unharmed: what has ended is recorded, what runs is cancelled and not recorded.

        An end or a parking that is under way is waited for instead.
        """
        self._performer.report()
        if self._phase is Phase.SETTLING:
            self._unparked = self._host.create_future()
            ends: list[asyncio.Future[Any]] = [self.done, self._unparked]
            grace = self._parts.cancel_grace_seconds
            await asyncio.wait(ends, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        if self._phase is Phase.CLOSED:
            return
        self._phase = Phase.SETTLING  # The body is not driven any more, so nothing is decided and nothing starts.
        self._log.forget_waiters()
        self._drop_body()
        has_stopped = await self._performer.stopped(self._parts.cancel_grace_seconds)
        stored: asyncio.Future[None] = self._host.create_future()
        self._log.when_durable(functools.partial(resolve, stored))
        await asyncio.wait([stored], timeout=self._parts.cancel_grace_seconds)
        self._close()
        if has_stopped:
            self.free()
        else:
            logger.warning(
                "a task of execution %s goes on although it was cancelled: others can have the execution when this "
                "process ends",
                self.execution_id,
            )

    def free(self) -> bool:
        """Let others claim the execution; False if the database cannot be written now."""
        try:
            self._parts.store.release(self.execution_id, fence=self._fence)
        except (StoreError, OSError) as error:
            logger.warning("execution %s could not be given back: %s", self.execution_id, error)
            return False
        return True

    def abandon(self) -> None:
        """Stop at once: this process does not own the execution any more."""
        self._performer.stop()
        self._close()
        if not self.done.done():
            self.done.set_result(Superseded())

    def _load(self) -> None:
        started = next(e for e in self._history.events if e.type is Type.WORKFLOW_STARTED)
        context: ExecutionContext[Any] = ExecutionContext(
            self.execution_id, self._workflow.name, self._history.events, ExecutionState.RUNNING
        )
        self._body = Body(self._workflow, context, self._history, started.time_us, self)
        self._resumed = []
        self._body.replay()
        resumed, self._resumed = self._resumed, None
        if self._is_stuck():
            return
        self._catch_up()
        for call, task in resumed:
            self._start(call, task)
        self._step_ended()

    def _catch_up(self) -> None:
        """Deliver what has come due and what has come in meanwhile, in order of time."""
        for message in self._inbox.unread():
            self._fire_due_timers(until=message.sent_at)
            if self._is_live():
                self._receive(message)
        self._fire_due_timers(until=self._parts.clock.now())

    def _reload(self) -> None:
        """Forget the body and all that was decoded, and replay it."""
        self._drop_body()
        self._history = History(event.undecoded() for event in self._history.events)
        self._load()

    def _close(self) -> None:
        self._phase = Phase.CLOSED
        self._log.close()
        self._inbox.close()
        if self._timer is not None:
            self._timer.cancel()
        self._drop_body()

    def _drop_body(self) -> None:
        body, self._body = self._body, None
        if body is not None:
            body.unload()

    # -- what the body decides

    def call_made(self, call: Call) -> None:
        """Record the start of a call, unless it is recorded, and run it."""
        record = self._history.calls.get(call.id)
        if record is None or record.started is None:
            self._record(Type.TASK_STARTED, call.id, call.name, call.arguments.data, call.detail)
        self._open[call.id] = call
        if isinstance(call.target, PauseRequest):
            self._open_pause(call, call.target)
        elif self._resumed is not None:
            self._resumed.append((call, call.target))
        else:
            self._start(call, call.target)

    def call_cancelled(self, call: Call) -> None:
        """The body gave a call up: stop its attempt, and complete it when that has ended, or after the grace."""
        if call.id in self._cancelled:
            return
        self._cancelled.add(call.id)
        self._pauses.pop(call.id, None)
        if self._performer.is_running(call.id):
            self._performer.cancel(call.id)
            self._host.call_later(self._parts.cancel_grace_seconds, self._guard, self._end_cancelled, call.id)
        else:
            self._host.call_soon(self._guard, self._end_cancelled, call.id)

    def combinator_began(self, call_id: str, name: str, parent: str | None) -> None:
        """Record the start of a combinator."""
        detail = serde.encode({"parent": parent}) if parent else None
        self._record(Type.TASK_STARTED, call_id, name, serde.encode({}), detail)

    def combinator_ended(self, call_id: str, name: str, outcome: Type, data: bytes) -> None:
        """Record its end."""
        self._record(outcome, call_id, name, data, DECIDED_BY_BODY)

    # -- calls

    def _start(self, call: Call, task: TaskDefinition) -> None:
        if task.pure and not self._log.is_far_ahead():
            self._host.call_soon(self._guard, self._launch, call, task)
        else:
            self._log.when_durable(functools.partial(self._launch, call, task))

    def _open_pause(self, call: Call, request: PauseRequest) -> None:
        self._pauses[call.id] = request
        if not self._history.calls[call.id].progress:
            self._record(Type.TASK_PAUSED, call.id, "pause", serde.encode(request.label))
            self._log.pause_opened(Pause(call.id, request.label))

    def _launch(self, call: Call, task: TaskDefinition) -> None:
        """Every earlier event is on disk: the call may act."""
        is_wanted = call.id in self._open and call.id not in self._cancelled
        if is_wanted and self._is_live() and not self._performer.is_running(call.id):
            self._performer.perform(call, task, self._history.calls[call.id].progress)

    def when_durable(self, callback: Callable[[], None]) -> None:
        """Call back when everything recorded so far is on disk."""
        self._log.when_durable(callback)

    def call_progressed(self, call: Call, type_: Type, data: bytes | None, detail: bytes | None) -> None:
        """Record a step of a call's attempts."""
        if self._is_live() and call.id in self._open and call.id not in self._cancelled:
            self._record(type_, call.id, call.name, data, detail)

    def call_ended(self, call: Call, outcome: Succeeded | Failed) -> None:
        """Record the outcome of a call and deliver it, in one step."""
        if self._is_live():
            self._guard(self._end, call, outcome)

    def _end(self, call: Call, outcome: Succeeded | Failed) -> None:
        if call.id in self._cancelled:
            self._end_cancelled(call.id)  # A late result is dropped.
        elif isinstance(outcome, Succeeded):
            event = self._record(Type.TASK_COMPLETED, call.id, call.name, outcome.data)
            event.remember(outcome.value)
            self._deliver(event)
        else:
            self._deliver(self._record(Type.TASK_FAILED, call.id, call.name, outcome.data))

    def call_stopped(self, call: Call) -> None:
        """A cancelled call has cleaned up; one that the closing host loop cancelled is no fact."""
        if call.id in self._cancelled:
            self._guard(self._end_cancelled, call.id)

    def call_broke(self, error: BaseException) -> None:
        """A fault of the engine itself: show it, record nothing."""
        if self._phase is not Phase.CLOSED:
            self._fail_run(error)

    def _end_cancelled(self, call_id: str) -> None:
        call = self._open.get(call_id)
        if not self._is_live() or call is None:
            return
        self._performer.give_up(call_id)
        if isinstance(call.target, PauseRequest):
            self._log.pause_closed(call_id)
        self._deliver(self._record(Type.TASK_CANCELLED, call_id, call.name))

    def _deliver(self, event: ExecutionEvent) -> None:
        self._open.pop(event.call_id, None)
        self._pauses.pop(event.call_id, None)
        self._cancelled.discard(event.call_id)
        if self._parts.replay_each_step:
            self._reload()
        elif self._body is not None:
            self._body.deliver(event)
            self._step_ended()

    # -- timers

    def _arm_timer(self) -> None:
        timer = self._body.next_timer() if self._body else None
        if timer is self._armed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._armed = timer
        if timer is not None and self._body is not None:
            delay = (self._body.due_us(timer) - self._parts.clock.now()) / MICROSECONDS
            self._timer = self._host.call_later(max(0.0, delay), self._guard, self._timer_due)

    def _timer_due(self) -> None:
        self._timer = self._armed = None
        if self._pauses:
            self._catch_up()  # An answer that came in time wins over the timeout of its pause.
        else:
            self._fire_due_timers(until=self._parts.clock.now())
        self._step_ended()

    def _fire_due_timers(self, until: int) -> None:
        """Fire what was due by then, one event and one step each, in order of (deadline, creation)."""
        while self._is_live() and not self._is_stuck() and self._body is not None and self._body.outcome is None:
            timer = self._body.next_timer()
            if timer is None or self._body.due_us(timer) > until:
                return
            detail = serde.encode({"due_at": self._body.due_us(timer)})
            event = self._record(Type.TIMER_FIRED, timer.call_id, "timer", None, detail)
            if self._parts.replay_each_step:
                self._reload()
            else:
                self._body.deliver(event)

    # -- the inbox

    def _read_inbox(self) -> None:
        for message in self._inbox.unread():
            if self._body is None or not self._is_live():
                return  # The rest is read when the execution cannot be parked over it.
            self._receive(message)
        self._step_ended()

    def _receive(self, message: Message) -> None:
        """Move a resume from the inbox into the history, and answer its pause."""
        if not self._inbox.receive(message):
            return
        name = self._workflow.name
        self._log.message_consumed(message.id)
        self._record(Type.WORKFLOW_RESUMING, "", name, message.data)
        self._record(Type.WORKFLOW_RESUMED, "", name, message.data)
        call = self._open.get(message.call_id)
        if call is None or call.id in self._cancelled:
            return  # Its pause timed out meanwhile; that it was resumed is recorded all the same.
        value = serde.decode(message.data)
        self._record(Type.TASK_RESUMED, call.id, "pause", serde.encode({"name": message.name, "input": value}))
        self._log.pause_closed(call.id)
        self._deliver(self._record(Type.TASK_COMPLETED, call.id, "pause", message.data))

    # -- the end of a step

    def _step_ended(self) -> None:
        """Look where the body stands now that it waits again."""
        if not self._is_live() or self._body is None or self._is_stuck():
            return
        if self._body.outcome is not None:
            self._finish(self._body.outcome)
        elif len(self._open) == len(self._pauses):
            self._wait_outside()
        else:
            self._wait_inside()

    def _wait_inside(self) -> None:
        """Go on when a call ends, a timer is due, or, while a pause is open, an answer comes in."""
        self._arm_timer()
        if self._pauses:
            self._inbox.watch()

    def _is_live(self) -> bool:
        """Whether the body is driven: else nothing is decided, started or delivered."""
        return self._phase is Phase.LIVE

    def _is_stuck(self) -> bool:
        """Whether the body cannot go on; what follows from that is under way then."""
        body = self._body
        if not self._is_live() or body is None:
            return True
        if body.failure is not None:
            body.outcome, error = Raised(body.failure), body.failure
            body.failure = None
            self._finish(Raised(error))
            return True
        if body.divergence is not None:
            self._block(body.divergence)
            return True
        return False

    def _wait_outside(self) -> None:
        """Nothing runs: the body waits for a timer, for a person or program, or for ever."""
        assert self._body is not None
        timer = self._body.next_timer()
        if timer is not None:
            due_at = self._body.due_us(timer)
            if due_at - self._parts.clock.now() <= self._parts.unload_after_seconds * MICROSECONDS:
                self._wait_inside()
            else:
                self._park(Transition.SLEEP, Asleep(due_at), wake_at=due_at)
        elif self._pauses:
            self._pause()
        else:
            self._block(
                BodyError(
                    f"the body of {self._workflow.name!r} waits for something that no task, timer or pause will bring: "
                    "look for an Event or Future that nobody sets; the execution continues when the code is changed"
                )
            )

    def _pause(self) -> None:
        if self._history.events[-1].type is not Type.WORKFLOW_PAUSED:
            request = next(iter(self._pauses.values()))
            value = {"name": request.label, "output": serde.decode(request.output)}
            self._record(Type.WORKFLOW_PAUSED, "", self._workflow.name, serde.encode(value))
        self._park(Transition.PAUSE, None)

    def _park(self, transition: Transition, outcome: Asleep | None, wake_at: int | None = None) -> None:
        self._phase = Phase.SETTLING
        state = self._log.park(transition, wake_at=wake_at)
        self._log.when_durable(functools.partial(self._settle, outcome, state))

    def _finish(self, outcome: Returned | Raised) -> None:
        """Record the end, once every call that the body left behind has ended."""
        for call in list(self._open.values()):
            if call.id not in self._cancelled:
                self.call_cancelled(call)
        if self._open:
            return
        transition, type_, data = encode_outcome(outcome)
        self._record(type_, "", self._workflow.name, data)
        self._park(transition, None)

    def _block(self, error: FluxError) -> None:
        self._phase = Phase.SETTLING
        self._performer.stop()
        self._log.block(str(error), self._workflow.version)
        self._log.when_durable(functools.partial(self._settle, Blocked(error), ExecutionState.SCHEDULED))

    def _settle(self, outcome: Asleep | Blocked | None, state: ExecutionState) -> None:
        events = self._history.events
        self._close()
        if not self.done.done():
            context: ExecutionContext[Any] = ExecutionContext(self.execution_id, self._workflow.name, events, state)
            self.done.set_result(outcome or Settled(context))

    # -- what becomes of its appends

    def log_superseded(self, result: AppendResult) -> None:
        """Another owner has the execution, or its id was taken; or an event cannot be stored at all."""
        if result is AppendResult.REFUSED:
            self._fail_run(
                StoreError(
                    f"an event of execution {self.execution_id} is too large for the database: return less from the "
                    "task, for example the path of a file that it wrote"
                )
            )
        else:
            self.abandon()

    def log_got_news(self) -> None:
        """It was not parked after all: answer what is in the inbox."""
        if self._unparked is not None:
            resolve(self._unparked)  # It is being released: whoever has it next answers.
            return
        self._phase = Phase.LIVE
        self._guard(self._read_inbox)

    def log_failed(self, error: StoreError) -> None:
        """The database cannot be used: nothing more can be promised."""
        self._fail_run(error)

    def _guard(self, step: Callable[..., None], *args: Any) -> None:
        """Take a step from a callback of the host loop: what it raises ends this run, and nobody waits for ever."""
        try:
            step(*args)
        except Exception as error:  # noqa: BLE001 - a fault of the engine or of the database: shown by `run`.
            self._fail_run(error)

    def _fail_run(self, error: BaseException) -> None:
        self._performer.stop()
        self._close()
        if not self.done.done():
            # A future refuses StopIteration, and whoever awaits `run` would wait for ever.
            self.done.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)

    def _record(
        self, type_: Type, call_id: str, name: str, data: bytes | None = None, detail: bytes | None = None
    ) -> ExecutionEvent:
        event = self._log.record(type_, call_id, name, data, detail)
        self._history.append(event)
        return event
