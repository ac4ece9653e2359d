"""Server-sent events: one execution's events, and the changes of all executions.

Each has an `id:`, by which a client that reconnects misses nothing.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from flux.api import models
from flux.api.models import ExecutionId
from flux.api.surroundings import Here
from flux.server.news import wait

router = APIRouter(tags=["streams"])

AT_ONCE = 200
COMMENT_SECONDS = 15.0  # So that what is between does not take the connection for dead.
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
LastId = Annotated[int | None, Header(alias="Last-Event-ID", ge=0, le=2**53)]
After = Annotated[int, Query(ge=0, le=2**53, description="Begin after this one; `Last-Event-ID` wins.")]


@router.get("/executions/{execution_id}/stream", response_class=StreamingResponse)
async def stream_execution(
    here: Here, execution_id: ExecutionId, after: After = 0, last_event_id: LastId = None
) -> StreamingResponse:
    """Follow the history of an execution to its end: an `event` each, then `end`."""
    here.control.row(execution_id)
    begin = after if last_event_id is None else last_event_id
    return StreamingResponse(_events(here, execution_id, begin), media_type="text/event-stream", headers=HEADERS)


@router.get("/stream", response_class=StreamingResponse)
async def stream_changes(here: Here, after: After | None = None, last_event_id: LastId = None) -> StreamingResponse:
    """Follow all executions: an `execution` whenever one is created, or comes into another state."""
    begin = after if last_event_id is None else last_event_id
    if begin is None:
        begin = await asyncio.to_thread(here.control.catalogue.last_change)
    return StreamingResponse(_changes(here, begin), media_type="text/event-stream", headers=HEADERS)


async def _events(here: Here, execution_id: str, after: int) -> AsyncIterator[str]:
    store, catalogue = here.control.store, here.control.catalogue
    with here.news.about(execution_id) as changed:
        while not here.news.is_over:
            row = await asyncio.to_thread(store.get, execution_id)
            events = await asyncio.to_thread(catalogue.events, execution_id, after=after, limit=AT_ONCE)
            for event in events:
                after = event.seq
                yield message("event", after, models.event(event))
            if row is None or (row.state.is_finished and after >= row.last_seq):
                yield "event: end\ndata: {}\n\n"
                return
            if len(events) < AT_ONCE and not await wait(changed, COMMENT_SECONDS):
                yield ":\n\n"


async def _changes(here: Here, after: int) -> AsyncIterator[str]:
    catalogue = here.control.catalogue
    with here.news.about() as changed:
        while not here.news.is_over:
            changes = await asyncio.to_thread(catalogue.changes, after=after, limit=AT_ONCE)
            attributes = await asyncio.to_thread(catalogue.attributes, [each.row.execution_id for each in changes])
            for change in changes:
                after = change.id
                shown = models.execution(change.row, attributes.get(change.row.execution_id, {}))
                yield message("execution", after, shown)
            if len(changes) < AT_ONCE and not await wait(changed, COMMENT_SECONDS):
                yield ":\n\n"


def message(kind: str, id_: int, data: BaseModel) -> str:
    """An event as it is sent."""
    return f"id: {id_}\nevent: {kind}\ndata: {data.model_dump_json()}\n\n"
