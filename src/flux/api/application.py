"""The application: every route, behind one guard."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from flux import __version__
from flux.api import errors, executions, health, lines, metrics, secrets, streams, tokens, workers, workflows
from flux.api.guard import Access, Guard
from flux.api.models import Problem
from flux.api.surroundings import Surroundings
from flux.observability.metrics import Metrics
from flux.secret_managers import SecretManager
from flux.server.control import Control
from flux.server.news import News
from flux.worker.worker import Worker

ROUTERS = (
    workflows.router,
    executions.router,
    executions.of_many,
    streams.router,
    lines.router,
    workers.router,
    tokens.router,
    secrets.router,
)
_PROBLEMS = {status: {"model": Problem} for status in (400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 503)}


def create_application(
    control: Control,
    *,
    access: Access,
    worker: Worker | None = None,
    keeper: Callable[[], SecretManager] | None = None,
) -> FastAPI:
    """The API as an ASGI application, which can be mounted into another one.

    Args:
        control: The use cases.
        access: Who may do what.
        worker: On the loop that serves it, if there is one.
        keeper: What keeps secrets; asked for when one is needed.
    """
    news, measured = News(control.store), Metrics(control.catalogue, control.clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        measured.start()
        yield
        await news.stop()
        await measured.stop()

    app = FastAPI(
        title="Flux",
        version=__version__,
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        docs_url=None,  # They load scripts from elsewhere.
        redoc_url=None,
        redirect_slashes=False,  # A path has one spelling.
        separate_input_output_schemas=False,
    )
    app.state.surroundings = Surroundings(control, news, worker, keeper)
    app.state.metrics = measured
    api = APIRouter(prefix="/api", responses=_PROBLEMS)  # type: ignore[arg-type]
    for router in ROUTERS:
        api.include_router(router)
    app.include_router(api)
    app.include_router(health.router)
    app.include_router(metrics.router)
    errors.install(app)
    app.add_middleware(Guard, access=access)  # The last that is added is the first that is asked.
    return app
