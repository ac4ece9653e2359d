"""Workflows over HTTP: what there is, and starting one."""

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, Field

from flux.api import executions, models
from flux.api.executions import ACCEPTED, Wait
from flux.api.models import ExecutionId
from flux.api.surroundings import Here, is_settled
from flux.catalogue import PublishedWorkflow
from flux.ports import ExecutionRow
from flux.server.control import Start as CheckedStart
from flux.worker.worker import NewRun

router = APIRouter(prefix="/workflows", tags=["workflows"])


class Workflow(BaseModel):
    """A workflow that can be started."""

    name: str
    version: str
    description: str
    input_schema: dict[str, Any] | None = Field(description="JSON Schema; none: any value.")
    output_schema: dict[str, Any] | None
    labels: dict[str, str] = Field(description="What a worker must have to run it.")


class Start(models.Request):
    """A start."""

    input: Any = None
    execution_id: ExecutionId | None = Field(None, description="By which to know it; made if it is not given.")
    attributes: dict[str, str] = Field(default_factory=dict, description="To find it by.")


@router.get("")
async def list_workflows(here: Here) -> list[Workflow]:
    """List the workflows that can be started."""
    return [_shown(workflow) for workflow in await asyncio.to_thread(here.control.workflows)]


@router.get("/{name:path}")
async def get_workflow(here: Here, name: str) -> Workflow:
    """Show one of them."""
    return _shown(await asyncio.to_thread(here.control.workflow, name))


@router.post("/{name:path}/executions", **ACCEPTED)
async def start(
    here: Here,
    name: str,
    body: Start,
    response: Response,
    wait: Wait = 0,
    idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
) -> models.ExecutionDetails:
    """Start an execution; the same again, by id or by key, gives the same execution.

    With `wait` the answer is 200 when it has finished or paused by then, else 202.
    """
    options: dict[str, Any] = {
        "execution_id": body.execution_id,
        "key": idempotency_key,
        "attributes": body.attributes,
    }
    is_ready = here.worker is not None and here.control.is_ready(name)
    checked = here.control.prepare(name, body.input, **options) if is_ready else None
    if checked is not None and (run := await here.run(checked)) is not None:
        return await _running(here, checked, run, wait, response)

    def record() -> tuple[ExecutionRow, models.ExecutionDetails | None]:
        """Record it, and see what it is then if nobody waits: one visit to a thread does both."""
        control = here.control
        row, _ = control.record(checked) if checked is not None else control.start(name, body.input, **options)
        return row, None if wait else executions.details_of(here, row)

    row, details = await asyncio.to_thread(record)
    here.work()
    response.headers["Location"] = f"/api/executions/{row.execution_id}"
    if details is None:
        return await executions.settled(here, row, wait, response)
    response.status_code = 200 if is_settled(row) else 202
    return details


async def _running(
    here: Here, start: CheckedStart, run: NewRun, seconds: float, response: Response
) -> models.ExecutionDetails:
    """Answer a start that runs here: how it ends is known, and is not looked for in the database."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + seconds
    if seconds and run.is_new:
        ends: list[asyncio.Future[Any]] = [run.end, here.news.over()]
        await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finished = run.finished() if seconds else None
    row = here.control.started(start, is_new=run.is_new)
    response.headers["Location"] = f"/api/executions/{row.execution_id}"
    if finished is None:
        return await executions.settled(here, row, max(0.0, give_up_at - loop.time()), response)
    response.status_code = 200
    return models.details(row, dict(start.create.attributes), finished, [])


def _shown(workflow: PublishedWorkflow) -> Workflow:
    return Workflow(
        name=workflow.name,
        version=workflow.version,
        description=workflow.description,
        input_schema=json.loads(workflow.input_schema) if workflow.input_schema else None,
        output_schema=json.loads(workflow.output_schema) if workflow.output_schema else None,
        labels=dict(workflow.labels),
    )
