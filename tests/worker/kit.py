"""What tests of the worker share: processes in one process, each an app of its own on the same database."""

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flux.app import App
from flux.domain.execution import ExecutionState
from flux.settings import Settings
from flux.worker.worker import Worker

PATIENCE_SECONDS = 10


class Site:
    """A database, and the processes that use it."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self._settings = Settings(database=directory / "flux.db", **settings)
        self._apps: list[App] = []

    def app(self, **settings: Any) -> App:
        """Another process."""
        self._apps.append(App(dataclasses.replace(self._settings, **settings)))
        return self._apps[-1]

    def close(self) -> None:
        for app in self._apps:
            app.close()


class Team:
    """Workers that run in the background of a test, and are stopped at its end."""

    def __init__(self) -> None:
        self._tasks: list[tuple[Worker, asyncio.Task[None]]] = []

    async def __aenter__(self) -> "Team":
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker, _task in self._tasks:
            worker.stop()
        await asyncio.gather(*(task for _, task in self._tasks))

    def add(self, app: App, *workflows: Any, grace_seconds: float = 0.0, **options: Any) -> Worker:
        """Start a worker for these workflows."""
        worker = app.worker([each.definition for each in workflows], grace_seconds=grace_seconds, **options)
        self._tasks.append((worker, asyncio.ensure_future(worker.run())))
        return worker

    async def ended(self, worker: Worker) -> None:
        """Wait until a worker that was told to stop has stopped."""
        (task,) = [task for each, task in self._tasks if each is worker]
        await asyncio.wait_for(asyncio.shield(task), PATIENCE_SECONDS)


def start(app: App, workflow: Any, value: Any = None, execution_id: str | None = None) -> str:
    """Start an execution that a worker is to run."""
    row, _ = app.control([workflow.definition]).start(workflow.name, value, execution_id=execution_id)
    return row.execution_id


async def until(holds: Callable[[], Any]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.005)


async def settled(app: App, *execution_ids: str) -> list[ExecutionState]:
    """The states of these executions, when all are finished, paused or blocked."""

    def states() -> list[ExecutionState]:
        rows = [app.store.get(execution_id) for execution_id in execution_ids]
        is_settled = [row.state.is_finished or row.state is ExecutionState.PAUSED or row.blocked_reason for row in rows]
        return [row.state for row in rows] if all(is_settled) else []

    await until(states)
    return states()


def state(app: App, execution_id: str) -> str:
    return app.store.get(execution_id).state.value


@contextmanager
def recorded(events: list[tuple[str, dict[str, Any]]]) -> Iterator[None]:
    """What telemetry tells, while this lasts."""
    from flux import telemetry

    detach = telemetry.attach(lambda name, fields: events.append((name, fields)))
    try:
        yield
    finally:
        detach()
