"""The application of a worker that serves no API: its metrics, and whether it lives, behind the same guard."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from flux.api import errors, health, metrics
from flux.api.guard import Access, Guard
from flux.observability.metrics import Metrics


def create_metrics_application(measured: Metrics, *, access: Access) -> FastAPI:
    """`/metrics` and `/healthz` as an ASGI application.

    Args:
        measured: The metrics, which begin to count with it.
        access: Who may read them.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        measured.start()
        yield
        await measured.stop()

    app = FastAPI(title="Flux worker", lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.metrics = measured
    app.add_api_route("/healthz", health.healthz)
    app.include_router(metrics.router)
    errors.install(app)
    app.add_middleware(Guard, access=access)
    return app
