"""A whole Flux in memory and on virtual time, in place of the real one."""

import asyncio
import concurrent.futures
import contextvars
import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from flux.app import App
from flux.domain.execution_context import ExecutionContext
from flux.engine import hosts, launcher
from flux.engine.committer import InlineCommitter
from flux.engine.processes import Processes
from flux.engine.threads import Threads
from flux.errors import BodyError
from flux.ports import Store
from flux.settings import Settings
from flux.store.memory import Memory, MemoryStore
from flux.tasks import now
from flux.testing.fakes import fake
from flux.testing.virtual_time import NEVER_SECONDS, VirtualLoop, VirtualTime

T = TypeVar("T")

_WRITES = ("append", "claim", "release", "resume", "send")  # Of a store, as far as executions do them.


class Bed:
    """Runs workflows in this thread, in memory; a workflow that sleeps a month ends at once.

    `def` tasks, and those of processes of their own, run one at a time in another thread of this process.

    Args:
        memory: What an earlier bed left behind, for example when it crashed.
        time: The time of the test; a new one by default.
        store: Another store than one on that memory.
        loop: The kind of event loop.
        options: Further parts of the engine, in place of its own.

    Example:
        >>> with Bed().installed() as bed:
        ...     context = reminder.run("ada")
        >>> assert bed.time.elapsed == timedelta(days=30)
    """

    def __init__(
        self,
        memory: Memory | None = None,
        *,
        time: VirtualTime | None = None,
        store: Store | None = None,
        loop: type[VirtualLoop] = VirtualLoop,
        **options: Any,
    ) -> None:
        self.time, self._loop = time or VirtualTime(), loop
        self.store = store or MemoryStore(memory)
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "flux-test")
        threads = _OneThread(self._thread)
        parts = {"news_seconds": NEVER_SECONDS, "unload_after_seconds": NEVER_SECONDS, **options}
        self.app = App(
            Settings(database=Path("no-file"), lease_seconds=NEVER_SECONDS),
            store=self.store,
            clock=self.time,
            committer=InlineCommitter(self.store),
            block_on=self.run,
            threads=threads,
            **{"processes": _NoProcesses(threads), **parts},
        )
        watch_writes(self.store, after=self._tell_children)
        self.app.background = _OnDemand(self.run)
        self.app.engine.run = _on_virtual_time(self.app.engine.run)  # type: ignore[method-assign]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, on virtual time: a scenario of several steps, for instance.

        Example:
            >>> async def scenario():
            ...     handle = order.start(7)
            ...     await asyncio.sleep(86_400)
            ...     handle.signal("packed")
            ...     return await handle.result()
            >>> context = bed.run(scenario())
        """
        with asyncio.Runner(loop_factory=lambda: self._loop(self.time)) as runner:
            return runner.run(work)

    @contextmanager
    def installed(self) -> "Iterator[Bed]":
        """Have `workflow.run()` and the like use this one meanwhile; it is closed at the end."""
        before = launcher.install(lambda: self.app)
        try:
            with fake(now, calls=lambda: self.time.date):
                yield self
        finally:
            launcher.install(before)
            self.app.close()
            self._thread.shutdown()

    def _tell_children(self, write: str, arguments: tuple[Any, ...]) -> None:
        """Those that were asked to cancel: nobody looks for news here."""
        for execution_id in (id_ for append in arguments[0] for id_ in append.cancels) if write == "append" else ():
            self.app.engine.nudge(execution_id)


def _on_virtual_time(run: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """On another loop, what sleeps would never wake: the bed's clock stands still there."""

    async def checked(*args: Any, **kwargs: Any) -> Any:
        if not isinstance(asyncio.get_running_loop(), VirtualLoop):
            raise BodyError(
                "a workflow was run on this event loop, which is not the bed's: call workflow.run() in a plain test "
                "function, or let bed.run(...) run your coroutine"
            )
        return await run(*args, **kwargs)

    return checked


class _OneThread(Threads):
    """One function at a time, while the loop stands still: what they do comes in the same order each time."""

    def __init__(self, thread: concurrent.futures.Executor) -> None:
        super().__init__()
        self._thread = thread

    async def run(self, function: Callable[[], Any], on_start: Callable[[], None] | None = None) -> Any:
        if on_start is not None:
            on_start()
        context = contextvars.copy_context()
        value, error = self._thread.submit(_called, lambda: context.run(function)).result()
        if error is not None:
            raise error
        return value


def _called(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """With its error as it is: what a future raises has the future's own lines in its traceback."""
    try:
        return function(), None
    except BaseException as error:  # noqa: BLE001 - a thread hands on whatever its function raises.
        return None, error


class _NoProcesses(Processes):
    """Here, too: what a test looks at, or puts in place of something, is in this process."""

    def __init__(self, threads: Threads) -> None:
        super().__init__()
        self._here = threads

    async def run(
        self, func: Callable[..., Any], named: Mapping[str, Any], *, on_start: Callable[[], None] | None = None
    ) -> Any:
        return await self._here.run(lambda: _result(func(**named)), on_start)


def _result(value: Any) -> Any:
    return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value


async def _awaited(value: Any) -> Any:
    return await value


class _OnDemand(hosts.Background):
    """What was started outside any event loop runs when somebody waits for it: there is no other thread for it."""

    def __init__(self, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        super().__init__()
        self._run = run
        self._started_here: list[_Run] = []

    def spawn(self, work: Coroutine[Any, Any, ExecutionContext[Any]]) -> hosts.Running:
        if hosts.running_loop() is not None:
            return super().spawn(work)
        self._started_here.append(_Run(self._run, work))
        return self._started_here[-1]

    def close(self) -> None:
        for run in self._started_here:
            run.work.close()
        super().close()


class _Run(concurrent.futures.Future[ExecutionContext[Any]]):
    def __init__(
        self, run: Callable[[Coroutine[Any, Any, Any]], Any], work: Coroutine[Any, Any, ExecutionContext[Any]]
    ) -> None:
        super().__init__()
        self.work, self._run = work, run

    def result(self, timeout: float | None = None) -> ExecutionContext[Any]:
        if not self.done():
            try:
                self.set_result(self._run(self.work))
            except BaseException as error:  # noqa: BLE001 - as a thread would hand it on.
                self.set_exception(error)
        return super().result()


def watch_writes(
    store: Store,
    before: Callable[[str, tuple[Any, ...]], None] | None = None,
    after: Callable[[str, tuple[Any, ...]], None] | None = None,
) -> None:
    """Be told of every durable write: of its name and its arguments."""
    for name in _WRITES:
        setattr(store, name, _watched(name, getattr(store, name), before, after))


def _watched(name: str, write: Callable[..., Any], before: Any, after: Any) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before(name, args)
        result = write(*args, **kwargs)
        if after is not None:
            after(name, args)
        return result

    return watched
