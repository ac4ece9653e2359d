"""The composition root: the only module that names adapters.

An app is one store and the engine that works on it; there is one for each database that a process uses.
"""

import atexit
import functools
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux import serde
from flux.clock import Clock, SystemClock
from flux.domain.attributes import check_attributes, check_labels
from flux.domain.definitions import WorkflowDefinition
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.domain.redaction import Redactor
from flux.engine import hosts
from flux.engine.calls import refuse_secrets
from flux.engine.children import scheduled
from flux.engine.committer import Committer, ThreadCommitter
from flux.engine.handle import Handle
from flux.engine.launcher import MISSING, Attributes
from flux.engine.lease import Lease
from flux.engine.parts import Parts
from flux.engine.threads import Threads
from flux.errors import (
    InvalidInputError,
)
from flux.ids import check_id, new_id
from flux.ports import AppendResult, ExecutionRow, NewExecution, Store
from flux.server.messages import Messages, check_workflow, unknown
from flux.workflow import encode_input

if TYPE_CHECKING:
    from flux.catalogue import Catalogue
    from flux.observability.lines import Lines
    from flux.secret_managers import SecretManager
    from flux.server.control import Control
    from flux.server.service import Service
    from flux.settings import Settings
    from flux.worker.worker import Worker

MICROSECONDS = 1_000_000
BlockOn = Callable[[Coroutine[Any, Any, ExecutionContext[Any]]], ExecutionContext[Any]]


class App:
    """Runs workflows on one database.

    Args:
        settings: Where the database is, and how patient the engine is.
        store: Another store than the one that the settings name.
        clock: Another clock.
        committer: Another way to write.
        block_on: How `run` waits; another loop, for instance.
        parts: Further parts of the engine, in place of those made here.  All of these are for tests.
    """

    def __init__(
        self,
        settings: "Settings",
        *,
        store: Store | None = None,
        clock: Clock | None = None,
        committer: Committer | None = None,
        block_on: BlockOn = hosts.block_on,
        **parts: Any,
    ) -> None:
        from flux.engine.engine import Engine  # The larger half of Flux: whoever only imports it need not wait.
        from flux.engine.processes import Processes

        self.settings = settings
        self._block_on = block_on
        self.store = store or _open_store(settings)
        self.clock = clock or SystemClock()
        self._lease = Lease(self.store, self.clock, self._superseded, self._renewed, seconds=settings.lease_seconds)
        self.processes = Processes()
        made = {
            "store": self.store,
            "clock": self.clock,
            "lease": self._lease,
            "threads": Threads(),
            "processes": self.processes,
            "secrets": self.find_secrets,
            "cancel_grace_seconds": settings.cancel_grace_seconds,
            "unload_after_seconds": settings.unload_after_seconds,
            "history_limit_events": settings.history_limit_events,
            "guard_bodies": settings.guard_bodies,
            "replay_each_step": settings.replay_each_step,
        }
        committer = committer or ThreadCommitter(self.store, patience_seconds=settings.store_patience_seconds)
        self.engine = Engine(Parts(**{**made, **parts}), committer)
        self.background = hosts.Background()
        messages = Messages(self.store, self.clock, self._nudge)
        self.row, self.send_resume = messages.row, messages.resume
        self.send_signal, self.send_cancel = messages.signal, messages.cancel
        self._created_at, self._creating = 0, threading.Lock()
        self._lines: Lines | None = None
        if settings.keep_output:
            self.keep_output()

    # -- running

    def run(
        self, workflow: WorkflowDefinition, value: Any, execution_id: str | None, attributes: Attributes = None
    ) -> ExecutionContext[Any]:
        """See `Workflow.run`."""
        _refuse_secrets(workflow, value)
        return self._block_on(self._run(workflow, value, execution_id, attributes, inline=True))

    async def run_async(
        self, workflow: WorkflowDefinition, value: Any, execution_id: str | None, attributes: Attributes = None
    ) -> ExecutionContext[Any]:
        """See `Workflow.run_async`."""
        _refuse_secrets(workflow, value)
        return await self._run(workflow, value, execution_id, attributes, inline=False)

    def resume(
        self, workflow: WorkflowDefinition, execution_id: str, value: Any, name: str | None
    ) -> ExecutionContext[Any]:
        """See `Workflow.resume`."""
        self.send_resume(execution_id, value, workflow=workflow.name, name=name)
        return self._block_on(self.engine.run(workflow, execution_id, inline=True))

    async def resume_async(
        self, workflow: WorkflowDefinition, execution_id: str, value: Any, name: str | None
    ) -> ExecutionContext[Any]:
        """See `Workflow.resume_async`."""
        self.send_resume(execution_id, value, workflow=workflow.name, name=name)
        return await self.engine.run(workflow, execution_id)

    def run_on(self, workflow: WorkflowDefinition, execution_id: str) -> ExecutionContext[Any]:
        """Run a recorded execution until it is finished or paused; unlike `run` without an input it answers no pause.

        Raises:
            ExecutionContextNotFoundError: There is no such execution.
            ExecutionConflictError: It belongs to another workflow.
        """
        row = self.row(execution_id)
        check_workflow(row, workflow.name)
        if row.blocked_reason is not None:
            self.store.unblock(execution_id)  # Somebody asks for it: try again.
        return self._block_on(self.engine.run(workflow, execution_id, inline=True))

    def start(
        self, workflow: WorkflowDefinition, value: Any, execution_id: str | None, attributes: Attributes = None
    ) -> Handle:
        """See `Workflow.start`."""
        _refuse_secrets(workflow, value)
        checked = check_attributes(attributes or {})
        row = self.get(check_id(execution_id)) if execution_id is not None else None
        if row is None:
            if value is MISSING and execution_id is not None:
                raise unknown(execution_id)
            execution_id = execution_id or new_id()
            create, data = self._new(workflow, value, checked, worker=None)
            (result,) = self.store.append([scheduled(execution_id, create, data)])
            if result is AppendResult.EXISTS:  # Somebody else took the id a moment ago.
                self._check_same(self.row(execution_id), workflow, value)
            elif result is not AppendResult.STORED:
                raise InvalidInputError(
                    f"the input of {workflow.name!r} is too large for the database: pass a path to it"
                )
        else:
            self._check_same(row, workflow, value)
            execution_id = row.execution_id
        handle = self._handle(workflow, execution_id)
        handle.run()
        return handle

    def execution(self, workflow: WorkflowDefinition, execution_id: str) -> Handle:
        """See `Workflow.execution`."""
        check_workflow(self.row(check_id(execution_id)), workflow.name)
        return self._handle(workflow, execution_id)

    def _handle(self, workflow: WorkflowDefinition, execution_id: str) -> Handle:
        def start() -> hosts.Running:
            return self.background.spawn(self.engine.run(workflow, execution_id))

        return Handle(
            execution_id,
            start,
            send_signal=functools.partial(self.send_signal, execution_id, workflow=workflow.name),
            send_cancel=functools.partial(self.send_cancel, execution_id, workflow=workflow.name),
        )

    def signal(
        self, workflow: WorkflowDefinition, execution_id: str, name: str, value: Any, client_id: str | None
    ) -> None:
        """See `Workflow.signal`."""
        self.send_signal(execution_id, name, value, workflow=workflow.name, client_id=client_id)

    def cancel(self, workflow: WorkflowDefinition, execution_id: str, *, now: bool = False) -> ExecutionContext[Any]:
        """See `Workflow.cancel`."""
        self.send_cancel(execution_id, workflow=workflow.name, now=now)
        return self._block_on(self.engine.run(workflow, execution_id, inline=True))

    async def cancel_async(
        self, workflow: WorkflowDefinition, execution_id: str, *, now: bool = False
    ) -> ExecutionContext[Any]:
        """See `Workflow.cancel_async`."""
        self.send_cancel(execution_id, workflow=workflow.name, now=now)
        return await self.engine.run(workflow, execution_id)

    @cached_property
    def secrets(self) -> "SecretManager":
        """The secrets of this database; the first use loads the cryptography, which would slow `import flux`."""
        from flux.secret_managers import SecretManager

        return SecretManager(self.store, self.clock)

    def find_secrets(self, names: Sequence[str]) -> Mapping[str, Any]:
        """The secrets of these names.

        Raises:
            SecretNotFoundError: One is missing.
        """
        return self.secrets.find(names)

    async def run_in_process(
        self, function: Callable[..., Any], named: Mapping[str, Any], on_start: Callable[[], None] | None
    ) -> Any:
        """Call a function in a child process."""
        return await self.processes.run(function, named, on_start=on_start)

    async def _run(
        self,
        workflow: WorkflowDefinition,
        value: Any,
        execution_id: str | None,
        attributes: Attributes,
        *,
        inline: bool,
    ) -> ExecutionContext[Any]:
        checked = check_attributes(attributes or {})
        row = self.get(check_id(execution_id)) if execution_id is not None else None
        if row is None:
            if value is MISSING and execution_id is not None:
                raise unknown(execution_id)
            create, data = self._new(workflow, value, checked, worker=self._lease.acquire())
            return await self.engine.run(
                workflow, execution_id or new_id(), create=create, input_data=data, inline=inline
            )
        self._check_same(row, workflow, value)
        if row.state.is_finished:
            return self.engine.context(row)
        if row.state is ExecutionState.PAUSED:
            # A supervisor repeats itself: that must not approve anything.
            if value is not MISSING or not self.store.pauses(row.execution_id):
                return self.engine.context(row)
            self.send_resume(row.execution_id, None, workflow=workflow.name)
        if row.blocked_reason is not None:
            self.store.unblock(row.execution_id)  # Somebody asks for it: try again.
        return await self.engine.run(workflow, row.execution_id, inline=inline)

    def _new(
        self, workflow: WorkflowDefinition, value: Any, attributes: Attributes = None, *, worker: str | None
    ) -> tuple[NewExecution, bytes]:
        """A new execution, and its input, encoded; refused here if it does not fit, before anything is recorded."""
        data = encode_input(workflow, value)
        self._check_secrets(workflow, value)
        create = NewExecution(
            workflow=workflow.name,
            version=workflow.version,
            created_at=self._next_moment(),
            location=workflow.location,
            start_digest=workflow.start_digest(data),
            worker=worker,
            attributes=attributes or {},
        )
        return create, data

    def _next_moment(self) -> int:
        """The time, but no time twice: two creations under one id would be taken for one that was sent again."""
        with self._creating:
            now, last = self.clock.now(), self._created_at
            self._created_at = last + 1 if last - MICROSECONDS < now <= last else now
            return self._created_at

    # -- serving

    @property
    def catalogue(self) -> "Catalogue":
        """What a server shows and finds."""
        catalogue: Catalogue = self.store.catalogue  # type: ignore[attr-defined]  # Stores of tests may have none.
        return catalogue

    def keep_output(self) -> None:
        """Keep what tasks print and log from now on, until this is closed."""
        from flux.observability.lines import Lines

        self._lines = self._lines or Lines(self.catalogue, self.store, self.clock)
        self._lines.start()

    def control(self, workflows: Iterable[WorkflowDefinition] = ()) -> "Control":
        """The use cases of a server.

        Args:
            workflows: Those that are loaded here.
        """
        from flux.server.control import Control

        loaded = {workflow.name: workflow for workflow in workflows}
        return Control(
            self.store,
            self.catalogue,
            self.clock,
            secrets=self.find_secrets,
            nudge=self._nudge,
            workflows=loaded,
        )

    def worker(
        self,
        workflows: Iterable[WorkflowDefinition],
        *,
        labels: Attributes = None,
        concurrency: int = 100,
        grace_seconds: float = 30.0,
    ) -> "Worker":
        """A worker for those of these workflows whose labels it has."""
        from flux.server.schemas import published
        from flux.worker.worker import Worker

        served = {workflow.name: workflow for workflow in workflows}
        return Worker(
            self.engine,
            self.store,
            self.catalogue,
            self._lease,
            self.clock,
            served,
            published=tuple(map(published, served.values())),
            labels=check_labels(labels or {}),
            concurrency=concurrency,
            grace_seconds=grace_seconds,
        )

    def rescuer(self) -> "Service":
        """What gives back the executions of dead workers."""
        from flux.server.rescuer import rescuer

        return rescuer(self.store, self.clock)

    # -- what is known of executions

    def get(self, execution_id: str) -> ExecutionRow | None:
        """The row of an execution, or None."""
        return self.store.get(execution_id)

    def _check_secrets(self, workflow: WorkflowDefinition, value: Any) -> None:
        if not workflow.secret_requests:
            return
        path = Redactor(self.secrets.find(workflow.secret_requests)).find(value, path="input")
        if path is not None:
            raise InvalidInputError(
                f"the input of {workflow.name!r} holds a secret that it requests, at {path}, and would be recorded: "
                "leave it out, and let the task that needs the secret request it"
            )

    # -- its life

    def close(self) -> None:
        """Release everything; harmless when repeated."""
        self.background.close()
        self.processes.close()
        self._lease.close()
        self.engine.close()
        if self._lines is not None:
            self._lines.close()
        self.store.close()

    def _check_same(self, row: ExecutionRow, workflow: WorkflowDefinition, value: Any) -> None:
        check_workflow(row, workflow.name)
        if value is not MISSING and workflow.start_digest(encode_input(workflow, value)) != row.start_digest:
            raise InvalidInputError(
                f"execution {row.execution_id!r} was started with another input: leave the input out to continue it, "
                "or choose another id to start a new one"
            )

    def _nudge(self, execution_id: str) -> None:
        self.engine.nudge(execution_id)

    def _superseded(self) -> None:
        self.engine.abandon_all()

    def _renewed(self) -> None:
        self.engine.give_back_owed()


_apps: dict[Path, App] = {}
_apps_by_place: dict[tuple[object, ...], App] = {}  # The same: reading the settings costs more than a short run.
_abandoned: list[object] = []
_lock = threading.Lock()


def current() -> App:
    """The app of the working directory's settings, made when it is first needed."""
    from flux.settings import load, place

    here = place()
    if (app := _apps_by_place.get(here)) is not None:
        return app
    settings = load()
    key = settings.database.resolve()
    with _lock:
        app = _apps.get(key)
        if app is None:
            app = _apps[key] = App(settings)
        _apps_by_place[here] = app
        return app


def close_all() -> None:
    """Close every app of the process; the next run opens what it needs."""
    hosts.close_own_loop()
    with _lock:
        apps = list(_apps.values())
        _apps.clear()
        _apps_by_place.clear()
    for app in apps:
        app.close()


def _forget_after_fork() -> None:
    """A forked child must not touch its parent's connections, not even to close them: keep them, unused."""
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it.
    _lock = threading.Lock()
    _abandoned.extend(_apps.values())
    _apps.clear()
    _apps_by_place.clear()


def _signing_keys() -> list[bytes]:
    return current().secrets.keys.signing_keys()


atexit.register(close_all)
serde.install_keys(_signing_keys)
os.register_at_fork(after_in_child=_forget_after_fork)


def _open_store(settings: "Settings") -> Store:
    from flux.store.sqlite import SqliteStore

    return SqliteStore(settings.database, durability=settings.durability)


def _refuse_secrets(workflow: WorkflowDefinition, value: Any) -> None:
    if value is not MISSING:
        refuse_secrets(f"the workflow {workflow.name!r}", value)
