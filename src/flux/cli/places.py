"""Where executions are: the database of this directory, or a server; this module is for commands that work on both."""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from flux import app as composition
from flux.app import App
from flux.catalogue import Line, PublishedWorkflow, Search, WorkerRow
from flux.domain.events import ExecutionEvent
from flux.domain.execution import ExecutionState
from flux.engine.launcher import MISSING
from flux.errors import StoreError
from flux.ports import ExecutionRow, Pause
from flux.settings import load


class Reads(Protocol):
    """What is shown of executions."""

    def get(self, execution_id: str) -> ExecutionRow | None: ...

    def events(self, execution_id: str) -> Sequence[ExecutionEvent]: ...

    def pauses(self, execution_id: str) -> Sequence[Pause]: ...

    def list(
        self,
        *,
        workflow: str | None = None,
        state: ExecutionState | None = None,
        parent_id: str | None = None,
        limit: int = 50,
    ) -> Sequence[ExecutionRow]: ...


class Place(Protocol):
    """What commands do with executions; everything that is sent is durable when it returns."""

    @property
    def reads(self) -> Reads: ...

    def now(self) -> int: ...

    def search(self, search: Search) -> Sequence[ExecutionRow]: ...

    def workflows(self) -> Sequence[PublishedWorkflow]: ...

    def workers(self) -> Sequence[WorkerRow]: ...

    def lines(self, execution_id: str, after: int, limit: int) -> Sequence[Line]: ...

    def resume(self, row: ExecutionRow, value: Any, name: str | None) -> None: ...

    def signal(self, row: ExecutionRow, name: str, value: Any) -> None: ...

    def cancel(self, row: ExecutionRow) -> None: ...

    def retry(self, row: ExecutionRow) -> ExecutionRow: ...

    def fork(self, row: ExecutionRow, seq: int, value: Any, new_id: str | None) -> ExecutionRow: ...


class Local:
    """The database of this directory, which this process opens."""

    def __init__(self, app: App) -> None:
        self.app, self.reads = app, app.store
        self._control = app.control()
        with suppress(StoreError):  # Nobody runs what a dead process has left as RUNNING.
            app.store.rescue(now=app.clock.now())

    def now(self) -> int:
        return self.app.clock.now()

    def search(self, search: Search) -> Sequence[ExecutionRow]:
        return self.app.catalogue.search(search)

    def workflows(self) -> Sequence[PublishedWorkflow]:
        return self._control.workflows()

    def workers(self) -> Sequence[WorkerRow]:
        return self.app.catalogue.workers()

    def lines(self, execution_id: str, after: int, limit: int) -> Sequence[Line]:
        return self.app.catalogue.lines(execution_id, after=after, limit=limit)

    def resume(self, row: ExecutionRow, value: Any, name: str | None) -> None:
        self._control.resume(row.execution_id, value, workflow=row.workflow, name=name)

    def signal(self, row: ExecutionRow, name: str, value: Any) -> None:
        self._control.signal(row.execution_id, name, value)

    def cancel(self, row: ExecutionRow) -> None:
        self._control.cancel(row.execution_id)

    def retry(self, row: ExecutionRow) -> ExecutionRow:
        return self._control.retry(row.execution_id)

    def fork(self, row: ExecutionRow, seq: int, value: Any, new_id: str | None) -> ExecutionRow:
        if value is MISSING:
            return self._control.fork(row.execution_id, seq=seq, new_execution_id=new_id)
        from flux.cli.executions import workflow_of  # It checks the input, as no worker may have published it.

        control = self.app.control([workflow_of(row, None).definition])
        return control.fork(row.execution_id, seq=seq, value=value, new_execution_id=new_id)


def opened() -> App | None:
    """The app, unless there is no database yet: looking must not make one."""
    try:
        is_there = load().database.exists()
    except OSError:
        is_there = True  # It cannot be known: opening it says why.
    return composition.current() if is_there else None


def place() -> Place | None:
    """The server that was named, or the database, unless there is none yet."""
    server = os.environ.get("FLUX_SERVER")
    if server:
        from flux.cli.remote import Remote

        return Remote(server, os.environ.get("FLUX_TOKEN"))
    app = opened()
    return None if app is None else Local(app)
