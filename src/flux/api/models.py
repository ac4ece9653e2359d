"""What the API answers with, and what it takes: the shapes of the OpenAPI document."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from flux import serde
from flux.domain.events import ExecutionEvent
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.ids import ID_PATTERN
from flux.ports import ExecutionRow

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ExecutionId = Annotated[str, Field(pattern=ID_PATTERN, description="The id of an execution.")]


class Request(BaseModel):
    """A body: what it does not know, it refuses."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """What went wrong."""

    type: str = Field(description="The kind of the error.", examples=["ExecutionConflictError"])
    message: str = Field(description="What happened, and why.")
    hint: str = Field(description="What to do about it; may be empty.")


class Execution(BaseModel):
    """An execution, without its history."""

    execution_id: str
    workflow: str
    version: str
    state: ExecutionState
    blocked_reason: str | None = Field(description="Why no worker can run it.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    wake_at: datetime | None = Field(description="When its next timer is due.")
    location: str = Field(description="The file or module of its code, where it was started.")
    parent_id: str | None
    parent_call: str | None = Field(description="The call of the parent that it is.")
    forked_from: str | None
    last_seq: int = Field(description="The number of its last event.")
    attributes: dict[str, str]


class ExecutionDetails(Execution):
    """An execution with its input, its output and what it waits for."""

    input: Any
    output: Any = Field(description="Of a completed execution its result, of a failed one its error.")
    traceback: str | None = Field(description="Of a failed execution: where its error was raised.")
    pauses: list[str] = Field(description="The names of its open pauses, the oldest first.")


class ExecutionPage(BaseModel):
    """Some executions, the newest first."""

    executions: list[Execution]
    next_cursor: str | None = Field(description="Where the next page begins; none after the last.")


class Event(BaseModel):
    """One fact of a history."""

    seq: int
    type: str
    call_id: str
    name: str
    time: datetime
    value: Any
    detail: Any


def span(microseconds: int) -> timedelta:
    """A duration of the store as one that people know."""
    return timedelta(microseconds=microseconds)


def moment(microseconds: int | None) -> datetime | None:
    """A time of the store as one that people know."""
    return None if microseconds is None else EPOCH + span(microseconds)


def execution(row: ExecutionRow, attributes: dict[str, str]) -> Execution:
    """An execution as it is shown."""
    return Execution(**_fields(row, attributes))


def details(
    row: ExecutionRow, attributes: dict[str, str], context: ExecutionContext[Any], pauses: list[str]
) -> ExecutionDetails:
    """An execution as it is shown by itself."""
    shown, traceback = context.summary(), None
    if row.state is ExecutionState.FAILED and (error := context.events[-1].data):
        traceback = serde.display_traceback(error)
    return ExecutionDetails(
        **_fields(row, attributes),
        input=shown["input"],
        output=shown["output"],
        traceback=traceback,
        pauses=pauses,
    )


def event(shown: ExecutionEvent) -> Event:
    """An event as it is shown; the classes of its values need not be loaded here."""
    return Event(
        seq=shown.seq,
        type=shown.type.value,
        call_id=shown.call_id,
        name=shown.name,
        time=EPOCH + span(shown.time_us),
        value=serde.display(shown.data) if shown.data else None,
        detail=serde.display(shown.detail_data) if shown.detail_data else None,
    )


def _fields(row: ExecutionRow, attributes: dict[str, str]) -> dict[str, Any]:
    return {
        "execution_id": row.execution_id,
        "workflow": row.workflow,
        "version": row.version,
        "state": row.state,
        "blocked_reason": row.blocked_reason,
        "created_at": moment(row.created_at),
        "started_at": moment(row.started_at),
        "finished_at": moment(row.finished_at),
        "wake_at": moment(row.wake_at),
        "location": row.location,
        "parent_id": row.parent_id,
        "parent_call": row.parent_call,
        "forked_from": row.forked_from,
        "last_seq": row.last_seq,
        "attributes": attributes,
    }
