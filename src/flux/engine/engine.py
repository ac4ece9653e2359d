"""The engine of a process: claims executions, runs them on a host loop, and waits for those that others hold."""

import asyncio
import contextlib
import functools
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from flux.domain.definitions import WorkflowDefinition
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.engine import at_once, guard, patches
from flux.engine.committer import Committer
from flux.engine.inbox import Post
from flux.engine.journal import Journal
from flux.engine.loop import Drain
from flux.engine.outcomes import Asleep, Blocked, RunOutcome, Settled, Superseded
from flux.engine.parts import Parts
from flux.engine.runner import Runner
from flux.engine.watch import Watch
from flux.errors import ExecutionConflictError, ExecutionContextNotFoundError, InvalidInputError, StoreError
from flux.ports import Claim, ExecutionRow, NewExecution

MICROSECONDS = 1_000_000
NEWS_SECONDS = 0.05
RESCUE_SECONDS = 0.5
PATIENCE_SECONDS = 1.0  # For which a worker keeps what has failed: it would claim it again at once, and fail again.
EVERY = 1_000_000

MayRun = Callable[[WorkflowDefinition], bool]


@dataclass(frozen=True, slots=True)
class _Host:
    """What the runners of one host loop share."""

    journal: Journal
    post: Post


class Engine:
    """Runs executions of one store.

    Args:
        parts: What all runners share.
        committer: Writes for all of them.
    """

    def __init__(self, parts: Parts, committer: Committer) -> None:
        self._parts, self._committer = parts, committer
        if parts.guard_bodies:
            guard.install()
        self._hosts: dict[asyncio.AbstractEventLoop, _Host] = {}
        self._runners: dict[str, list[Runner]] = {}  # In order, as a set of them is not.
        self._owed: list[Runner] = []  # Whose executions could not be given back.
        self._doubtful: dict[str, None] = {}  # Which may be ours: the answer to their claim was an error.
        self._are_claims_in_doubt = self._is_claiming = False
        self._expected: set[str] = set()  # Which were claimed, and have no runner yet.
        self._lock, self._hosts_lock = threading.Lock(), threading.Lock()
        self._watch = Watch(self._drains)

    async def run(
        self,
        workflow: WorkflowDefinition,
        execution_id: str,
        *,
        create: NewExecution | None = None,
        input_data: bytes | None = None,
        inline: bool = False,
        may_run: MayRun | None = None,
    ) -> ExecutionContext[Any]:
        """Drive an execution until it is finished or paused, whoever runs it meanwhile.

        Args:
            create: The execution, if this call is to create it; another one of that id is then continued, provided
                that it was started with the same request.
            input_data: Its encoded input.
            inline: Whether this loop may be blocked by a commit when nothing else can run on it.
            may_run: Whether this process may run executions of a workflow; where it may not, others must.

        Raises:
            ExecutionContextNotFoundError: There is no such execution, and none was to be created.
            InvalidInputError: It exists and was started otherwise.
            NonDeterminismError: The code does not fit its history.
            StoreError: The database cannot be used.
        """
        runner: Runner | None = None
        seen = 0
        if create is not None:
            runner = self._create(workflow, execution_id, create, input_data, inline=inline)
        while True:
            if runner is None:
                seen = self._news()
                if may_run is None or may_run(workflow):
                    runner = self._claim(workflow, execution_id, inline=inline, may_run=may_run)
            if runner is None:
                row = self._row(execution_id, create)
                if row.state.is_finished or row.state is ExecutionState.PAUSED:
                    return self.context(row)
                await self._wait_for_turn(row, workflow, seen)
                continue
            outcome, runner = await self._drive(runner), None
            match outcome:
                case Settled(context):
                    return context
                case Blocked(error):
                    raise error
                case Asleep() | Superseded():
                    continue

    def claim_ready(self, workflows: Mapping[str, WorkflowDefinition], *, limit: int) -> list[Claim]:
        """Claim executions that are due, of these workflows by name; `take_over` them then (safe from any thread).

        Args:
            limit: At most so many.

        Raises:
            StoreError: The database cannot be used.
        """
        parts, versions = self._parts, {name: workflow.version for name, workflow in workflows.items()}
        worker = parts.lease.acquire()
        with self._lock:
            self._give_back_doubtful(worker)
            self._are_claims_in_doubt = self._is_claiming = True  # Until there is an answer.
        claims: list[Claim] = []
        try:
            claims = parts.store.claim_ready(worker=worker, workflows=versions, now=parts.clock.now(), limit=limit)
            self._are_claims_in_doubt = False
        finally:
            with self._lock:
                self._expected |= {claim.row.execution_id for claim in claims}
                self._is_claiming = False
        return claims

    def take_over(
        self,
        claims: Iterable[Claim],
        workflows: Mapping[str, WorkflowDefinition],
        may_run: MayRun | None = None,
    ) -> dict[str, Coroutine[Any, Any, RunOutcome]]:
        """What drives each of these executions on this loop, by their ids; of their children, those that it may run."""
        driven = {}
        with self._lock:
            for claim in claims:
                row = claim.row
                runner = self._runner(
                    workflows[row.workflow],
                    row.execution_id,
                    inline=False,
                    may_run=may_run,
                    fence=row.fence,
                    events=claim.events,
                )
                self._runners.setdefault(row.execution_id, []).append(runner)
                self._expected.discard(row.execution_id)
                driven[row.execution_id] = self._drive(runner, keep_seconds=PATIENCE_SECONDS)
        return driven

    def run_new(
        self,
        workflow: WorkflowDefinition,
        execution_id: str,
        create: NewExecution,
        input_data: bytes,
        may_run: MayRun | None = None,
    ) -> tuple[asyncio.Future[bool], Coroutine[Any, Any, RunOutcome]]:
        """Create an execution and drive it from its birth, on this loop, as `run` does.

        Args:
            create: The execution, for nobody.

        Returns:
            Whether it is stored, or its id was taken, once that is known; and what drives it: of its children, those
            that it may run.
        """
        ours = replace(create, worker=self._parts.lease.acquire())
        runner = self._create(workflow, execution_id, ours, input_data, inline=False, may_run=may_run)
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        runner.done.add_done_callback(functools.partial(_tell_end, stored))
        return stored, self._drive(runner, stored, keep_seconds=PATIENCE_SECONDS)

    def _give_back_doubtful(self, worker: str) -> None:
        """Free what was claimed, perhaps, by a call that got no answer; the lock is held."""
        store, ours = self._parts.store, self._runners.keys() | self._expected
        if self._are_claims_in_doubt:
            for row in store.list(state=ExecutionState.RUNNING, limit=EVERY):
                if row.worker == worker and row.execution_id not in ours:
                    store.release(row.execution_id, fence=row.fence)

    def is_acting(self, execution_id: str) -> bool:
        """Whether a task of this execution, or of a child of it, is in user code here."""
        family = [execution_id]
        for each in family:
            for runner in tuple(self._runners.get(each, ())):
                is_acting, children = runner.calls.acting()
                if is_acting:
                    return True
                family += children
        return False

    def context(self, row: ExecutionRow) -> ExecutionContext[Any]:
        """An execution as it is stored."""
        events = self._parts.store.events(row.execution_id)
        return ExecutionContext(row.execution_id, row.workflow, events, row.state)

    def line_of(self, execution_id: str) -> str:
        """Where the body of an execution that runs here waits, as "file:line"; empty if none does."""
        lines = (runner.line for runner in tuple(self._runners.get(execution_id, ())))
        return next(filter(None, lines), "")

    def abandon_all(self) -> None:
        """The process was taken for dead: its runners stop, each on its own loop (safe from any thread)."""
        with self._lock:
            runners = [runner for several in self._runners.values() for runner in several]
        for runner in runners:
            with contextlib.suppress(RuntimeError):  # Its loop is closed, and it does nothing any more.
                runner.done.get_loop().call_soon_threadsafe(runner.abandon)

    def nudge(self, execution_id: str) -> None:
        """Something was sent to an execution: if it runs here, it need not find that out (safe from any thread)."""
        with self._lock:
            runners = list(self._runners.get(execution_id, ()))
        for runner in runners:
            with contextlib.suppress(RuntimeError):  # Its loop is closed.
                runner.done.get_loop().call_soon_threadsafe(runner.nudge)

    def _news(self) -> int:
        """News of the store; nothing that is known, if it cannot say at this moment."""
        try:
            return self._parts.store.news()
        except StoreError:
            return -1

    def give_back_owed(self) -> None:
        """Try again to give back what could not be (the heartbeat calls it, when the database can be written)."""
        self._owed = [runner for runner in self._owed if not runner.free()]
        for execution_id in tuple(self._doubtful):
            with self._lock:
                if self._release_forgotten(execution_id, self._parts.lease.worker):
                    self._doubtful.pop(execution_id, None)

    def close(self) -> None:
        """Finish what is being written."""
        self._watch.close()
        self._committer.close()

    def _drains(self) -> list[Drain]:
        with self._lock:
            drains = [runner.current_drain for several in self._runners.values() for runner in several]
        return [drain for drain in drains if drain is not None]

    async def _drive(
        self, runner: Runner, stored: asyncio.Future[bool] | None = None, keep_seconds: float = 0.0
    ) -> RunOutcome:
        """Drive an execution to its outcome; one that fails is kept for so long, and then given back."""
        self._watch.wake()
        patches.install()  # For each run: anyio may have been imported since the last one.
        told = None if stored is None else functools.partial(_tell_stored, stored)
        host = asyncio.get_running_loop()
        host.call_soon(runner.begin, told)
        over: asyncio.Future[None] = host.create_future()  # A cancelled wait must not cancel what is waited for.
        runner.done.add_done_callback(functools.partial(_tell_over, over))
        try:
            await over
            return runner.done.result()
        except asyncio.CancelledError:  # Ctrl-C, or a closing loop: never a fact.
            if not await _uninterrupted(runner.release()):
                self._owed.append(runner)
            runner.done.cancel()  # Others may wait for it.
            raise
        except Exception:
            try:
                await asyncio.sleep(keep_seconds)
            finally:
                if not runner.free():
                    self._owed.append(runner)
            raise
        finally:
            with self._lock:
                self._runners[runner.execution_id].remove(runner)
                if not self._runners[runner.execution_id]:
                    del self._runners[runner.execution_id]
                if not self._runners:
                    self._watch.rest()

    def _claim(
        self, workflow: WorkflowDefinition, execution_id: str, *, inline: bool, may_run: MayRun | None
    ) -> Runner | None:
        store, worker = self._parts.store, self._parts.lease.acquire()
        with self._lock:  # So that another thread that finds it ours finds its runner, too.
            self._release_forgotten(execution_id, worker)
            try:
                claim = store.claim(execution_id, worker=worker, version=workflow.version, now=self._parts.clock.now())
            except (StoreError, OSError):
                self._doubtful[execution_id] = None
                raise
            if claim is None:
                return None
            self._doubtful.pop(execution_id, None)
            runner = self._runner(
                workflow,
                execution_id,
                inline=inline,
                may_run=may_run,
                fence=claim.row.fence,
                events=claim.events,
            )
            self._runners.setdefault(execution_id, []).append(runner)
        return runner

    def _release_forgotten(self, execution_id: str, worker: str) -> bool:
        """Free an execution that is ours, but that nobody here runs: the database failed when it was given back.

        Returns:
            Whether nobody here runs it: a run that does may be one that was superseded, and not know it yet.
        """
        if self._is_claiming or execution_id in self._expected:
            return False  # Its runner is about to be made.
        if any(not runner.done.get_loop().is_closed() for runner in self._runners.get(execution_id, ())):
            return False
        row = self._parts.store.get(execution_id)
        if row is not None and row.state is ExecutionState.RUNNING and row.worker == worker:
            self._parts.store.release(execution_id, fence=row.fence)
        return True

    def _create(
        self,
        workflow: WorkflowDefinition,
        execution_id: str,
        create: NewExecution,
        input_data: bytes | None,
        *,
        inline: bool,
        may_run: MayRun | None = None,
    ) -> Runner:
        runner = self._runner(
            workflow,
            execution_id,
            inline=inline,
            may_run=may_run,
            fence=1,
            events=(),
            create=create,
            input_data=input_data,
        )
        with self._lock:
            self._runners.setdefault(execution_id, []).append(runner)
        return runner

    def _runner(
        self,
        workflow: WorkflowDefinition,
        execution_id: str,
        *,
        inline: bool,
        fence: int,
        may_run: MayRun | None = None,
        **beginning: Any,
    ) -> Runner:
        """A runner on this loop; the lock need not be held."""
        host = self._host(inline=inline)
        return Runner(
            self._parts,
            host.journal,
            host.post,
            functools.partial(self.run, inline=inline, may_run=may_run),
            self._end_below,
            workflow,
            execution_id=execution_id,
            fence=fence,
            **beginning,
        )

    def _end_below(self, ended: str) -> bool:
        return at_once.end(self._parts.store, self._parts.clock, ended, self.nudge)

    def _host(self, *, inline: bool) -> "_Host":
        loop, parts = asyncio.get_running_loop(), self._parts
        with self._hosts_lock:
            host = self._hosts.get(loop)
            if host is None:
                self._hosts = {known: each for known, each in self._hosts.items() if not known.is_closed()}
                journal = Journal(self._committer, loop, parts.clock, inline=inline)
                post = Post(parts.store, parts.lease.acquire, loop, seconds=parts.news_seconds)
                host = self._hosts[loop] = _Host(journal, post)
        return host

    def _row(self, execution_id: str, create: NewExecution | None) -> ExecutionRow:
        row = self._parts.store.get(execution_id)
        if row is None:
            raise ExecutionContextNotFoundError(
                f"there is no execution {execution_id!r}: look for it with 'flux executions list', or pass an input "
                "to start it"
            )
        if create is not None and row.start_digest != create.start_digest:
            raise InvalidInputError(
                f"execution {execution_id!r} was started with another input or workflow ({row.workflow!r}): "
                "leave the input out to continue it, or choose another id"
            )
        return row

    async def _wait_for_turn(self, row: ExecutionRow, workflow: WorkflowDefinition, seen: int) -> None:
        """Wait until the execution can be claimed, or its owner has got further.

        Args:
            seen: The store's news from before `row` was read, so that nothing falls between.

        Raises:
            ExecutionConflictError: It is blocked, and nothing would happen.
        """
        store, clock = self._parts.store, self._parts.clock
        if row.blocked_reason is not None and row.blocked_version in {None, workflow.version}:
            raise ExecutionConflictError(f"execution {row.execution_id!r} is blocked: {row.blocked_reason}")
        with self._lock:
            here = [each.done for each in self._runners.get(row.execution_id, ()) if _is_of_this_loop(each.done)]
        if here:  # Somebody else on this loop runs it.
            await asyncio.wait(here, return_when=asyncio.FIRST_COMPLETED)
            return
        rescue_at = 0.0
        while True:
            if row.state is ExecutionState.RUNNING and clock.monotonic() >= rescue_at:
                rescue_at = clock.monotonic() + RESCUE_SECONDS
                if store.rescue(now=clock.now()):
                    return
            await asyncio.sleep(NEWS_SECONDS)
            with contextlib.suppress(StoreError):  # It is asked again.
                if store.news() != seen:
                    return
            if row.wake_at is not None and row.wake_at <= clock.now():
                return


def _is_of_this_loop(future: "asyncio.Future[Any]") -> bool:
    return future.get_loop() is asyncio.get_running_loop()


def _tell_over(over: "asyncio.Future[None]", done: "asyncio.Future[RunOutcome]") -> None:
    if not over.done():
        over.set_result(None)
    elif not done.cancelled():
        done.exception()  # Nobody waits for it any more, which is no reason to log it.


def _tell_stored(stored: "asyncio.Future[bool]") -> None:
    if not stored.done():
        stored.set_result(True)


def _tell_end(stored: "asyncio.Future[bool]", end: "asyncio.Future[RunOutcome]") -> None:
    """Tell whether an execution was stored, when its run has ended before that was told."""
    if stored.done():
        return
    if end.cancelled():
        stored.cancel()
    elif (error := end.exception()) is not None:
        stored.set_exception(error)
    else:
        stored.set_result(not isinstance(end.result(), Superseded))


async def _uninterrupted(work: Coroutine[Any, Any, bool]) -> bool:
    """Await to the end, however often the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()
