"""A call: one invocation of a task, a pause or a child execution, and where it comes from."""

import asyncio
import contextvars
from asyncio import events as asyncio_events
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from flux import serde
from flux.domain.definitions import Arguments, TaskDefinition, WorkflowDefinition, is_reference
from flux.domain.events import ExecutionEvent
from flux.engine import lineage
from flux.engine.loop import BodyLoop
from flux.engine.unrecorded import run_unrecorded
from flux.errors import BodyError

if TYPE_CHECKING:
    from flux.engine.attempt import Attempt
    from flux.engine.body import Body

# The combinator (`parallel`, `pipeline`, …) within which a body makes calls: their parent in the timeline.
PARENT: contextvars.ContextVar[str | None] = contextvars.ContextVar("flux_parent", default=None)


class PauseRequest(NamedTuple):
    """The target of a pause.

    Args:
        label: The name by which a resume may choose it.
        output: Encoded; shown to whoever decides.
        timeout_seconds: Of a pause inside a task; in a body a timer of the body counts it.
    """

    label: str
    output: bytes
    timeout_seconds: float | None = None

    @property
    def name(self) -> str:
        """Of whatever pauses."""
        return "pause"

    @property
    def secret_requests(self) -> tuple[str, ...]:
        """It is given none."""
        return ()

    def name_of(self, arguments: Arguments) -> str:
        """The name of a call to it."""
        return self.name

    @property
    def timeout_text(self) -> str:
        """What is said when nobody answers in time."""
        return f"Pause {self.label} was not resumed in time ({self.timeout_seconds:g}s)."


class ChildRequest(NamedTuple):
    """The target of a call that is an execution of its own.

    Args:
        workflow: What it executes.
        input_data: Its encoded input.
    """

    workflow: WorkflowDefinition
    input_data: bytes

    @property
    def name(self) -> str:
        """Of the workflow."""
        return self.workflow.name

    @property
    def secret_requests(self) -> tuple[str, ...]:
        """Of the workflow."""
        return self.workflow.secret_requests

    def name_of(self, arguments: Arguments) -> str:
        """The name of a call to it."""
        return self.name


Target = TaskDefinition | PauseRequest | ChildRequest


@dataclass(slots=True, eq=False)
class Call:
    """One call.

    Args:
        id: In a body its number, which is the same in every replay; inside a task `Attempt` derives it.
        name: As the history shows it.
        target: What is called.
        arguments: With what.
        future: Where the caller waits for the outcome.
        parent: Call id of the combinator, or of the task, that it was made in.
        context: The context variables of the caller, for the attempts.
        attempt: Inside which it was made; None for a call of the body.
        is_cancelled: Whether the caller gave it up; then only its TASK_CANCELLED counts.
    """

    id: str
    name: str
    target: Target
    arguments: Arguments
    future: asyncio.Future[Any]
    parent: str | None
    context: contextvars.Context
    attempt: "Attempt | None" = None
    is_cancelled: bool = False

    @property
    def detail(self) -> bytes | None:
        """What is recorded with its start besides the arguments."""
        return serde.encode({"parent": self.parent}) if self.parent else None


def result_of(target: Target, event: ExecutionEvent) -> Any:
    """What the caller gets: the value, wherever it is kept; as a replay would give it."""
    value, callee = event.value_copy(), target.workflow if isinstance(target, ChildRequest) else target
    if isinstance(callee, PauseRequest) or callee.output_storage is None or not is_reference(value):
        return value  # It may have been recorded when the callee had no storage.
    return callee.output_storage.retrieve(value)


def current_body() -> "Body | None":
    """The body that runs at this moment on this thread, if one does."""
    loop = asyncio_events._get_running_loop()
    return loop.body if isinstance(loop, BodyLoop) else None


def current_attempt() -> "Attempt | None":
    """The attempt in whose task this code runs, if it does and is not in a body."""
    branch = lineage.current()
    return branch.attempt if branch is not None else None


def refuse_secrets(what: str, value: Any) -> None:
    """Raises: InvalidValueError: A task sends a value, which holds a secret that it was given."""
    attempt = current_attempt()
    if attempt is not None and attempt.redactor is not None:
        attempt.refuse_secrets(what, value, serde.encode(value))


def require_body(what: str) -> "Body":
    """The running body, or an error that says where `what` belongs.

    Raises:
        BodyError: This code does not run in a workflow body.
    """
    body = current_body()
    if body is not None:
        return body
    attempt = current_attempt()
    where = f"the task {attempt.call.name!r}" if attempt else "plain code"
    raise BodyError(f"{what} was called in {where}: it belongs in the body of a workflow, so call it there")


def refuse_in_body(what: str) -> None:
    """Raises: BodyError: This runs in a workflow body, and would act on the world from there."""
    if current_body() is not None:
        raise BodyError(f"{what} cannot be sent from the body of a workflow, which only decides: send it from a @task")


async def call(task: TaskDefinition, args: tuple[Any, ...], kwargs: dict[str, Any], instance: Any = None) -> Any:
    """Call a task from wherever this runs.  Its call id is taken here, when the coroutine first runs."""
    body = current_body()
    if body is not None:
        return await body.call(task, task.arguments(args, kwargs, instance))
    branch = lineage.current()
    if branch is not None:
        return await branch.attempt.make_call(branch, task, task.arguments(args, kwargs, instance))
    return await run_unrecorded(task, task.parameters.bind(args, kwargs), instance)
