"""Executions over HTTP: find them, look at them, answer, signal, cancel, retry and fork them."""

import asyncio
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, Field, StringConstraints

from flux.api import errors, models
from flux.api.models import ExecutionId
from flux.api.surroundings import Here, is_settled
from flux.catalogue import Search
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.engine.launcher import MISSING
from flux.errors import FluxError, InvalidValueError
from flux.ports import ExecutionRow

router = APIRouter(prefix="/executions", tags=["executions"])
of_many = APIRouter(tags=["executions"])  # Not below /executions: an execution could have that id.

PAGE, EVENTS = 200, 1000
Wait = Annotated[float, Query(ge=0, le=60, description="Seconds to wait for it to finish or to pause.")]


# Answered with 200 when the execution is finished or paused by then.
ACCEPTED: dict[str, Any] = {"status_code": 202, "responses": {200: {"model": models.ExecutionDetails}}}
Attribute = Annotated[str, StringConstraints(pattern=r"^[^=]+=", max_length=600)]
Cursor = Annotated[str, StringConstraints(pattern=r"^c[0-9]{1,18}$")]


class Resume(models.Request):
    """What a pause gives."""

    input: Any = None
    name: str | None = Field(None, description="The pause that is meant; the oldest otherwise.")
    client_id: str | None = Field(None, max_length=255, description="A repeat with the same one is ignored.")


class Signal(models.Request):
    """What a wait for a signal gives."""

    name: str = Field(min_length=1, max_length=255)
    value: Any = None
    client_id: str | None = Field(None, max_length=255, description="A repeat with the same one is ignored.")


class Fork(models.Request):
    """Where a fork begins."""

    seq: int = Field(ge=1, description="The last event that it shares.")
    input: Any = Field(None, description="Another input, if it is given.")
    execution_id: ExecutionId | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which executions are meant."""

    workflow: Annotated[str | None, Query(max_length=255)] = None
    state: Annotated[ExecutionState | None, Query()] = None
    blocked: Annotated[bool | None, Query(description="Whether no worker can run them.")] = None
    id_prefix: Annotated[str, Query(max_length=255)] = ""
    parent_id: Annotated[str | None, Query(max_length=255, description="Only the children of this one.")] = None
    attribute: Annotated[
        list[Attribute] | None, Query(max_length=20, description="name=value; several must all hold.")
    ] = None
    created_from: Annotated[datetime | None, Query()] = None
    created_to: Annotated[datetime | None, Query()] = None

    def search(self) -> Search:
        """As the catalogue is asked.

        Raises:
            InvalidValueError: A time has no zone.
        """
        return Search(
            workflow=self.workflow,
            state=self.state,
            is_blocked=self.blocked,
            id_prefix=self.id_prefix,
            parent_id=self.parent_id,
            attributes=_attributes(self.attribute),
            created_from=_microseconds(self.created_from),
            created_to=_microseconds(self.created_to),
        )


@of_many.get("/counts")
async def count_executions(here: Here, found: Annotated[Filter, Depends()]) -> dict[ExecutionState, int]:
    """Count executions in each state; a `state` that is asked for makes no difference."""
    return await asyncio.to_thread(here.control.catalogue.counts, found.search())


class Bulk(models.Request):
    """What is done with several executions."""

    action: Literal["cancel", "retry"]
    execution_ids: list[ExecutionId] = Field(min_length=1, max_length=PAGE)
    now: bool = Field(default=False, description="With cancel: end them without their clean-up.")


class BulkResult(BaseModel):
    """What became of one of them."""

    execution_id: str
    result: models.Execution | None = Field(description="As it is now; of a retry, the one that goes on.")
    problem: models.Problem | None


@of_many.post("/bulk")
async def bulk(here: Here, body: Bulk) -> list[BulkResult]:
    """Cancel or retry several executions; what is refused for one changes nothing for the others."""
    cancel = functools.partial(here.control.cancel, now=body.now)
    act: Callable[[str], ExecutionRow] = cancel if body.action == "cancel" else here.control.retry
    results = [await asyncio.to_thread(_one, here, act, each) for each in dict.fromkeys(body.execution_ids)]
    here.work()
    return results


def _one(here: Here, act: Callable[[str], ExecutionRow], execution_id: str) -> BulkResult:
    try:
        row = here.control.row(act(execution_id).execution_id)
    except FluxError as error:
        return BulkResult(execution_id=execution_id, result=None, problem=errors.problem_of(error))
    attributes = here.control.catalogue.attributes([row.execution_id]).get(row.execution_id, {})
    return BulkResult(execution_id=execution_id, result=models.execution(row, attributes), problem=None)


@router.get("")
async def list_executions(
    here: Here,
    found: Annotated[Filter, Depends()],
    cursor: Annotated[Cursor | None, Query(description="The `next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = 50,
) -> models.ExecutionPage:
    """Find executions, the newest first."""
    search = dataclasses.replace(found.search(), before=_position(cursor), limit=limit + 1)
    rows = await asyncio.to_thread(here.control.catalogue.search, search)
    page = rows[:limit]
    attributes = await asyncio.to_thread(here.control.catalogue.attributes, [row.execution_id for row in page])
    return models.ExecutionPage(
        executions=[models.execution(row, attributes.get(row.execution_id, {})) for row in page],
        next_cursor=_cursor(page[-1]) if len(rows) > limit else None,
    )


@router.get("/{execution_id}")
async def get_execution(here: Here, execution_id: ExecutionId, wait: Wait = 0) -> models.ExecutionDetails:
    """Show an execution; with `wait`, when it is finished or paused."""
    return await details(here, await here.until_settled(here.control.row(execution_id), wait))


@router.get("/{execution_id}/events")
async def list_events(
    here: Here,
    execution_id: ExecutionId,
    after: Annotated[int, Query(ge=0, le=2**53)] = 0,
    limit: Annotated[int, Query(ge=1, le=EVENTS)] = EVENTS,
) -> list[models.Event]:
    """Show the history of an execution, from the event after this one on."""
    here.control.row(execution_id)
    events = await asyncio.to_thread(here.control.catalogue.events, execution_id, after=after, limit=limit)
    return [models.event(event) for event in events]


@router.post("/{execution_id}/resume", **ACCEPTED)
async def resume(
    here: Here, execution_id: ExecutionId, body: Resume, response: Response, wait: Wait = 0
) -> models.ExecutionDetails:
    """Answer a pause."""
    await asyncio.to_thread(here.control.resume, execution_id, body.input, name=body.name, client_id=body.client_id)
    here.work()
    row = here.control.row(execution_id)
    return await settled(here, row, wait, response)


@router.post("/{execution_id}/signal", status_code=202)
async def signal(here: Here, execution_id: ExecutionId, body: Signal) -> models.ExecutionDetails:
    """Send a signal; it is kept until the execution waits for one of its name."""
    await asyncio.to_thread(here.control.signal, execution_id, body.name, body.value, client_id=body.client_id)
    here.work()
    return await details(here, here.control.row(execution_id))


@router.post("/{execution_id}/cancel", **ACCEPTED)
async def cancel(
    here: Here,
    execution_id: ExecutionId,
    response: Response,
    wait: Wait = 0,
    now: Annotated[bool, Query(description="End it and its children without their clean-up.")] = False,  # noqa: FBT002
) -> models.ExecutionDetails:
    """Ask an execution to clean up and end."""
    await asyncio.to_thread(here.control.cancel, execution_id, now=now)
    here.work()
    row = here.control.row(execution_id)
    return await settled(here, row, wait, response)


@router.post("/{execution_id}/retry", status_code=201)
async def retry(here: Here, execution_id: ExecutionId, response: Response) -> models.ExecutionDetails:
    """Try again what did not succeed: a blocked execution goes on, a finished one is forked."""
    row = await asyncio.to_thread(here.control.retry, execution_id)
    here.work()
    response.headers["Location"] = f"/api/executions/{row.execution_id}"
    return await details(here, row)


@router.post("/{execution_id}/fork", status_code=201)
async def fork(here: Here, execution_id: ExecutionId, body: Fork, response: Response) -> models.ExecutionDetails:
    """Start an execution that shares the first events of this one."""
    row = await asyncio.to_thread(
        here.control.fork,
        execution_id,
        seq=body.seq,
        value=body.input if "input" in body.model_fields_set else MISSING,
        new_execution_id=body.execution_id,
    )
    here.work()
    response.headers["Location"] = f"/api/executions/{row.execution_id}"
    return await details(here, row)


async def settled(here: Here, row: ExecutionRow, seconds: float, response: Response) -> models.ExecutionDetails:
    """An execution when it is finished or paused, with 200; or as it is after so much time, with 202."""
    row = await here.until_settled(row, seconds)
    response.status_code = 200 if is_settled(row) else 202
    return await details(here, row)


async def details(here: Here, row: ExecutionRow) -> models.ExecutionDetails:
    """An execution with all that is shown of one."""
    return await asyncio.to_thread(details_of, here, row)


def details_of(here: Here, row: ExecutionRow) -> models.ExecutionDetails:
    """The same, on a thread that may wait for the database."""
    control = here.control
    attributes = control.catalogue.attributes([row.execution_id]).get(row.execution_id, {})
    ends = control.catalogue.events(row.execution_id, after=0, limit=2)
    if row.last_seq > row.first_seq + 1:
        ends += control.catalogue.events(row.execution_id, after=row.last_seq - 1, limit=1)
    context: ExecutionContext[Any] = ExecutionContext(row.execution_id, row.workflow, ends, row.state)
    has_pauses = row.last_seq > row.first_seq and not row.state.is_finished
    pauses = [pause.name for pause in control.store.pauses(row.execution_id)] if has_pauses else []
    return models.details(row, attributes, context, pauses)


def _attributes(given: list[str] | None) -> dict[str, str]:
    return {name: value for name, _, value in (each.partition("=") for each in given or [])}


def _microseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise InvalidValueError(f"{moment.isoformat()} has no time zone: add one, as in {moment.isoformat()}Z")
    return round((moment - models.EPOCH).total_seconds() * 1_000_000)


def _cursor(row: ExecutionRow) -> str:
    return f"c{row.number}"


def _position(cursor: str | None) -> int | None:
    return None if cursor is None else int(cursor[1:])
