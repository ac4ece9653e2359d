"""The replaying half of an execution: a workflow body on its loop, answered from history, then live.

A body is driven in steps.  Each step delivers one completion and drains the loop; what the body decided meanwhile is
handed to the `Decisions` port in order.  On replay the completions of the history are delivered in the order in which
they were delivered first, and what the body decides is compared with what it decided then.
"""

import asyncio
import contextvars
import functools
import heapq
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

from flux import serde
from flux.domain.definitions import Arguments, WorkflowDefinition
from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.domain.execution_context import ExecutionContext
from flux.domain.history import History
from flux.engine import divergence, lineage
from flux.engine.calls import PARENT, Call, Target, result_of
from flux.engine.lines import suspended_line
from flux.engine.loop import BodyLoop, BodyTimer, FirmFuture
from flux.engine.mailbox import Mailbox
from flux.errors import CorruptedDatabaseError, FluxError, NonDeterminismError, StoreError

MICROSECONDS = 1_000_000
NO_ARGUMENTS = serde.encode_arguments({})
_YES = serde.encode(True)
# What does not come any more when a body has failed: its calls are cancelled then, and its timers do not fire.
_GONE_ON = frozenset(
    {ExecutionEventType.TASK_COMPLETED, ExecutionEventType.TASK_FAILED, ExecutionEventType.TIMER_FIRED}
)


class Decisions(Protocol):
    """Who carries out what a body decides."""

    def call_made(self, call: Call) -> None:
        """Record the start of a call, and run it."""
        ...

    def call_cancelled(self, call: Call) -> None:
        """Stop a call, and complete it with TASK_CANCELLED."""
        ...

    def combinator_began(self, call_id: str, name: str, data: bytes, parent: str | None) -> None:
        """Record the start of a combinator."""
        ...

    def combinator_ended(self, call_id: str, name: str, outcome: ExecutionEventType, data: bytes) -> None:
        """Record its end."""
        ...


class Returned(NamedTuple):
    """The body returned a value."""

    value: Any


class Raised(NamedTuple):
    """The body raised an error, or was cancelled."""

    error: BaseException


class Continued(NamedTuple):
    """The body starts over, with a fresh history.

    Args:
        input_data: Its encoded input.
    """

    input_data: bytes


class Body:
    """One workflow body, from its first line to wherever its history leads.

    Args:
        workflow: Whose body.
        context: What the body gets as its argument; shows the history as far as it was delivered.
        history: What is known; events that are recorded later are added to it by the caller.
        started_us: When the execution started, the zero of the body's clock.
        decisions: Told what the body decides once the history is used up.
    """

    def __init__(
        self,
        workflow: WorkflowDefinition,
        context: ExecutionContext[Any],
        history: History,
        started_us: int,
        decisions: Decisions,
    ) -> None:
        self.loop = BodyLoop(context.execution_id, self)  # type: ignore[abstract]  # The rest is set below its class.
        self.loop.body = self
        self.outcome: Returned | Raised | Continued | None = None
        self.workflow = workflow
        self.mailbox = Mailbox()
        self.is_cancelled = False  # By WORKFLOW_CANCELLING.
        self._main: asyncio.Task[Any] | None = None
        self.divergence: FluxError | None = None  # Why it cannot go on with this history.
        self.failure: BaseException | None = None  # What escaped the drain: a busy wait, SystemExit.
        self._context, self._history = context, history
        self._started_us, self._decisions = started_us, decisions
        self._calls = 0
        self._waiting: dict[str, Call] = {}
        self._combinators: dict[str, str] = {}
        self._patches: dict[str, bool] = {}
        self._last_recorded = 0  # The number of the last call that history knows.
        self._timers: dict[str, BodyTimer] = {}
        self._due: list[tuple[float, int, BodyTimer]] = []
        self._replaying = False
        self._deliveries_left = 0
        self._withheld: list[Callable[[], None]] = []  # Decisions of the last replayed step, for after the replay.
        self._is_over = False

    def description(self) -> dict[str, str]:
        """What tells it from others, for logs."""
        return {"execution_id": self._context.execution_id, "workflow": self.workflow.name}

    # -- driving it

    def replay(self) -> None:
        """Run the body as far as its history leads, then hand on what it decided last.

        Afterwards `divergence` is set if the body does not fit its history.
        """
        deliveries = self._history.deliveries()
        self._replaying, self._deliveries_left = True, len(deliveries)
        self._last_recorded = max((int(id_) for id_ in self._history.calls if id_.isdecimal()), default=0)
        self._begin()
        for number, event in enumerate(deliveries):
            if self.failure is not None:
                self._check_not_gone_on(self.failure, deliveries[number:])
            if self.divergence or self.failure:
                break
            self._deliveries_left -= 1
            self.deliver(event)
        if not self.divergence and not self.failure:
            self._check_all_made()
        self._replaying = False
        if not self.divergence:  # What a body that failed has left behind is to be ended.
            withheld, self._withheld = self._withheld, []
            for decide in withheld:
                decide()

    def deliver(self, event: ExecutionEvent) -> None:
        """Give the body one completion, and let it run until it waits again."""
        self._context.show_until(event.seq)
        self.loop.advance((event.time_us - self._started_us) / MICROSECONDS)
        match event.type:
            case ExecutionEventType.TIMER_FIRED:
                self._fire(event)
            case ExecutionEventType.WORKFLOW_SIGNALLED:
                self.mailbox.put(event)
            case ExecutionEventType.WORKFLOW_CANCELLING:
                self._cancel_main()
            case _:
                self._complete(event)
        self._drain()

    def next_timer(self) -> BodyTimer | None:
        """The armed timer that is due first; of equals the one armed first."""
        while self._due and self._timers.get(self._due[0][2].call_id) is not self._due[0][2]:
            heapq.heappop(self._due)
        return self._due[0][2] if self._due else None

    def due_us(self, timer: BodyTimer) -> int:
        """When a timer is due, in microseconds since the epoch."""
        return self._started_us + round(timer.when() * MICROSECONDS)

    @property
    def line(self) -> str:
        """Where it waits, as "file:line"; empty if it has ended."""
        return next((line for task in self.loop.live_tasks if (line := suspended_line(task))), "")

    def is_waiting_for(self, call: Call) -> bool:
        """Whether the outcome of a call would still be delivered."""
        return self._waiting.get(call.id) is call

    def unload(self) -> None:
        """Drop the body: its coroutines are closed, and nothing that they ask for happens."""
        self._is_over = True
        self._timers.clear()
        self.loop.unload()
        self._main = self.loop.body = None  # What refers to itself would stay until the garbage is collected.

    def _begin(self) -> None:
        context = contextvars.copy_context()
        context.run(PARENT.set, None)
        context.run(lineage.leave)
        try:
            _ = self._context.input
        except FluxError as error:
            self._cannot_read(error)
            return
        self._main = main = self.loop.create_task(self._run(), context=context)
        main.add_done_callback(self._returned)
        self._context.show_until(self._history.events[0].seq)
        self._drain()

    async def _run(self) -> Any:
        try:
            value = self.workflow.func(self._context)
            return await value if inspect.isawaitable(value) else value
        finally:
            if not self.loop.is_unloading:
                await self.loop.shutdown_asyncgens()

    def _returned(self, main: asyncio.Task[Any]) -> None:
        """As `asyncio.run` does: what the body left running is cancelled, in order."""
        if self.outcome is None:
            try:
                self.outcome = Returned(main.result())
            except BaseException as error:  # noqa: BLE001 - whatever a body raises is its outcome.
                self.outcome = Raised(error)
        self._is_over = True
        for task in self.loop.live_tasks:
            if task is not main:
                task.cancel()

    def _drain(self) -> None:
        try:
            self.loop.drain()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit of a body fails its execution, not the process.
            self.failure = error
        self.divergence = self.divergence or self.loop.impurity

    def _check_not_gone_on(self, failure: BaseException, left: Sequence[ExecutionEvent]) -> None:
        """The body failed here the first time, too, unless something came to an end afterwards."""
        gone_on = next((event for event in left if event.type in _GONE_ON), None)
        if gone_on is not None:
            self.failure = None
            self._diverged(divergence.cannot_go_on(gone_on, failure))

    # -- what the body asks for

    def next_call_id(self) -> str:
        """The n-th call of a body is `n`: the body is deterministic."""
        self._calls += 1
        return str(self._calls)

    async def call(self, target: Target, arguments: Arguments) -> Any:
        """Make a call and wait for its outcome: the only way from a body to the world."""
        if self.loop.is_unloading:
            self.loop.refuse_while_unloading()
        if self._is_over:
            await self.loop.create_future()  # A clean-up after the body's end starts nothing any more.
        call = Call(
            self.next_call_id(),
            target.name_of(arguments),
            target,
            arguments,
            self.loop.create_future(),
            PARENT.get(),
            contextvars.copy_context(),
        )
        self._make(call)
        try:
            return await call.future
        except asyncio.CancelledError:
            if self.is_waiting_for(call):
                await self._cancel(call)
            raise

    async def start_over(self, input_data: bytes) -> NoReturn:
        """End here, and begin again with a fresh history; nothing after this runs."""
        if self.loop.is_unloading:
            self.loop.refuse_while_unloading()
        if not self._is_over:
            self.outcome, self._is_over = Continued(input_data), True
        while True:
            await self.loop.create_future()

    def combinator_begins(self, name: str, data: bytes = NO_ARGUMENTS) -> str:
        """Journal the start of a combinator; returns its call id."""
        if self.loop.is_unloading:
            self.loop.refuse_while_unloading()
        call_id, parent = self.next_call_id(), PARENT.get()
        self._combinators[call_id] = name
        record = self._history.calls.get(call_id)
        if record is None or record.started is None:
            self._decide(lambda: self._decisions.combinator_began(call_id, name, data, parent), call_id, name)
        elif record.started.name != name or record.started.data != data:
            self._diverged(divergence.other_call(record.started, name, data, self.line))
        return call_id

    def combinator_ends(self, call_id: str, outcome: ExecutionEventType, data: bytes) -> None:
        """Journal its end."""
        name = self._combinators[call_id]
        record = self._history.calls.get(call_id)
        if record is None or record.outcome is None:
            self._decide(lambda: self._decisions.combinator_ended(call_id, name, outcome, data), call_id, name)
        elif record.outcome.type is not outcome:
            self._diverged(divergence.other_end(record.outcome, outcome))

    def is_patched(self, patch: str) -> bool:
        """Whether this execution runs the code that has this patch: it does if it had it when it first came here.

        The first answer counts, also in a loop.  A yes is recorded; a no needs no record, because history goes on
        behind this place without one.
        """
        if patch not in self._patches:
            self._patches[patch] = self._is_patched(serde.encode_arguments({"id": patch}))
        return self._patches[patch]

    def _is_patched(self, data: bytes) -> bool:
        record = self._history.calls.get(str(self._calls + 1))
        started = record.started if record is not None else None
        is_recorded = started is not None and (started.name, started.data) == ("patched", data)
        goes_on = self._deliveries_left or self._calls < self._last_recorded or self._history.is_finished
        if not is_recorded and self._replaying and goes_on:
            return False
        self.combinator_ends(self.combinator_begins("patched", data), ExecutionEventType.TASK_COMPLETED, _YES)
        return True

    def timer_armed(self, timer: BodyTimer) -> None:
        """Arming a timer writes nothing: its deadline is deterministic."""
        timer.call_id = self.next_call_id()
        self._timers[timer.call_id] = timer
        heapq.heappush(self._due, (timer.when(), self._calls, timer))
        record = self._history.calls.get(timer.call_id)
        if record is not None and record.started is not None:
            self._diverged(divergence.other_call(record.started, "timer", None, self.line))

    def timer_cancelled(self, timer: BodyTimer) -> None:
        """The body needs it no more."""
        self._timers.pop(timer.call_id, None)

    # -- calls against history

    def _make(self, call: Call) -> None:
        self.loop.progressed()
        self._waiting[call.id] = call
        record = self._history.calls.get(call.id)
        if record is None and not (self._replaying or self.loop.is_unloading or self.loop.impurity):
            self._decisions.call_made(call)  # As `_decide`, in fewer steps.
        elif record is None:
            self._decide(lambda: self._decisions.call_made(call), call.id, call.name)
        elif record.started is None:
            self._diverged(divergence.not_a_timer(record.outcome, call.name))
        elif not record.is_start_of(call.name, call.arguments.data):
            self._diverged(divergence.other_call(record.started, call.name, call.arguments.data, self.line))
        elif record.outcome is None:
            self._decide_again(lambda: self._decisions.call_made(call))

    def _decide(self, decision: Callable[[], None], call_id: str, name: str) -> None:
        """Carry out a decision that is not recorded: at once when live, after the replay if it is the last step's."""
        if self.loop.is_unloading or self.loop.impurity:
            return
        if not self._replaying:
            decision()
        elif self._deliveries_left == 0:
            self._withheld.append(decision)
        else:
            self._diverged(divergence.not_recorded(call_id, name, self._history, self.line))

    def _decide_again(self, decision: Callable[[], None]) -> None:
        """Carry out a decision whose outcome is not recorded: at once when live, after the replay in its order."""
        if self._replaying:
            self._withheld.append(decision)
        elif not self.loop.impurity:
            decision()

    async def _cancel(self, call: Call) -> None:
        """Give a call up, and wait until it has ended: plain asyncio waits for a cancelled callee, too."""
        call.is_cancelled = True
        call.future = FirmFuture(loop=self.loop)
        self._decide_again(functools.partial(self._cancel_if_open, call))
        await call.future

    def _cancel_if_open(self, call: Call) -> None:
        if self.is_waiting_for(call):
            self._decisions.call_cancelled(call)

    def _complete(self, event: ExecutionEvent) -> None:
        call = self._waiting.pop(event.call_id, None)
        if call is None:
            if not event.call_id.isdecimal() or int(event.call_id) > self._calls:
                self._check_all_made(event)
            return
        future = call.future
        if future.done():
            return
        try:
            match event.type:
                case _ if call.is_cancelled:
                    future.set_result(None)
                case ExecutionEventType.TASK_COMPLETED:
                    future.set_result(result_of(call.target, event))
                case ExecutionEventType.TASK_FAILED:
                    future.set_exception(event.value_copy())
                case _:
                    future.cancel()
        except FluxError as error:
            self._cannot_read(error)

    def _cannot_read(self, error: FluxError) -> None:
        """A recorded value is of a class that is not loaded, or kept in a file that is gone: trying again is no help.

        Raises:
            StoreError: Where it is kept cannot be read at this moment.
        """
        if isinstance(error, StoreError) and not isinstance(error, CorruptedDatabaseError):
            raise error
        self.divergence = self.divergence or error

    def _cancel_main(self) -> None:
        """A cancelled body is told where it awaits, and may clean up; one that has ended is not."""
        assert self._main is not None
        self.is_cancelled = True
        if self.outcome is None:
            self._main.cancel()

    def _fire(self, event: ExecutionEvent) -> None:
        """On replay the recorded time counts, and only that a timer was armed: a library may have drawn the delay."""
        timer = self._timers.pop(event.call_id, None)
        if timer is not None:
            self.loop.advance(timer.when())
            self.loop.fire(timer)
        elif int(event.call_id) > self._calls or event.call_id in self._waiting:
            self._check_all_made(event)

    def _check_all_made(self, completion: ExecutionEvent | None = None) -> None:
        """Every recorded start must have been made, or something the code did is no longer in the code.

        Args:
            completion: Of a call that was not made; the first one that was left out is told of.
        """
        calls = self._history.calls.items()
        starts = (record.started for id_, record in calls if id_.isdecimal() and int(id_) > self._calls)
        before = completion.seq if completion is not None else math.inf
        recorded = next((event for event in starts if event is not None and event.seq < before), completion)
        if recorded is not None:
            code = getattr(inspect.unwrap(self.workflow.func), "__code__", None)  # If it has ended, it waits nowhere.
            line = self.line or (f"{code.co_filename}:{code.co_firstlineno}" if code else "")
            self._diverged(divergence.not_made(recorded, line))

    def _diverged(self, error: NonDeterminismError) -> None:
        """Kept here, not raised: the body could swallow it."""
        self.divergence = self.divergence or error
