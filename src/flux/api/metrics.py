"""Metrics, for Prometheus."""

import asyncio

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse

from flux.observability.metrics import Metrics

router = APIRouter(tags=["metrics"])


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Give the metrics of this process and of the database, in the format of Prometheus."""
    found: Metrics = request.app.state.metrics
    page, kind = await asyncio.to_thread(found.render, request.headers.get("accept", ""))
    return Response(page, headers={"Content-Type": kind})
