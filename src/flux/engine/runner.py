"""One execution under way on a host loop: it carries out what the body decides, and delivers what comes of it.

It drives the body in steps: something comes in (the outcome of a call, a timer, a message), is recorded, and is
delivered in the same step; the body runs until it waits again, and `look` sees what it waits for.
"""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from flux import serde
from flux.domain.definitions import WorkflowDefinition
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState, Transition
from flux.domain.execution_context import ExecutionContext
from flux.domain.history import AT_ONCE, DECIDED_BY_BODY, History
from flux.engine import at_once, outcomes
from flux.engine.body import Body, Continued, Raised, Returned
from flux.engine.calls import Call
from flux.engine.children import Children, Drive, EndBelow
from flux.engine.inbox import FOR_THE_WORKFLOW, MESSAGES_AT_ONCE, Inbox, Post
from flux.engine.journal import Journal, Log
from flux.engine.length import Length
from flux.engine.loop import BodyTimer, Drain
from flux.engine.open_calls import OpenCalls
from flux.engine.outcomes import Asleep, Blocked, Phase, RunOutcome, Settled, Superseded, encode_outcome
from flux.engine.parts import Parts
from flux.engine.threads import resolve
from flux.errors import FluxError, StoreError
from flux.ports import AppendResult, Message, MessageKind, NewExecution

MICROSECONDS = 1_000_000


class Runner:
    """Runs one claimed execution until it is settled, asleep, blocked, or somebody else's.

    Args:
        journal: Of the host loop that this runs on.
        post: Tells of messages.
        drive: Runs child executions.
        end_below: Ends those of an execution that has ended at once.
        workflow: Whose body.
        events: The stored history; empty for a new execution.
        create: The new execution, when its first commit creates it.
        input_data: Encoded input of a new execution.
    """

    def __init__(
        self,
        parts: Parts,
        journal: Journal,
        post: Post,
        drive: Drive,
        end_below: EndBelow,
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
        self._fence, self._input_data = fence, input_data
        self._history = History(events)
        self._host = asyncio.get_running_loop()
        self._log = Log(journal, self, execution_id=execution_id, fence=fence, history=self._history, create=create)
        self.done: asyncio.Future[RunOutcome] = self._host.create_future()
        self._body: Body | None = None
        self._children = Children(self, drive, end_below, lambda child, read: Inbox(parts.store, child, post, read))
        self.calls = OpenCalls(parts, journal, self._log, self, self._children)
        self._timer: asyncio.TimerHandle | None = None
        self._armed: BodyTimer | None = None  # The timer that it waits for.
        read = functools.partial(self.guard, self._read_inbox)
        self._inbox = Inbox(parts.store, execution_id, post, read, is_new=create is not None)
        self._phase, self._is_reading, self._is_ended_at_once = Phase.LIVE, False, False
        self._unparked: asyncio.Future[None] | None = None  # While a release waits for a parking.
        self._signals: list[bytes | None] = []  # Which the history before this one has left.
        self._length = Length(execution_id, parts.history_limit_events)
        self._ending: tuple[Type, bytes | None, Transition] | None = None  # Of an execution that has no body to tell.

    @property
    def current_drain(self) -> Drain | None:
        """What the body is doing at this moment, if it runs (asked by the watch, from its own thread)."""
        return None if (body := self._body) is None else body.loop.current_drain

    @property
    def line(self) -> str:
        """Where the body waits, as "file:line"; empty if it does not."""
        return self._body.line if self._body is not None else ""

    # -- its life

    def begin(self, when_durable: Callable[[], None] | None = None) -> None:
        """Start or continue it, in a plain callback of the host loop, and call back when that much is on disk."""
        self.guard(self._begin)
        if when_durable is not None and not self.done.done():
            self._log.when_durable(when_durable)

    def _begin(self) -> None:
        first = next((e for e in self._history.events[:3] if e.type is Type.WORKFLOW_STARTED), None)
        if self._history.events and self._is_cancelled_from_outside(self._inbox.unread(), is_told=first is not None):
            return
        if first is None:
            given = self._history.events[0].data if self._history.events else self._input_data
            try:
                data = outcomes.check_beginning(self._workflow, self._history.events, self._parts.secrets) or given
            except FluxError as error:
                self._record(Type.WORKFLOW_STARTED, given)
                self._end_without_body(Type.WORKFLOW_FAILED, serde.encode(error), Transition.FAIL)
                return
            self._record(Type.WORKFLOW_STARTED, data)
        elif first.detail_data is not None:
            self._children.generation = first.detail["generation"]
        self._inbox.open()
        self._load()

    def _is_ending(self) -> bool:
        """Whether the body has ended and nothing of it is left: that is its end, whatever comes at the same moment."""
        return self._body is not None and isinstance(self._body.outcome, Returned | Raised) and not self.calls

    def _is_cancelled_from_outside(self, unread: Sequence[Message], *, is_told: bool = False) -> bool:
        """End an execution that is asked to cancel and has no body to tell, or one that `is_told` and is not to be."""
        cancels = [message for message in unread if message.kind is MessageKind.CANCEL]
        is_at_once = any(message.is_at_once for message in cancels)
        if not cancels or (is_told and not is_at_once):
            return False
        if is_at_once:
            self._is_ended_at_once = True
            self._drop_body()
            self._children.spare()
            self.calls.stop()
            self._log.end_children()
        self._record(Type.WORKFLOW_CANCELLING, None, AT_ONCE if is_at_once else None)
        self._end_without_body(Type.WORKFLOW_CANCELLED, None, Transition.CANCEL)
        return True

    def _end_without_body(self, type_: Type, data: bytes | None, transition: Transition) -> None:
        """End an execution, whatever its inbox holds: nobody is there to receive it."""
        self._ending = type_, data, transition
        for message in self._inbox.unread():
            self._inbox.receive(message)
            self._log.message_consumed(message.id)
            if message.kind is MessageKind.SIGNAL:
                self._record(Type.WORKFLOW_SIGNALLED, at_once.signalled(message))
        self._record(type_, data)
        self._park(transition, None)

    def release(self) -> Coroutine[Any, Any, bool]:
        """Give the execution back unharmed: what has ended is recorded, what runs is cancelled and not recorded.

        An end or a parking that is under way is waited for instead.  From this call on nothing is recorded any more,
        also before the result is awaited: what a closing loop has cancelled as well is no fact.
        """
        self.calls.report_last()
        was_live = self._phase is Phase.LIVE
        if was_live:
            self._phase = Phase.SETTLING  # The body is not driven: nothing is decided, and nothing starts.
        return self._release(was_live=was_live)

    async def _release(self, *, was_live: bool) -> bool:
        if self._phase is Phase.SETTLING and not was_live:
            self._unparked = self._host.create_future()
            ends: list[asyncio.Future[Any]] = [self.done, self._unparked]
            await asyncio.wait(ends, timeout=self._parts.cancel_grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        if self._phase is Phase.CLOSED:
            return True
        self._phase = Phase.SETTLING  # Also if it was not parked after all.
        self._log.forget_waiters()
        self._drop_body()
        has_stopped = await self.calls.stopped(self._parts.cancel_grace_seconds)
        stored: asyncio.Future[None] = self._host.create_future()
        self._log.when_durable(functools.partial(resolve, stored))
        await asyncio.wait([stored], timeout=self._parts.cancel_grace_seconds)
        self._close()
        if has_stopped:
            return self.free()
        outcomes.warn_of_what_goes_on(self.execution_id)
        return True

    def free(self) -> bool:
        """Let others claim the execution; False if the database cannot be written now."""
        return outcomes.free(self._parts.store, self.execution_id, self._fence)

    def nudge(self) -> None:
        """Look into the inbox now."""
        self.guard(self._read_inbox)

    def abandon(self) -> None:
        """Stop at once: this process does not own the execution any more."""
        self.calls.stop()
        self._close()
        outcomes.settle(self.done, Superseded())

    def _load(self) -> None:
        started = next(e for e in self._history.events if e.type is Type.WORKFLOW_STARTED)
        context: ExecutionContext[Any] = ExecutionContext(
            self.execution_id, self._workflow.name, self._history.events, ExecutionState.RUNNING
        )
        self._body = Body(self._workflow, context, self._history, started.time_us, self)
        self.calls.defer()
        self._body.replay()
        if not self._is_stuck():
            self.catch_up()
        self.calls.start_deferred()
        self._step_ended()

    def catch_up(self) -> None:
        """Deliver what has come due and what has come in meanwhile, in order of time."""
        while self._signals and self._body is not None:
            self._deliver_quietly(self._record(Type.WORKFLOW_SIGNALLED, self._signals.pop(0)))
        messages, self._is_reading = self._inbox.unread(), True
        if messages and self.is_live() and not self._is_ending():
            self._is_cancelled_from_outside(messages, is_told=True)
        for message in messages:
            self._fire_due_timers(until=message.sent_at)
            if self.is_live():
                self._receive(message)
        self._is_reading = False
        if len(messages) < MESSAGES_AT_ONCE:  # Else something was sent before what is due now.
            self._fire_due_timers(until=self._parts.clock.now())

    def _reload(self) -> None:
        """Forget the body and all that was decoded, and replay it."""
        self._drop_body()
        self._history.forget_decoded()
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
        self.calls.made(call)

    def call_cancelled(self, call: Call) -> None:
        """The body gave a call up: stop its attempt, and complete it when that has ended, or after the grace."""
        self.calls.cancelled(call)

    def combinator_began(self, call_id: str, name: str, data: bytes, parent: str | None) -> None:
        """Record the start of a combinator."""
        detail = serde.encode({"parent": parent}) if parent else None
        self._log.record(Type.TASK_STARTED, call_id, name, data, detail)

    def combinator_ended(self, call_id: str, name: str, outcome: Type, data: bytes) -> None:
        """Record its end."""
        self._log.record(outcome, call_id, name, data, DECIDED_BY_BODY)

    # -- what its calls tell

    def deliver(self, event: ExecutionEvent) -> None:
        """Give the body something that was just recorded, and see where it stands then."""
        self._deliver_quietly(event)
        if not self._parts.replay_each_step:
            self._step_ended()

    def _deliver_quietly(self, event: ExecutionEvent) -> None:
        """Give the body one of several things at once: where it stands is seen after the last."""
        if self._parts.replay_each_step:
            self._reload()
        elif self._body is not None:
            self._body.deliver(event)

    def look(self) -> None:
        """What is waited for has changed."""
        self._step_ended()

    def is_live(self) -> bool:
        """Whether the body is driven: else nothing is decided, started or delivered."""
        return self._phase is Phase.LIVE

    def broke(self, error: BaseException) -> None:
        """A fault of the engine itself, or a child that cannot go on: show it, record nothing."""
        if self._phase is not Phase.CLOSED:
            self._fail_run(error)

    def guard(self, step: Callable[..., None], *args: Any) -> None:
        """Take a step from a callback of the host loop: what it raises ends this run, and nobody waits for ever."""
        try:
            step(*args)
        except Exception as error:  # noqa: BLE001 - a fault of the engine or of the database: shown by `run`.
            self._fail_run(error)

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
            self._timer = self._host.call_later(max(0.0, delay), self.guard, self._timer_due)

    def _timer_due(self) -> None:
        self._timer = self._armed = None
        if self.calls.first_pause() is not None or (self._body is not None and self._body.mailbox.awaited is not None):
            self.catch_up()  # An answer, or a signal, that came in time wins over the timeout of the wait for it.
        else:
            self._fire_due_timers(until=self._parts.clock.now())
        self._step_ended()

    def _fire_due_timers(self, until: int) -> None:
        """Fire what was due by then, one event and one step each, in order of (deadline, creation)."""
        while self.is_live() and not self._is_stuck() and self._body is not None and self._body.outcome is None:
            timer = self._body.next_timer()
            if timer is None or self._body.due_us(timer) > until:
                return
            detail = serde.encode({"due_at": self._body.due_us(timer)})
            self._deliver_quietly(self._log.record(Type.TIMER_FIRED, timer.call_id, "timer", None, detail))

    # -- the inbox

    def _read_inbox(self) -> None:
        if self._body is not None and self.is_live():  # Else it is read when the execution cannot be parked over it.
            self.catch_up()
            self._step_ended()

    def _receive(self, message: Message) -> None:
        """Move a message from the inbox into the history, and deliver it."""
        body = self._body
        if body is None or (isinstance(body.outcome, Continued) and message.kind in FOR_THE_WORKFLOW):
            return  # It is for the fresh history; what is for a call that was left behind is not.
        if not self._inbox.receive(message):
            return  # It was received before.
        self._log.message_consumed(message.id)
        match message.kind:
            case MessageKind.RESUME:
                self._record(Type.WORKFLOW_RESUMING, message.data)
                self._record(Type.WORKFLOW_RESUMED, message.data)
                self.calls.resumed(message)
            case MessageKind.SIGNAL:
                self.deliver(self._record(Type.WORKFLOW_SIGNALLED, at_once.signalled(message)))
            case MessageKind.CANCEL:
                if body.outcome is None and not body.is_cancelled:
                    self.deliver(self._record(Type.WORKFLOW_CANCELLING))
            case MessageKind.CHILD:
                self.calls.child_ended(message)

    # -- the end of a step

    def _step_ended(self) -> None:
        """Look where the body stands now that it waits again; of several messages, after the last."""
        if self._is_reading or self._is_stuck() or self._body is None:
            return
        if self._body.outcome is not None:
            self._finish(self._body.outcome)
        elif self.calls.all_wait_outside():
            self._wait_outside(self._body)
        else:
            self._arm_timer()

    def _is_stuck(self) -> bool:
        """Whether the body cannot go on; what follows from that is under way then."""
        body = self._body
        if self._phase is not Phase.LIVE or body is None:
            return True
        if len(self._history.events) >= self._length.noticed_from and body.outcome is None:
            body.failure = body.failure or self._length.check(len(self._history.events))
        if body.failure is not None:
            body.outcome, error = Raised(body.failure), body.failure
            body.failure = None
            self._finish(Raised(error))
            return True
        if body.divergence is not None:
            self._block(body.divergence)
            return True
        return False

    def _wait_outside(self, body: Body) -> None:
        """Nothing runs: the body waits for a timer, for somebody outside, or for ever."""
        timer, deadline = body.next_timer(), self.calls.next_deadline()
        due = [at for at in (body.due_us(timer) if timer is not None else None, deadline) if at is not None]
        if due:
            due_at = min(due)
            if due_at - self._parts.clock.now() <= self._parts.unload_after_seconds * MICROSECONDS:
                self._arm_timer()
            else:
                self._park(Transition.SLEEP, Asleep(due_at), wake_at=due_at)
        elif self.calls or body.mailbox.awaited is not None:
            self._pause(body)
        else:
            self._block(outcomes.waits_for_nothing(self._workflow.name))

    def _pause(self, body: Body) -> None:
        request, signal = self.calls.first_pause(), body.mailbox.awaited
        if self._history.events[-1].type is not Type.WORKFLOW_PAUSED:
            name = request.label if request is not None else signal
            output = serde.decode(request.output) if request is not None else None
            if name is not None:  # Else a child is paused: its own history tells for what.
                self._record(Type.WORKFLOW_PAUSED, serde.encode({"name": name, "output": output}, extra_levels=1))
        self._park(Transition.PAUSE, None)

    def _park(self, transition: Transition, outcome: Asleep | None, wake_at: int | None = None) -> None:
        self._phase = Phase.SETTLING
        state = self._log.park(transition, wake_at=wake_at)
        self._log.when_durable(functools.partial(self._settle, outcome, state))

    def _finish(self, outcome: Returned | Raised | Continued) -> None:
        """Record the end, once every call that the body left behind has ended."""
        self.calls.cancel_all()
        if self.calls or self._body is None:
            return
        if isinstance(outcome, Continued) and self._body.is_cancelled:
            outcome = Raised(asyncio.CancelledError())
        if isinstance(outcome, Continued):
            self._log.when_durable(functools.partial(self.guard, self._start_over, self._body, outcome))
            return
        transition, type_, data = encode_outcome(
            outcome, self._workflow, self.execution_id, is_cancelled=self._body.is_cancelled
        )
        self._record(type_, data)
        self._park(transition, None)

    def _start_over(self, body: Body, outcome: Continued) -> None:
        """Begin a fresh history; signals that nobody took go with it."""
        if self._body is not body or not self.is_live():
            return
        self._signals = [signal.data for signal in body.mailbox.left()]
        self._drop_body()
        self._log.restart()
        self._children.generation += 1
        self.calls.restarted()
        self._length.restart()
        self._record(Type.WORKFLOW_STARTED, outcome.input_data, serde.encode({"generation": self._children.generation}))
        self._load()

    def _block(self, error: FluxError) -> None:
        self.calls.stop()
        if self._is_cancelled_from_outside(self._inbox.unread()):
            return
        self._phase = Phase.SETTLING
        self._log.block(str(error), self._workflow.version)
        self._log.when_durable(functools.partial(self._settle, Blocked(error), ExecutionState.SCHEDULED))

    def _settle(self, outcome: Asleep | Blocked | None, state: ExecutionState) -> None:
        events = self._history.events
        self._close()
        self.calls.stop()
        context: ExecutionContext[Any] = ExecutionContext(self.execution_id, self._workflow.name, events, state)
        settled = functools.partial(outcomes.settle, self.done, outcome or Settled(context))
        if self._is_ended_at_once:
            self._children.end_all(self._parts.cancel_grace_seconds, settled)
        else:
            settled()

    # -- what becomes of its appends

    def log_superseded(self, result: AppendResult) -> None:
        """Another owner has the execution, or its id was taken; or an event cannot be stored at all."""
        if result is AppendResult.REFUSED:
            self._fail_run(outcomes.too_large(self.execution_id))
        else:
            self.abandon()

    def log_got_news(self) -> None:
        """It was not parked, and has not ended, after all: store what was read, then read on."""
        if self._unparked is not None:
            resolve(self._unparked)  # It is being released: whoever has it next answers.
            return
        if self._ending is not None:
            self.guard(self._end_without_body, *self._ending)
            return
        self._phase, self._is_reading = Phase.LIVE, True
        self.calls.revive()
        self._log.when_durable(functools.partial(self.guard, self._read_inbox))

    def log_failed(self, error: StoreError) -> None:
        """The database cannot be used: nothing more can be promised."""
        self._fail_run(error)

    def _fail_run(self, error: BaseException) -> None:
        self.calls.stop()
        self._close()
        if not self.done.done():
            # A future refuses StopIteration, and whoever awaits `run` would wait for ever.
            self.done.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)

    def _record(self, type_: Type, data: bytes | None = None, detail: bytes | None = None) -> ExecutionEvent:
        """Record a fact about the workflow itself."""
        return self._log.record(type_, "", self._workflow.name, data, detail)
