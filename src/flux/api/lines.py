"""What tasks printed and logged, over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from flux.api import models
from flux.api.models import ExecutionId
from flux.api.streams import COMMENT_SECONDS, HEADERS, LastId, message
from flux.api.surroundings import Here
from flux.catalogue import Line as StoredLine
from flux.observability import lines
from flux.server.news import wait

router = APIRouter(prefix="/executions", tags=["lines"])

PAGE = 1000
LATE_SECONDS = 0.25  # Between two looks for lines that may still come after the end.
After = Annotated[int, Query(ge=0, le=2**53, description="Only lines after the one of this id.")]


class Line(BaseModel):
    """A line that a task printed, or logged."""

    id: int = Field(description="In the order of all lines.")
    call_id: str
    task: str
    stream: str = Field(description="`stdout`, `stderr`, or the level of a record.")
    text: str = Field(description="As it was written: a terminal may obey what is in it.")
    time: datetime


@router.get("/{execution_id}/lines")
async def list_lines(
    here: Here, execution_id: ExecutionId, after: After = 0, limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE
) -> list[Line]:
    """Show what the tasks of an execution printed and logged: of many lines, the last 10,000 are kept."""
    here.control.row(execution_id)
    found = await asyncio.to_thread(here.control.catalogue.lines, execution_id, after=after, limit=limit)
    return [_line(line) for line in found]


@router.get("/{execution_id}/lines/stream", response_class=StreamingResponse)
async def stream_lines(
    here: Here, execution_id: ExecutionId, after: After = 0, last_event_id: LastId = None
) -> StreamingResponse:
    """Follow what the tasks of an execution print and log to its end: a `line` each, then `end`."""
    here.control.row(execution_id)
    begin = after if last_event_id is None else last_event_id
    return StreamingResponse(_lines(here, execution_id, begin), media_type="text/event-stream", headers=HEADERS)


async def _lines(here: Here, execution_id: str, after: int) -> AsyncIterator[str]:
    control = here.control
    with here.news.about(execution_id) as changed:
        while not here.news.is_over:
            row = await asyncio.to_thread(control.store.get, execution_id)
            is_last = row is None or lines.are_complete(row, control.clock.now())  # Asked before the look.
            found = await asyncio.to_thread(control.catalogue.lines, execution_id, after=after, limit=PAGE)
            for line in found:
                after = line.id
                yield message("line", after, _line(line))
            if len(found) == PAGE:
                continue
            if row is None or is_last:
                yield "event: end\ndata: {}\n\n"
                return
            is_over = row.state.is_finished
            if not await wait(changed, LATE_SECONDS if is_over else COMMENT_SECONDS) and not is_over:
                yield ":\n\n"


def _line(line: StoredLine) -> Line:
    time = models.EPOCH + models.span(line.time_us)
    return Line(id=line.id, call_id=line.call_id, task=line.task, stream=line.stream, text=line.text, time=time)
