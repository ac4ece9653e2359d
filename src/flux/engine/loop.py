"""The event loop that a workflow body runs on: ordinary asyncio, made deterministic.

A body loop has no selector and no clock of its own.  The host loop drives it in plain callbacks (`drain`): it becomes
the running loop, runs its ready queue until that is empty, and hands back.  Time stands still meanwhile; it is the
time of the last delivered event, so that timers, too, replay exactly.
"""

import asyncio
import collections
import contextlib
import contextvars
import hashlib
import logging
import math
import sys
import threading
import time
from asyncio import events as asyncio_events
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple, NoReturn, Protocol

from flux.engine.lines import suspended_line
from flux.errors import BodyError, InvalidValueError

logger = logging.getLogger("flux.body")

BUSY_WAIT_HANDLES = 100_000
HANDLES_PER_TIMER = 10
CLOSE_TRIES = 20  # A TaskGroup awaits twice on its way out; more than that is a body that refuses to end.
ALIVE_LIMIT = 100
NEVER_SECONDS = 1e11  # 3,000 years: a timer that is due later is not armed, and never fires.
REFUSALS = 1_000  # Calls refused while unloading; then they suspend, so that a `while True` body is put aside.


class Timers(Protocol):
    """Who is told about the timers that a body arms."""

    def timer_armed(self, timer: "BodyTimer") -> None: ...

    def timer_cancelled(self, timer: "BodyTimer") -> None: ...


class Drain(NamedTuple):
    """A drain that is under way: since when (monotonic), and in which thread."""

    began: float
    thread: int


class BodyFuture(asyncio.Future[Any]):
    """A future whose hash is its creation number: sets of them iterate alike in every replay."""

    def __init__(self, *, loop: "BodyLoop") -> None:
        self._number = loop.next_number()
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number


class FirmFuture(BodyFuture):
    """A future for a wait that is a cancellation's own: cancelling it again changes nothing."""

    def cancel(self, msg: Any = None) -> bool:
        return not self.done()


class BodyTask(asyncio.Task[Any]):
    """A task whose hash is its creation number, set before asyncio registers (and so hashes) it."""

    def __init__(self, coro: Coroutine[Any, Any, Any], *, loop: "BodyLoop", **options: Any) -> None:
        self._number = loop.next_number()
        super().__init__(coro, loop=loop, **options)

    def __hash__(self) -> int:
        return self._number


class BodyTimer(asyncio.TimerHandle):
    """A timer of the body; its call id is what history calls it."""

    __slots__ = ("call_id",)
    call_id: str


class BodyLoop(asyncio.AbstractEventLoop):
    """As much of an event loop as stdlib asyncio needs; the rest is refused, naming the way out.

    Args:
        salt: Any text that is the same in every replay and differs between executions: equal hashes of many
            executions would make asyncio's own sets quadratic.
        timers: Told of timers that are armed and cancelled.
    """

    def __init__(self, salt: str, timers: Timers) -> None:
        self.body: Any = None  # Whose loop this is: how code that runs on it finds its body.
        self._timers = timers
        self._ready: collections.deque[asyncio.Handle] = collections.deque()
        self._polls: list[asyncio.Handle] = []
        self._now = 0.0
        self._number = int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=7).digest(), "big")
        self._tasks_named = 0
        # Strong references: asyncio itself holds tasks weakly, and a collected task would never finish.  The
        # contexts are kept for unloading, because Task.get_context came with 3.12 only.
        self._alive: list[tuple[asyncio.Task[Any], contextvars.Context]] = []
        self._alive_limit = ALIVE_LIMIT
        self._generators: list[Any] = []
        self._generators_limit = ALIVE_LIMIT
        self._draining = False
        self.is_unloading = False
        self._refusals = 0
        self._task_factory: Any = None
        self._spins = self._armed = 0
        self.impurity: BodyError | None = None  # What the body did to the world, as the guard saw it.
        self._drain_began = 0.0  # Both are read by the watch, from its own thread.
        self._drain_thread = 0

    # -- what stdlib asyncio asks of a loop

    def time(self) -> float:
        """Seconds since the execution started, as of the last delivered event."""
        return self._now

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:  # noqa: FBT001 - as asyncio has it.
        """Debug mode measures real time; a body has none."""

    def is_running(self) -> bool:
        return self._draining

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        handle = asyncio.Handle(callback, args, self, context)
        if not self.is_unloading:
            self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> Any:
        if self.is_unloading:
            self.refuse_while_unloading()
        if math.isnan(when):
            raise InvalidValueError("a timer is set to nan: give it a number of seconds")
        timer = BodyTimer(when, callback, args, self, context)
        if when <= self._now:
            self._ready.append(timer)
        elif when < NEVER_SECONDS:
            timer._scheduled = True  # type: ignore[attr-defined]  # Makes cancel() call _timer_handle_cancelled.
            self._armed += 1
            self._timers.timer_armed(timer)
        return timer

    def _timer_handle_cancelled(self, timer: BodyTimer) -> None:
        if timer._scheduled:  # type: ignore[attr-defined]  # It may be ready already, or never have been armed.
            self._armed -= 1
            self._timers.timer_cancelled(timer)

    def create_future(self) -> BodyFuture:
        if self.is_unloading:
            self.refuse_while_unloading()
        return BodyFuture(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None, **options: Any) -> Any:
        if self.is_unloading:
            return self._dead_task(coro)
        context = contextvars.copy_context() if context is None else context
        if self._task_factory is None:
            self._tasks_named += 1
            name = f"Task-{self._tasks_named}" if name is None else name  # asyncio's own names count per process.
            task: asyncio.Task[Any] = BodyTask(coro, loop=self, name=name, context=context, **options)
        else:
            task = self._task_factory(self, coro, context=context)
            if name is not None:
                task.set_name(name)
        if len(self._alive) >= self._alive_limit:
            self._forget_finished()
        self._alive.append((task, context))
        return task

    def _dead_task(self, coro: Any) -> BodyTask:
        """A task that never ran and never will, for a clean-up that makes several at once while it is being closed.

        Refused, the first of them would leave the others behind, as coroutines that nobody awaited.
        """
        coro.close()
        task = BodyTask(coro, loop=self)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # It is never awaited to its end.
        return task

    def _keep_generator(self, generator: Any) -> None:
        """Hold an async generator: else it would be finalised on the host loop, whenever it is collected."""
        if len(self._generators) >= self._generators_limit:
            self._generators = [each for each in self._generators if each.ag_frame is not None]
            self._generators_limit = max(ALIVE_LIMIT, 2 * len(self._generators))
        self._generators.append(generator)

    def _forget_finished(self) -> None:
        """Now and then, not by a callback of each task: that would be a turn of the loop for every task."""
        self._alive = [(task, context) for task, context in self._alive if not task.done()]
        self._alive_limit = max(ALIVE_LIMIT, 2 * len(self._alive))

    def set_task_factory(self, factory: Any) -> None:
        if factory is None or factory is getattr(asyncio, "eager_task_factory", None):
            self._task_factory = None if factory is None else _eager_task
            return
        raise BodyError(
            "a workflow body cannot set a task factory of its own, because its tasks must replay: "
            "leave it out, or use asyncio.eager_task_factory"
        )

    def get_task_factory(self) -> Any:
        return self._task_factory

    def get_exception_handler(self) -> Any:
        return None

    def set_exception_handler(self, handler: Any) -> None:
        """Ignored: what a background task raises is logged, and never decides."""

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.is_unloading:
            error = context.get("exception")
            logger.error("in a workflow body: %s", context.get("message"), exc_info=error)

    call_exception_handler = default_exception_handler

    async def shutdown_asyncgens(self) -> None:
        """Close the async generators that nobody iterates over, oldest first; what they raise is logged."""
        for generator in list(self._generators):
            if generator.ag_frame is None or generator.ag_running:
                continue
            try:
                await generator.aclose()
            except Exception as error:  # noqa: BLE001 - as `asyncio.run` does: it is not the body's outcome.
                self.call_exception_handler({"message": "an async generator failed to close", "exception": error})

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""

    def close(self) -> None:
        """Harmless: a body loop holds nothing of the system's."""

    # -- what the engine asks of it

    @property
    def live_tasks(self) -> list[asyncio.Task[Any]]:
        """The tasks that have not finished, in order of creation."""
        return [task for task, _ in self._alive if not task.done()]

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def advance(self, now: float) -> None:
        """Set the clock to the time of an event that is about to be delivered."""
        self._now = max(self._now, now)

    def fire(self, timer: BodyTimer) -> None:
        """Make a timer ready; the clock must have reached it."""
        timer._scheduled = False  # type: ignore[attr-defined]  # It is no longer armed: a late cancel() is nothing.
        self._armed -= 1
        self._ready.append(timer)

    def poll_later(self, handle: asyncio.Handle) -> None:
        """Run a handle that was just made ready only when something else has run: it polls, and would never rest."""
        self._ready.remove(handle)
        self._polls.append(handle)

    def progressed(self) -> None:
        """Note that the body made a call, so that a long drain is not mistaken for a busy wait."""
        self._spins = 0

    @property
    def current_drain(self) -> Drain | None:
        """The drain that is under way (safe from any thread)."""
        began = self._drain_began
        return Drain(began, self._drain_thread) if began else None

    def drain(self) -> None:
        """Run what is ready, as the running loop of this thread, until nothing is.

        Raises:
            BodyError: The body turns without waiting for anything, so it would never let go.
            KeyboardInterrupt, SystemExit: As the body, or a Ctrl-C, raised them.
        """
        if self._draining:
            return
        host, hooks = asyncio_events._get_running_loop(), sys.get_asyncgen_hooks()
        asyncio_events._set_running_loop(self)
        sys.set_asyncgen_hooks(self._keep_generator, None)
        self._draining, self._spins = True, 0
        self._drain_thread, self._drain_began = threading.get_ident(), time.monotonic()
        has_moved = True
        try:
            while has_moved and (self._ready or self._polls):
                has_moved = self._run_ready()
                polls, self._polls = self._polls, []
                for handle in polls:
                    if not handle._cancelled:
                        handle._run()
        finally:
            self._draining, self._drain_began = False, 0.0
            sys.set_asyncgen_hooks(*hooks)
            asyncio_events._set_running_loop(host)

    def _run_ready(self) -> bool:
        ready, has_moved = self._ready, False
        while ready:
            has_moved = True
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()
            self._spins += 1
            # A timer that stays armed is something that the body waits for; one that it cancels again is not.
            if self._spins > BUSY_WAIT_HANDLES + HANDLES_PER_TIMER * self._armed:
                raise BodyError(self._describe_busy_wait())
        return has_moved

    def _describe_busy_wait(self) -> str:
        lines = [line for task in self.live_tasks if (line := suspended_line(task))]
        return (
            f"the workflow body took {BUSY_WAIT_HANDLES:,} turns without waiting for anything outside it "
            f"(at {', '.join(lines[:3]) or 'an unknown line'}): wait for a task, a timer, an asyncio.Event or a future "
            "instead of asking again and again"
        )

    # -- unloading

    def refuse_while_unloading(self) -> None:
        """Answer whatever a closing body asks for: GeneratorExit, which `except Exception` lets pass."""
        self._refusals += 1
        if self._refusals < REFUSALS:
            raise GeneratorExit

    def unload(self) -> None:
        """Close every suspended coroutine, in its own context; nothing that they ask for happens.

        Synchronous code in `finally`, `__exit__` and `__del__` of the body runs; what it raises is dropped, and its
        logging is muted by `default_exception_handler`.
        """
        self.is_unloading = True
        if not self._generators and not self.live_tasks:  # It has ended, and needs no clean-up.
            self._alive.clear()
            self._ready.clear()
            return
        host, hooks = asyncio_events._get_running_loop(), sys.get_asyncgen_hooks()
        asyncio_events._set_running_loop(self)
        sys.set_asyncgen_hooks(self._generators.append, None)
        try:
            self._forget_finished()
            for task, context in list(self._alive):
                task._log_destroy_pending = False  # type: ignore[attr-defined]  # It is destroyed on purpose.
                if not _close(task.get_coro(), context):
                    logger.warning("a coroutine of an unloaded workflow body refuses to end: %s", suspended_line(task))
            while self._generators:  # Each must be gone while this loop still runs, or the host would finalise it.
                _close_generator(self._generators.pop(0))
            self._alive.clear()
            self._ready.clear()
        finally:
            sys.set_asyncgen_hooks(*hooks)
            asyncio_events._set_running_loop(host)


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Do something of the engine's own in the middle of a drain: it is not what the body does, and may open files."""
    loop = asyncio_events._get_running_loop()
    asyncio_events._set_running_loop(None)
    try:
        yield
    finally:
        asyncio_events._set_running_loop(loop)


def _close(coroutine: Any, context: contextvars.Context) -> bool:
    """Close a coroutine; one that awaits in its clean-up is closed again.  False if it never gives in."""
    for _ in range(CLOSE_TRIES):
        try:
            context.run(coroutine.close)
        except RuntimeError as error:
            if "ignored GeneratorExit" not in str(error):
                return True
        except BaseException:  # noqa: BLE001 - the execution lives on elsewhere: nothing raised here means anything.
            return True
        else:
            return True
    return False


def _close_generator(generator: Any) -> None:
    if generator.ag_frame is None:
        return
    with contextlib.suppress(BaseException):  # As above.
        generator.aclose().send(None)


def _eager_task(loop: BodyLoop, coro: Any, **options: Any) -> BodyTask:
    return BodyTask(coro, loop=loop, eager_start=True, **options)


def _refuse(name: str) -> NoReturn:
    raise BodyError(
        f"loop.{name}() is not for a workflow body, which only decides: do this in a @task, and await that in the body"
    )


def _refusing(name: str) -> Callable[..., Any]:
    def method(self: BodyLoop, *args: Any, **options: Any) -> NoReturn:  # noqa: ARG001
        _refuse(name)

    return method


def _refusing_async(name: str) -> Callable[..., Any]:
    async def method(self: BodyLoop, *args: Any, **options: Any) -> NoReturn:  # noqa: ARG001
        _refuse(name)

    return method


for _name in (
    "run_forever run_until_complete stop call_soon_threadsafe run_in_executor set_default_executor add_reader "
    "remove_reader add_writer remove_writer add_signal_handler remove_signal_handler"
).split():
    setattr(BodyLoop, _name, _refusing(_name))
for _name in (
    "getaddrinfo getnameinfo create_connection create_server start_tls sendfile create_unix_connection "
    "create_unix_server connect_accepted_socket create_datagram_endpoint connect_read_pipe connect_write_pipe "
    "subprocess_shell subprocess_exec sock_recv sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall "
    "sock_sendto sock_connect sock_accept sock_sendfile"
).split():
    setattr(BodyLoop, _name, _refusing_async(_name))
