"""Child executions: calls that are executions of their own, with their own history.

A child is created in the commit that holds the start of its call, and tells its parent of its end in the commit that
holds that end.  Whoever drives the parent drives the child, here: on the same host loop, as a run of its own.
"""

import asyncio
import contextvars
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from flux import serde
from flux.domain.definitions import WorkflowDefinition
from flux.domain.events import UNCHECKED, ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.engine import lineage
from flux.engine.calls import Call, ChildRequest
from flux.engine.inbox import Inbox
from flux.errors import ExecutionCancelledError, StoreError
from flux.ids import child_id
from flux.ports import Append, Message, NewExecution, Parent

logger = logging.getLogger("flux.engine")

EndBelow = Callable[[str], object]
Drive = Callable[[WorkflowDefinition, str], Coroutine[Any, Any, ExecutionContext[Any]]]


class ParentRun(Protocol):
    """Who is told how its children do."""

    execution_id: str

    def nudge(self) -> None:
        """Look into the inbox now: a child has finished, and its message is there."""
        ...

    def look(self) -> None:
        """See whether anything is left to wait for here: a child waits for somebody outside."""
        ...

    def broke(self, error: BaseException) -> None:
        """A child cannot go on."""
        ...

    def guard(self, step: Callable[..., None], *args: Any) -> None:
        """Take a step from a callback of the host loop."""
        ...


class Children:
    """The children of one execution, as far as this process drives them.

    Args:
        run: Runs an execution until it is finished or paused.
        end_below: Ends the children of an execution that has ended at once, or tells who runs them.
        watch: Makes an inbox that tells when an execution can be run on.
    """

    def __init__(
        self, parent: ParentRun, run: Drive, end_below: EndBelow, watch: Callable[[str, Callable[[], None]], Inbox]
    ) -> None:
        self._parent, self._run, self._end_below, self._watch = parent, run, end_below, watch
        self._host = asyncio.get_running_loop()
        self.generation = 1
        self._driven: dict[str, asyncio.Task[Any]] = {}
        self._again: set[str] = set()
        self._paused: dict[str, Inbox] = {}
        self._is_spared = False
        self._ending: asyncio.Task[None] | None = None

    def id_of(self, call_id: str) -> str:
        """The id of the execution that a call is."""
        return child_id(self._parent.execution_id, self.generation, call_id)

    def creation_of(self, call: Call, request: ChildRequest, now: int) -> Append:
        """What creates a child, in the commit that holds the start of its call."""
        workflow, data, execution_id = request.workflow, request.input_data, self.id_of(call.id)
        create = NewExecution(
            workflow=workflow.name,
            version=workflow.version,
            created_at=now,
            location=workflow.location,
            start_digest=workflow.start_digest(data),
            parent=Parent(self._parent.execution_id, call.id),
        )
        return scheduled(execution_id, create, data)

    def driven(self) -> list[str]:
        """The ids of those that are driven at this moment."""
        return [self.id_of(call_id) for call_id in self._driven]

    def drive(self, call_id: str, workflow: WorkflowDefinition) -> None:
        """Run a child, unless it runs already, until it is finished or paused."""
        if call_id in self._driven:
            self._again.add(call_id)  # It may be coming to rest at this moment.
            return
        self.forget(call_id)
        context = contextvars.copy_context()
        context.run(lineage.leave)
        task = lineage.create_task(self._host, self._run(workflow, self.id_of(call_id)), context)
        self._driven[call_id] = task
        task.add_done_callback(functools.partial(self._driven_until, call_id, workflow))

    def is_paused(self, call_id: str) -> bool:
        """Whether a child waits for somebody outside."""
        return call_id in self._paused

    def forget(self, call_id: str) -> None:
        """A child has ended, or is not paused any more."""
        watch = self._paused.pop(call_id, None)
        if watch is not None:
            watch.close()

    def outcome(self, call: Call, message: Message) -> tuple[Type, bytes]:
        """What a finished child makes of the call that it is."""
        if message.name == Type.WORKFLOW_COMPLETED:
            return Type.TASK_COMPLETED, message.data
        if message.name == Type.WORKFLOW_FAILED:
            return Type.TASK_FAILED, serde.encode_failure(serde.decode(message.data))
        error = ExecutionCancelledError(
            f"the child execution {self.id_of(call.id)} of {call.name!r} was cancelled, not by its parent: catch this "
            "error if the parent can do without its result"
        )
        return Type.TASK_FAILED, serde.encode_failure(error)

    def spare(self) -> None:
        """Let `stop` stop none until `end_all`: they are driven to the end that the parent's commit asks for."""
        self._is_spared = True

    def end_all(self, timeout_seconds: float, then: Callable[[], None]) -> None:
        """End them, now that the end of their parent, which asks for that, is durable."""
        driven = list(self._driven.values())
        try:
            self._end_below(self._parent.execution_id)
        except (StoreError, OSError) as error:  # They have it in their inboxes: whoever runs them next ends them.
            logger.warning("the children of execution %s could not be ended: %s", self._parent.execution_id, error)
        if driven:
            context = contextvars.copy_context()
            context.run(lineage.leave)
            waiting = lineage.create_task(self._host, self._rest(driven, timeout_seconds), context)
            self._ending = waiting
            waiting.add_done_callback(lambda _: then())
        else:
            then()

    async def _rest(self, driven: list[asyncio.Task[Any]], timeout_seconds: float) -> None:
        await asyncio.wait(driven, timeout=timeout_seconds)
        self._is_spared = False
        self.stop()

    def stop(self) -> None:
        """Drive none of them any more."""
        if self._is_spared:
            return
        for call_id in list(self._paused):
            self.forget(call_id)
        for task in self._driven.values():
            task.cancel()

    async def stopped(self) -> None:
        """Stop, and wait until all have been given back."""
        self.stop()
        if self._driven:
            await asyncio.wait(list(self._driven.values()))

    def _driven_until(self, call_id: str, workflow: WorkflowDefinition, task: "asyncio.Task[Any]") -> None:
        self._driven.pop(call_id, None)
        is_wanted_again = call_id in self._again
        self._again.discard(call_id)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._parent.broke(error)
        elif task.result().state is ExecutionState.PAUSED and is_wanted_again:
            self.drive(call_id, workflow)
        elif task.result().state is ExecutionState.PAUSED:
            watch = self._watch(self.id_of(call_id), functools.partial(self.drive, call_id, workflow))
            self._paused[call_id] = watch
            watch.open()
            self._parent.guard(self._parent.look)
        else:
            self._parent.nudge()


def scheduled(execution_id: str, create: NewExecution, input_data: bytes, *, is_checked: bool = True) -> Append:
    """What creates an execution that waits to be claimed.

    Args:
        is_checked: Whether its input was compared with the workflow's annotation, by who has the code.
    """
    detail, time_us = None if is_checked else UNCHECKED, create.created_at
    event = ExecutionEvent(
        execution_id, 1, Type.WORKFLOW_SCHEDULED, "", create.workflow, input_data, detail, time_us=time_us
    )
    return Append(
        execution_id=execution_id,
        fence=0,
        expected_seq=0,
        events=[event],
        create=create,
        state=ExecutionState.SCHEDULED,
    )
