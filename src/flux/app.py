"""The composition root: the only module that names adapters.

An app is one store and the engine that works on it; there is one for each database that a process uses.
"""

import asyncio
import atexit
import concurrent.futures
import hashlib
import os
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from flux import serde
from flux.clock import Clock, SystemClock
from flux.domain.definitions import WorkflowDefinition
from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.engine.calls import CURRENT_ATTEMPT
from flux.engine.engine import Engine
from flux.engine.journal import ThreadCommitter
from flux.engine.launcher import MISSING
from flux.engine.lease import Lease
from flux.engine.parts import Parts
from flux.engine.threads import Threads
from flux.errors import ExecutionConflictError, ExecutionContextNotFoundError, InvalidInputError
from flux.ids import check_id, new_id
from flux.ports import Append, AppendResult, ExecutionRow, NewExecution, Store
from flux.settings import Settings, load
from flux.workflow import input_annotation

CLOSE_SECONDS = 10.0  # Longer than the grace of cancelled calls.


class App:
    """Runs workflows on one database.

    Args:
        settings: Where the database is, and how patient the engine is.
        store: Another store than the one that the settings name (tests).
        clock: Another clock (tests).
    """

    def __init__(self, settings: Settings, *, store: Store | None = None, clock: Clock | None = None) -> None:
        self.settings = settings
        self.store = store or _open_store(settings)
        self.clock = clock or SystemClock()
        self._lease = Lease(self.store, self.clock, self._superseded, self._renewed, seconds=settings.lease_seconds)
        parts = Parts(
            store=self.store,
            clock=self.clock,
            lease=self._lease,
            threads=Threads(),
            cancel_grace_seconds=settings.cancel_grace_seconds,
            unload_after_seconds=settings.unload_after_seconds,
            replay_each_step=settings.replay_each_step,
        )
        committer = ThreadCommitter(self.store, patience_seconds=settings.store_patience_seconds)
        self.engine = Engine(parts, committer)
        self._background = _BackgroundLoop()
        self._started: set[asyncio.Task[Any]] = set()

    # -- running

    def run(self, workflow: WorkflowDefinition, value: Any, execution_id: str | None) -> ExecutionContext[Any]:
        """See `Workflow.run`."""
        return self._block_on(self._run(workflow, value, execution_id, inline=True))

    async def run_async(
        self, workflow: WorkflowDefinition, value: Any, execution_id: str | None
    ) -> ExecutionContext[Any]:
        """See `Workflow.run_async`."""
        return await self._run(workflow, value, execution_id, inline=False)

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
        _check_workflow(row, workflow.name)
        if row.blocked_reason is not None:
            self.store.unblock(execution_id)  # Somebody asks for it: try again.
        return self._block_on(self.engine.run(workflow, execution_id, inline=True))

    def start(self, workflow: WorkflowDefinition, value: Any, execution_id: str | None) -> "Handle":
        """See `Workflow.start`."""
        row = self.get(check_id(execution_id)) if execution_id is not None else None
        if row is None:
            if value is MISSING and execution_id is not None:
                raise _unknown(execution_id)
            execution_id = execution_id or new_id()
            create, data = self._new(workflow, value, worker=None)
            scheduled = ExecutionEvent(
                execution_id,
                1,
                ExecutionEventType.WORKFLOW_SCHEDULED,
                "",
                workflow.name,
                data,
                None,
                time_us=create.created_at,
            )
            append = Append(execution_id=execution_id, fence=0, expected_seq=0, events=[scheduled], create=create)
            (result,) = self.store.append([append])
            if result is AppendResult.EXISTS:  # Somebody else took the id a moment ago.
                self._check_same(self.row(execution_id), workflow, value)
            elif result is not AppendResult.STORED:
                raise InvalidInputError(
                    f"the input of {workflow.name!r} is too large for the database: pass a path to it"
                )
        else:
            self._check_same(row, workflow, value)
            execution_id = row.execution_id
        return Handle(execution_id, self._spawn(self.engine.run(workflow, execution_id)))

    async def _run(
        self, workflow: WorkflowDefinition, value: Any, execution_id: str | None, *, inline: bool
    ) -> ExecutionContext[Any]:
        row = self.get(check_id(execution_id)) if execution_id is not None else None
        if row is None:
            if value is MISSING and execution_id is not None:
                raise _unknown(execution_id)
            create, data = self._new(workflow, value, worker=self._lease.acquire())
            return await self.engine.run(
                workflow, execution_id or new_id(), create=create, input_data=data, inline=inline
            )
        self._check_same(row, workflow, value)
        if row.state.is_finished:
            return self.engine.context(row)
        if row.state is ExecutionState.PAUSED:
            if value is not MISSING:  # A supervisor repeats itself; that must not approve anything.
                return self.engine.context(row)
            self.send_resume(row.execution_id, None, workflow=workflow.name)
        if row.blocked_reason is not None:
            self.store.unblock(row.execution_id)  # Somebody asks for it: try again.
        return await self.engine.run(workflow, row.execution_id, inline=inline)

    def _new(self, workflow: WorkflowDefinition, value: Any, *, worker: str | None) -> tuple[NewExecution, bytes]:
        """A new execution, and its input, encoded; refused here if it does not fit, before anything is recorded."""
        data = encode_input(workflow, value)
        create = NewExecution(
            workflow=workflow.name,
            version=workflow.version,
            created_at=self.clock.now(),
            location=workflow.location,
            start_digest=_start_digest(workflow, data),
            worker=worker,
        )
        return create, data

    # -- what is known of executions

    def get(self, execution_id: str) -> ExecutionRow | None:
        """The row of an execution, or None."""
        return self.store.get(execution_id)

    def row(self, execution_id: str) -> ExecutionRow:
        """The row of an execution.

        Raises:
            ExecutionContextNotFoundError: There is none of that id.
        """
        row = self.store.get(execution_id)
        if row is None:
            raise _unknown(execution_id)
        return row

    def send_resume(
        self, execution_id: str, value: Any, *, workflow: str | None = None, name: str | None = None
    ) -> ExecutionRow:
        """Put a resume into an execution's inbox, durably; whoever runs it delivers it.

        Args:
            execution_id: Which execution.
            value: What the pause returns in the body.
            workflow: The name that the execution's workflow must have.
            name: Answer the pause of this name, not the oldest one.

        Raises:
            ExecutionContextNotFoundError: There is no such execution.
            ExecutionConflictError: It has no such open pause, or belongs to another workflow.
            UnserializableValue: The value cannot be recorded.
        """
        row = self.row(execution_id)
        if workflow is not None:
            _check_workflow(row, workflow)
        data = serde.encode(value)
        if self.store.resume(execution_id, data=data, now=self.clock.now(), name=name) is None:
            raise _not_resumable(row, name)
        return row

    # -- its life

    def close(self) -> None:
        """Release everything; harmless when repeated."""
        self._background.close()
        self._lease.close()
        self.engine.close()
        self.store.close()

    def _check_same(self, row: ExecutionRow, workflow: WorkflowDefinition, value: Any) -> None:
        _check_workflow(row, workflow.name)
        if value is not MISSING and _start_digest(workflow, encode_input(workflow, value)) != row.start_digest:
            raise InvalidInputError(
                f"execution {row.execution_id!r} was started with another input: leave the input out to continue it, "
                "or choose another id to start a new one"
            )

    def _superseded(self) -> None:
        self.engine.abandon_all()

    def _renewed(self) -> None:
        self.engine.give_back_owed()

    def _block_on(self, work: Coroutine[Any, Any, ExecutionContext[Any]]) -> ExecutionContext[Any]:
        """Run on this thread's own loop; where one runs already (a notebook), in a thread made for it."""
        if _running_loop() is None:
            try:
                return _own_runner().run(work)
            except (KeyboardInterrupt, SystemExit):
                _close_own_runner()  # What the interrupt cut short must not go on in the next run's loop.
                raise
        with concurrent.futures.ThreadPoolExecutor(1, "flux-run") as thread:
            return thread.submit(asyncio.run, work).result()

    def _spawn(self, work: Coroutine[Any, Any, ExecutionContext[Any]]) -> "Running":
        loop = _running_loop()
        if loop is None or loop is _own_loop():  # Our own loop stands still between two runs.
            return self._background.submit(work)
        # A task that starts a workflow is not part of it: the execution must not look like an inner call.
        token = CURRENT_ATTEMPT.set(None)
        try:
            task = loop.create_task(work)
        finally:
            CURRENT_ATTEMPT.reset(token)
        self._started.add(task)
        task.add_done_callback(self._started.discard)
        return task


Running = asyncio.Task[ExecutionContext[Any]] | concurrent.futures.Future[ExecutionContext[Any]]


class Handle:
    """An execution that was started and runs on its own.

    Attributes:
        execution_id: By which it is known.
    """

    def __init__(self, execution_id: str, running: Running) -> None:
        self.execution_id = execution_id
        self._running = running

    async def result(self) -> ExecutionContext[Any]:
        """Wait until it is finished or paused."""
        if isinstance(self._running, concurrent.futures.Future):
            return await asyncio.shield(asyncio.wrap_future(self._running))
        return await asyncio.shield(self._running)

    def wait(self, timeout: float | None = None) -> ExecutionContext[Any]:
        """Block this thread until it is finished or paused, at most `timeout` seconds."""
        if isinstance(self._running, concurrent.futures.Future):
            return self._running.result(timeout)
        raise ExecutionConflictError(
            "the execution runs on this thread's event loop, which wait() would block: use 'await handle.result()'"
        )


class _BackgroundLoop:
    """An event loop on a daemon thread, started when it is first needed."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def submit(
        self, work: Coroutine[Any, Any, ExecutionContext[Any]]
    ) -> concurrent.futures.Future[ExecutionContext[Any]]:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="flux-loop", daemon=True)
                self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _OwnRunner:
    """One reused `asyncio.Runner` of a thread: making a loop for each run would cost more than a short run."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self._process = os.getpid()

    def close(self) -> None:
        """Close the loop, unless a task in it goes on although it is cancelled: nobody can wait for that."""
        loop = self.runner.get_loop()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = loop.run_until_complete(asyncio.wait(tasks, timeout=CLOSE_SECONDS))
            if pending:
                _abandoned.append(self)
                return
        self.runner.close()

    def __del__(self) -> None:
        if os.getpid() == self._process:  # A forked child shares its parent's selector.
            self.runner.close()


_threads_own = threading.local()
_apps: dict[Path, App] = {}
_abandoned: list[object] = []
_lock = threading.Lock()


def _own_runner() -> asyncio.Runner:
    if not hasattr(_threads_own, "holder"):
        _threads_own.holder = _OwnRunner()
    holder: _OwnRunner = _threads_own.holder
    return holder.runner


def _close_own_runner() -> None:
    holder: _OwnRunner | None = _threads_own.__dict__.pop("holder", None)
    if holder is not None:
        holder.close()


def _own_loop() -> asyncio.AbstractEventLoop | None:
    holder: _OwnRunner | None = _threads_own.__dict__.get("holder")
    return holder.runner.get_loop() if holder is not None else None


def current() -> App:
    """The app of the working directory's settings, made when it is first needed."""
    settings = load()
    key = settings.database.resolve()
    with _lock:
        app = _apps.get(key)
        if app is None:
            app = _apps[key] = App(settings)
        return app


def close_all() -> None:
    """Close every app of the process; the next run opens what it needs."""
    _close_own_runner()
    with _lock:
        apps = list(_apps.values())
        _apps.clear()
    for app in apps:
        app.close()


def _forget_after_fork() -> None:
    """A forked child must not touch its parent's connections, not even to close them: keep them, unused."""
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it.
    _lock = threading.Lock()
    _abandoned.extend([*_apps.values(), _threads_own.__dict__.pop("holder", None)])
    _apps.clear()


atexit.register(close_all)
os.register_at_fork(after_in_child=_forget_after_fork)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _open_store(settings: Settings) -> Store:
    from flux.store.sqlite import SqliteStore

    return SqliteStore(settings.database)


def encode_input(workflow: WorkflowDefinition, value: Any) -> bytes:
    """Check an input against the workflow's annotation and encode it.  No input is None, and checks nothing.

    Raises:
        InvalidInputError: It does not fit.
        UnserializableValue: It cannot be recorded.
    """
    if value is MISSING or value is None:
        return serde.encode(None)
    try:
        return serde.encode(serde.validate(input_annotation(workflow), value))
    except InvalidInputError as error:
        raise InvalidInputError(
            f"the input does not fit the workflow {workflow.name!r}: {error}; give it what its ExecutionContext[…] says"
        ) from None


def _start_digest(workflow: WorkflowDefinition, data: bytes) -> bytes:
    return hashlib.blake2b(workflow.name.encode() + b"\0" + data, digest_size=16).digest()


def _unknown(execution_id: str) -> ExecutionContextNotFoundError:
    return ExecutionContextNotFoundError(
        f"there is no execution {execution_id!r} in this database: 'flux executions list' shows those that there are"
    )


def _check_workflow(row: ExecutionRow, name: str) -> None:
    if row.workflow != name:
        raise ExecutionConflictError(
            f"execution {row.execution_id!r} belongs to the workflow {row.workflow!r}, not to {name!r}: "
            f"continue it through {row.workflow!r}"
        )


def _not_resumable(row: ExecutionRow, name: str | None) -> ExecutionConflictError:
    if row.state.is_finished:
        return ExecutionConflictError(
            f"execution {row.execution_id!r} is {row.state} and waits for nothing: start a new one instead"
        )
    which = f"no open pause named {name!r}" if name else "no open pause"
    return ExecutionConflictError(
        f"execution {row.execution_id!r} is {row.state} and has {which} that is not answered yet: "
        f"'flux executions show {row.execution_id}' tells what it waits for"
    )
