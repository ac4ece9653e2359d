"""A call: one invocation of a task, a pause or a combinator, and where it comes from."""

import asyncio
import contextvars
from asyncio import events as asyncio_events
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flux import serde
from flux.domain.definitions import Arguments, TaskDefinition
from flux.engine.attempts import run_unrecorded
from flux.engine.loop import BodyLoop
from flux.errors import BodyError

if TYPE_CHECKING:
    from flux.engine.body import Body

# The task call in whose attempt this code runs, on the host loop or a thread of ours.
CURRENT_ATTEMPT: contextvars.ContextVar["Call | None"] = contextvars.ContextVar("flux_attempt", default=None)
# The combinator (`parallel`, `pipeline`, …) within which a body makes calls: their parent in the timeline.
PARENT: contextvars.ContextVar[str | None] = contextvars.ContextVar("flux_parent", default=None)


@dataclass(frozen=True, slots=True)
class PauseRequest:
    """The target of a pause.

    Args:
        label: The name by which a resume may choose it.
        output: Encoded; shown to whoever decides.
    """

    label: str
    output: bytes

    def name_of(self, arguments: Arguments) -> str:
        """The name of a call to it."""
        return "pause"


@dataclass(slots=True, eq=False)
class Call:
    """One call of a body.

    Args:
        id: Its number in the body, which is the same in every replay.
        name: As the history shows it.
        target: What is called.
        arguments: With what.
        future: Where the body waits for the outcome.
        parent: Call id of the combinator that it was made in.
        context: The context variables of the caller, for the attempts.
        is_cancelled: Whether the body gave it up; then only its TASK_CANCELLED counts.
    """

    id: str
    name: str
    target: TaskDefinition | PauseRequest
    arguments: Arguments
    future: asyncio.Future[Any]
    parent: str | None
    context: contextvars.Context
    is_cancelled: bool = False

    @property
    def detail(self) -> bytes | None:
        """What is recorded with its start besides the arguments."""
        return serde.encode({"parent": self.parent}) if self.parent else None


def current_body() -> "Body | None":
    """The body that runs at this moment on this thread, if one does."""
    loop = asyncio_events._get_running_loop()
    return loop.body if isinstance(loop, BodyLoop) else None


def require_body(what: str) -> "Body":
    """The running body, or an error that says where `what` belongs.

    Raises:
        BodyError: This code does not run in a workflow body.
    """
    body = current_body()
    if body is not None:
        return body
    attempt = CURRENT_ATTEMPT.get()
    where = f"the task {attempt.name!r}" if attempt else "plain code"
    raise BodyError(f"{what} was called in {where}: it belongs in the body of a workflow, so call it there")


async def call(task: TaskDefinition, args: tuple[Any, ...], kwargs: dict[str, Any], instance: Any = None) -> Any:
    """Call a task from wherever this runs.  Its call id is taken here, when the coroutine first runs.

    Raises:
        BodyError: It runs inside another task.
    """
    body = current_body()
    if body is not None:
        return await body.call(task, task.arguments(args, kwargs, instance))
    attempt = CURRENT_ATTEMPT.get()
    if attempt is not None:
        raise BodyError(
            f"the task {task.name!r} was called inside the task {attempt.name!r}: call it in the body of the "
            f"workflow, or call its function with {task.name}.func(...), which records nothing"
        )
    return await run_unrecorded(task, task.parameters.bind(args, kwargs), instance)
