"""The attempts of one call: timeout, retries, fallback and rollback live here, and nowhere else.

Every step is recorded through a `Recorder`, so that an interrupted call goes on where it was: in the same attempt, in
the same back-off, in the fallback or the rollback that had begun.
"""

import asyncio
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from flux import serde
from flux.clock import Clock, SystemClock
from flux.domain.definitions import TaskDefinition
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.engine.threads import Threads, resolve
from flux.errors import ExecutionTimeoutError, RetryError, UnserializableValue

MICROSECONDS = 1_000_000


class Recorder(Protocol):
    """Writes down what happens to a call."""

    def record(self, type_: Type, value: bytes | None, detail: bytes | None = None) -> None:
        """Add an event about this call."""
        ...

    async def before_acting(self) -> None:
        """Wait until this attempt may act on the world: its cause is on disk, and the lease is trusted."""
        ...

    def acting(self, *, is_active: bool) -> None:
        """Tell that user code of this call runs on the loop or a thread, or has ended."""
        ...


@dataclass(slots=True, eq=False)
class Succeeded:
    """The outcome of a call that gave a value."""

    value: Any
    data: bytes


@dataclass(slots=True, eq=False)
class Failed:
    """The outcome of a call that gave an error, encoded."""

    data: bytes


@dataclass(slots=True)
class _Failure:
    """Why an attempt failed, while retries, fallback and rollback deal with it."""

    error: BaseException
    inner: BaseException | None = None

    @property
    def data(self) -> bytes:
        return serde.encode_failure(self.error, inner=self.inner)


class Attempts:
    """All attempts of one call.

    Args:
        task: What is called.
        call_id: Of the call, for messages.
        arguments: Gives the arguments by name, for each attempt a copy of its own.
        instance: The object a method is bound to.
        recorder: Where each step is written.
        progress: What history already has between the start of the call and its outcome.
        grace_seconds: How long an attempt that timed out may clean up.
    """

    def __init__(
        self,
        task: TaskDefinition,
        call_id: str,
        arguments: Callable[[], Mapping[str, Any]],
        instance: Any,
        *,
        recorder: Recorder,
        clock: Clock,
        threads: Threads,
        progress: Sequence[ExecutionEvent] = (),
        grace_seconds: float = 5.0,
    ) -> None:
        self._task, self._call_id, self._arguments, self._instance = task, call_id, arguments, instance
        self._grace_seconds = grace_seconds
        self._recorder, self._clock, self._threads = recorder, clock, threads
        self._progress = progress

    async def run(self) -> Succeeded | Failed:
        """Make attempts until one succeeds or none is left, and settle what follows from that."""
        last = self._progress[-1] if self._progress else None
        match last.type if last is not None else None:
            case Type.TASK_FALLBACK_STARTED | Type.TASK_FALLBACK_COMPLETED | Type.TASK_FALLBACK_FAILED:
                return await self._fall_back(self._recorded_failure())
            case Type.TASK_ROLLBACK_STARTED | Type.TASK_ROLLBACK_COMPLETED | Type.TASK_ROLLBACK_FAILED:
                return await self._roll_back(self._recorded_failure())
            case Type.TASK_RETRY_COMPLETED if last is not None:
                output = last.value["output"]
                return Succeeded(output, serde.encode(output))
            case Type.TASK_RETRY_FAILED if last is not None and not last.detail["due_at"]:
                return await self._settle(_retried(int(last.value["current_attempt"]), last.detail["error"]))
            case _:
                return await self._try()

    # -- attempts and retries

    async def _try(self) -> Succeeded | Failed:
        attempt = await self._resume_attempts()
        while True:
            try:
                value = await self._attempt(self._task.func, self._task.timeout_seconds)
                data = serde.encode(value)
            except Exception as error:  # noqa: BLE001 - the boundary around a task's body.
                failure = _Failure(error)
            else:
                if attempt:
                    output = {**self._retry_value(attempt), "output": value}
                    self._recorder.record(Type.TASK_RETRY_COMPLETED, serde.encode(output))
                return Succeeded(value, data)
            # A value that cannot be recorded will not be by trying again, and the effect would be repeated.
            is_final = isinstance(failure.error, UnserializableValue)
            if is_final or not self._task.retry.allows(attempt, failure.error):
                return await self._give_up(attempt, failure)
            attempt = await self._next_attempt(attempt, failure.error)

    async def _resume_attempts(self) -> int:
        """Go on in the attempt, or in the back-off, that was interrupted; returns the attempt, 0 for the original."""
        last = next((e for e in reversed(self._progress) if e.type.startswith("TASK_RETRY_")), None)
        if last is None:
            return 0
        attempt = int(last.value["current_attempt"])
        if last.type is Type.TASK_RETRY_FAILED:
            await self._wait_until(int(last.detail["due_at"]))
            await self._start_retry(attempt + 1)
            return attempt + 1
        return attempt

    async def _next_attempt(self, attempt: int, error: BaseException) -> int:
        delay = self._task.retry.delay_before(attempt + 1)
        due_at = self._clock.now() + round(delay * MICROSECONDS)
        self._record_failed_attempt(attempt, error, due_at)
        await self._wait_until(due_at)
        await self._start_retry(attempt + 1)
        return attempt + 1

    async def _start_retry(self, attempt: int) -> None:
        self._recorder.record(Type.TASK_RETRY_STARTED, serde.encode(self._retry_value(attempt)))
        await self._recorder.before_acting()

    async def _give_up(self, attempt: int, failure: _Failure) -> Succeeded | Failed:
        if attempt:
            self._record_failed_attempt(attempt, failure.error, due_at=0)
            failure = _retried(attempt, failure.error)
        return await self._settle(failure)

    async def _settle(self, failure: _Failure) -> Succeeded | Failed:
        if self._task.fallback is not None:
            return await self._fall_back(failure)
        if self._task.rollback is not None:
            return await self._roll_back(failure)
        return Failed(failure.data)

    def _record_failed_attempt(self, attempt: int, error: BaseException, due_at: int) -> None:
        detail = serde.encode({"due_at": due_at, "error": error})
        self._recorder.record(Type.TASK_RETRY_FAILED, serde.encode(self._retry_value(attempt)), detail)

    def _retry_value(self, attempt: int) -> dict[str, Any]:
        retry = self._task.retry
        value = {
            "current_attempt": attempt,
            "max_attempts": retry.max_attempts,
            "current_delay": retry.longest_delay_before(attempt),
            "backoff": retry.backoff,
        }
        return value if attempt else {**value, "original_attempt": True}

    async def _wait_until(self, due_at: int) -> None:
        delay = (due_at - self._clock.now()) / MICROSECONDS
        if delay > 0:
            await asyncio.sleep(delay)

    # -- what follows when every attempt has failed

    async def _fall_back(self, failure: _Failure) -> Succeeded | Failed:
        done = self._done(Type.TASK_FALLBACK_COMPLETED, Type.TASK_FALLBACK_FAILED)
        if done is not None and done.type is Type.TASK_FALLBACK_COMPLETED:
            return Succeeded(done.value, done.data or b"")
        if done is not None:
            return Failed(done.data or b"")
        await self._begin(Type.TASK_FALLBACK_STARTED, failure)
        assert self._task.fallback is not None
        try:
            value = await self._attempt(self._task.fallback, 0)
            data = serde.encode(value)
        except Exception as error:  # noqa: BLE001 - the boundary around a fallback.
            encoded = serde.encode_failure(error)
            self._recorder.record(Type.TASK_FALLBACK_FAILED, encoded)
            return Failed(encoded)
        self._recorder.record(Type.TASK_FALLBACK_COMPLETED, data)
        return Succeeded(value, data)

    async def _roll_back(self, failure: _Failure) -> Failed:
        """Undo; whatever becomes of that, the call fails with the original error."""
        if self._done(Type.TASK_ROLLBACK_COMPLETED, Type.TASK_ROLLBACK_FAILED) is not None:
            return Failed(failure.data)
        await self._begin(Type.TASK_ROLLBACK_STARTED, failure)
        assert self._task.rollback is not None
        try:
            value = await self._attempt(self._task.rollback, 0)
            self._recorder.record(Type.TASK_ROLLBACK_COMPLETED, serde.encode(value))
        except Exception as error:  # noqa: BLE001 - the boundary around a rollback.
            self._recorder.record(Type.TASK_ROLLBACK_FAILED, serde.encode_failure(error))
        return Failed(failure.data)

    async def _begin(self, started: Type, failure: _Failure) -> None:
        if not any(event.type is started for event in self._progress):
            detail = serde.encode({"error": failure.error, "inner": failure.inner})
            self._recorder.record(started, serde.encode_arguments(dict(self._arguments())), detail)
        await self._recorder.before_acting()

    def _done(self, *types: Type) -> ExecutionEvent | None:
        return next((event for event in self._progress if event.type in types), None)

    def _recorded_failure(self) -> _Failure:
        started = self._done(Type.TASK_FALLBACK_STARTED, Type.TASK_ROLLBACK_STARTED)
        assert started is not None
        return _Failure(started.detail["error"], started.detail["inner"])

    # -- one attempt

    async def _attempt(self, function: Callable[..., Any], timeout: float) -> Any:
        """Call user code once.

        Raises:
            ExecutionTimeoutError: It took longer than `timeout` seconds.
        """
        self._recorder.acting(is_active=True)
        try:
            return await (self._call_within(timeout, function) if timeout else self._call(function))
        finally:
            self._recorder.acting(is_active=False)

    async def _call_within(self, seconds: float, function: Callable[..., Any]) -> Any:
        """Call it in a task of its own, and go on without it if it outlives the cancellation that follows."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        expiry: asyncio.TimerHandle | None = None
        has_expired = False

        def start_clock() -> None:  # Time spent in the queue of the threads does not count.
            nonlocal expiry
            expiry = loop.call_later(seconds, expire)

        def expire() -> None:
            nonlocal has_expired
            if work.done():
                return
            has_expired = True
            work.cancel()
            loop.call_later(0 if _is_sync(function) else self._grace_seconds, resolve, over)

        work = loop.create_task(self._call(function, start_clock))
        work.add_done_callback(lambda _: resolve(over))
        try:
            await over
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait([work], timeout=self._grace_seconds)
            raise
        finally:
            if expiry is not None:
                expiry.cancel()
        if work.done() and not work.cancelled():
            work.exception()  # Looked at, so that asyncio does not report it as lost.
        if has_expired:
            raise self._timed_out(function, seconds)
        return work.result()

    async def _call(self, function: Callable[..., Any], on_start: Callable[[], None] | None = None) -> Any:
        """Call it, and let nothing that it raises end more than the task: SystemExit would end the host loop."""
        try:
            return await self._invoke(function, on_start)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
                raise
            raise RuntimeError(f"the task raised {_describe(error)}, which would end more than itself") from error

    async def _invoke(self, function: Callable[..., Any], on_start: Callable[[], None] | None) -> Any:
        """Call it where it belongs: async functions on this loop, others in a thread of ours."""
        target = function if self._instance is None else functools.partial(function, self._instance)
        arguments = self._arguments()
        if inspect.iscoroutinefunction(function):
            if on_start is not None:
                on_start()
            return await self._task.parameters.call(target, arguments)
        value = await self._threads.run(lambda: self._task.parameters.call(target, arguments), on_start)
        return await value if inspect.isawaitable(value) else value

    def _timed_out(self, function: Callable[..., Any], timeout: float) -> ExecutionTimeoutError:
        text = f"Task {self._task.name} ({self._call_id}) timed out ({timeout:g}s)."
        if _is_sync(function):
            text += " Its thread was left behind, because Python cannot stop a thread."
        return ExecutionTimeoutError(text)


async def run_unrecorded(task: TaskDefinition, named: Mapping[str, Any], instance: Any) -> Any:
    """Call a task outside any workflow: with its retries, fallback and rollback, but nothing is written.

    Raises:
        ExecutionError: It failed, as it would in a body.
    """
    attempts = Attempts(
        task, "", lambda: named, instance, recorder=_Unrecorded(), clock=SystemClock(), threads=_unrecorded_threads
    )
    match await attempts.run():
        case Succeeded(value):
            return value
        case Failed(data):
            raise serde.decode(data)


class _Unrecorded:
    """Writes nothing, and waits for nothing."""

    def record(self, type_: Type, value: bytes | None, detail: bytes | None = None) -> None:
        pass

    async def before_acting(self) -> None:
        pass

    def acting(self, *, is_active: bool) -> None:
        pass


_unrecorded_threads = Threads()


def _forget_threads() -> None:
    """A forked child has none of its parent's threads."""
    global _unrecorded_threads  # noqa: PLW0603 - of this process.
    _unrecorded_threads = Threads()


os.register_at_fork(after_in_child=_forget_threads)


def _retried(retries: int, error: BaseException) -> _Failure:
    """The failure of the last retry, which says how many there were."""
    shown = serde.to_display(error)["message"]  # Its own str() may fail.
    text = f"failed after {retries} {'retry' if retries == 1 else 'retries'}: {shown}"
    return _Failure(error, RetryError(text, inner_exception=error))


def _is_sync(function: Callable[..., Any]) -> bool:
    return not inspect.iscoroutinefunction(function)


def _describe(error: BaseException) -> str:
    text = serde.to_display(error)["message"]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
