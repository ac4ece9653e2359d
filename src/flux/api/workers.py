"""Workers over HTTP."""

import asyncio
from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from flux.api import models
from flux.api.surroundings import Here

router = APIRouter(prefix="/workers", tags=["workers"])


class Worker(BaseModel):
    """A process that runs executions."""

    worker: str
    process: str = Field(description="host:pid; empty if it serves nothing, but runs what it starts itself.")
    started_at: datetime | None
    lease_expires_at: datetime
    workflows: list[str]
    labels: dict[str, str] = Field(description="What it has, and workflows may ask for.")
    running: int = Field(description="How many executions it owns.")


@router.get("")
async def list_workers(here: Here) -> list[Worker]:
    """List the workers that are registered, the oldest first."""
    return [
        Worker(
            worker=row.worker,
            process=row.process,
            started_at=models.moment(row.started_at),
            lease_expires_at=models.EPOCH + models.span(row.lease_expires_at),
            workflows=list(row.workflows),
            labels=dict(row.labels),
            running=row.running,
        )
        for row in await asyncio.to_thread(here.control.catalogue.workers)
    ]
