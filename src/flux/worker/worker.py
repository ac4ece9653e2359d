"""A worker: claims the executions of the workflows that it has, and runs them until it is told to stop.

It looks when something was written (which costs no query), when a timer is due, and when one of its executions has
ended.  Any number of workers share a store; the claim decides who runs what.
"""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from flux import telemetry
from flux.catalogue import Catalogue, PublishedWorkflow
from flux.clock import Clock
from flux.domain.definitions import WorkflowDefinition
from flux.domain.execution_context import ExecutionContext
from flux.engine.engine import Engine
from flux.engine.lease import Lease
from flux.engine.outcomes import Blocked, RunOutcome, Settled
from flux.errors import StoreError
from flux.ports import Claim, NewExecution, Store
from flux.worker.watch import LoopWatch

logger = logging.getLogger("flux.worker")

MICROSECONDS = 1_000_000
NEWS_SECONDS = 0.05
LOOK_SECONDS = 5.0  # Also without news: a clock may have been set, and a lock that was busy is free.
SHORTEST_SECONDS = 0.001
PATIENCE_SECONDS = 1.0  # Between two tries of a database that fails.
DRAIN_POLL_SECONDS = 0.02


class NewRun(NamedTuple):
    """The run of an execution that was to be created.

    Args:
        is_new: Whether it was; else its id was taken, and nothing runs.
        end: Its task, which gives how it ended, if it did.
    """

    is_new: bool
    end: "asyncio.Task[RunOutcome | None]"

    def finished(self) -> ExecutionContext[Any] | None:
        """The execution, if it has finished here."""
        outcome = self.end.result() if self.end.done() and not self.end.cancelled() else None
        return outcome.context if isinstance(outcome, Settled) and outcome.context.has_finished else None


class Worker:
    """Runs what it can claim on the running event loop.

    Args:
        workflows: By name; it serves those whose labels it has.
        published: What it tells of them.
        labels: What it has.
        concurrency: Executions at once, at most.
        grace_seconds: How long tasks may go on when it is told to stop.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        catalogue: Catalogue,
        lease: Lease,
        clock: Clock,
        workflows: Mapping[str, WorkflowDefinition],
        *,
        published: tuple[PublishedWorkflow, ...] = (),
        labels: Mapping[str, str] | None = None,
        concurrency: int = 100,
        grace_seconds: float = 30.0,
    ) -> None:
        self._engine, self._store, self._catalogue = engine, store, catalogue
        self._lease, self._clock = lease, clock
        self._labels = dict(labels or {})
        self._workflows = {name: each for name, each in workflows.items() if self._may_run(each)}
        self._published = tuple(each for each in published if each.name in self._workflows)
        self._left = tuple(each for each in published if each.name not in self._workflows)
        self._concurrency, self._grace_seconds = concurrency, grace_seconds
        self._running: dict[str, asyncio.Task[RunOutcome | None]] = {}
        self._published_as = ""
        self._is_stopping = self._is_once = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._claimed = 0  # Places that are kept for a claim under way.
        self._changed = asyncio.Event()
        self._claiming = ThreadPoolExecutor(1, thread_name_prefix="flux-claims")

    @property
    def free(self) -> int:
        """How many executions more it would take."""
        return 0 if self._is_stopping else self._concurrency - len(self._running) - self._claimed

    @property
    def running(self) -> list[str]:
        """The ids of those that it runs."""
        return list(self._running)

    def wake(self) -> None:
        """Look now: something may be due."""
        self._changed.set()

    async def run_new(self, execution_id: str, create: NewExecution, input_data: bytes) -> "NewRun | None":
        """Run a new execution from its birth on, which saves storing it apart, and its claim.

        Returns:
            The run, once it is stored or its id was taken; None, and nothing happens, if this worker cannot run it now.

        Raises:
            StoreError: The database cannot be used, or this worker was stopped: it may be stored.
        """
        workflow = self._workflows.get(create.workflow)
        is_here = self._loop is asyncio.get_running_loop()
        if workflow is None or not is_here or self.free <= 0 or execution_id in self._running:
            return None
        stored, work = self._engine.run_new(workflow, execution_id, create, input_data, self._may_run)
        run = self._running[execution_id] = asyncio.ensure_future(self._follow(execution_id, work))
        try:
            return NewRun(await asyncio.shield(stored), run)
        except asyncio.CancelledError:
            if not stored.cancelled():
                raise  # Who asked is gone.
            raise StoreError(
                f"whether execution {execution_id} was stored is not known: its worker was stopped meanwhile. Look for "
                "it, or start it again with the same id"
            ) from None

    def stop(self) -> None:
        """Claim nothing more; `run` returns when what runs has ended, or was given back."""
        self._is_stopping = True
        self._lease.drain()
        self.wake()

    async def run(self, *, once: bool = False) -> None:
        """Run executions until `stop`.

        Args:
            once: Return when nothing is due and nothing runs.
        """
        self._is_once, self._loop = once, asyncio.get_running_loop()
        watch = asyncio.ensure_future(LoopWatch().run())
        try:
            while not self._is_stopping:
                self._changed.clear()
                seen = self._news()
                next_look = await self._look()
                if once and not self._running and self.free and not self._changed.is_set():
                    break
                await self._until_news(seen, next_look)
        finally:
            self._claiming.shutdown(wait=False)
            await self._drain()
            self._lease.end_drain()
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    def retire(self) -> None:
        """Say that this process ends now: whatever would not let go is free for others at once."""
        with contextlib.suppress(StoreError, OSError):
            self._lease.retire()

    async def _look(self) -> float:
        """Start what is due; returns when to look again, on the clock of this process."""
        room = self._claimed = self.free
        try:
            # A disk that stalls must not stall the loop, and tasks may have taken all threads of its own executor.
            claims, due_at = await asyncio.get_running_loop().run_in_executor(self._claiming, self._claim, room)
            for execution_id, work in self._engine.take_over(claims, self._workflows, self._may_run).items():
                self._running[execution_id] = asyncio.ensure_future(self._follow(execution_id, work))
        except (StoreError, OSError) as error:
            logger.warning("the worker cannot look for work: %s", error)
            return self._clock.monotonic() + PATIENCE_SECONDS
        finally:
            self._claimed = 0
        due_in = (due_at - self._clock.now()) / MICROSECONDS if due_at is not None and self.free else LOOK_SECONDS
        return self._clock.monotonic() + min(max(due_in, SHORTEST_SECONDS), LOOK_SECONDS)

    def _may_run(self, workflow: WorkflowDefinition) -> bool:
        return workflow.fits(self._labels)

    def _claim(self, room: int) -> tuple[list[Claim], int | None]:
        """What it gets of what is due, and when more will be."""
        self._publish()
        claims = self._engine.claim_ready(self._workflows, limit=room) if room else []
        versions = {name: workflow.version for name, workflow in self._workflows.items()}
        try:
            return claims, self._catalogue.next_wake(versions)
        except (StoreError, OSError):
            return claims, None  # What it has claimed must be run.

    async def _follow(self, execution_id: str, work: Coroutine[Any, Any, RunOutcome]) -> RunOutcome | None:
        whose, outcome = {"execution_id": execution_id}, None
        telemetry.emit("execution.claimed", execution_id=execution_id, running=len(self._running))
        try:
            outcome = await work
            if isinstance(outcome, Blocked):
                logger.warning("execution %s is blocked: %s", execution_id, outcome.error, extra=whose)
        except StoreError as error:
            logger.warning("execution %s was given back: %s", execution_id, error, extra=whose)
        except Exception:
            logger.exception("execution %s was given back", execution_id, extra=whose)
        finally:
            was_full = not self.free
            if self._running.get(execution_id) is asyncio.current_task():
                del self._running[execution_id]
            telemetry.emit("execution.left", execution_id=execution_id, running=len(self._running))
            if was_full or self._is_once:
                self.wake()  # Else it has all that was due, and what is new it hears of.
        return outcome

    async def _until_news(self, seen: int, look_at: float) -> None:
        while not self._changed.is_set() and self._clock.monotonic() < look_at:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(NEWS_SECONDS, look_at - self._clock.monotonic()))
            if self.free and self._news() != seen:
                return

    def _news(self) -> int:
        try:
            return self._store.news()
        except StoreError:
            return -1

    def _publish(self) -> None:
        """Tell what this worker has and serves, once for each time that it is registered."""
        worker = self._lease.acquire()
        if worker != self._published_as:
            self._catalogue.publish(
                worker,
                process=f"{socket.gethostname()}:{os.getpid()}",
                labels=self._labels,
                workflows=self._published,
                left=self._left,
                now=self._clock.now(),
            )
            self._published_as = worker

    async def _drain(self) -> None:
        """Let tasks that are in user code end, start none, and give back whatever is left."""
        self._is_stopping = True
        if self._running:
            self._lease.drain()
        await asyncio.sleep(0)  # What was cancelled before it has begun would not be given back.
        give_up_at = self._clock.monotonic() + self._grace_seconds
        while self._running and self._clock.monotonic() < give_up_at:
            for execution_id, task in list(self._running.items()):
                if not self._engine.is_acting(execution_id):
                    task.cancel()
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        left = list(self._running.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
