"""The attempts of one call: timeout, retries, fallback and rollback live here, and nowhere else.

Every step is recorded through the `Surroundings`, so that an interrupted call goes on where it was: in the same
attempt, in the same back-off, in the fallback or the rollback that had begun.
"""

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flux import serde
from flux.clock import Clock
from flux.domain.definitions import Arguments, TaskDefinition, TaskMetadata, keep
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.redaction import Redactor
from flux.engine import lineage
from flux.engine.surroundings import Failed, RolledBack, Succeeded, Surroundings
from flux.engine.threads import ThreadLeft, Threads, resolve
from flux.errors import ExecutionTimeoutError, InvalidValueError, RetryError, TaskInterruptedError

if TYPE_CHECKING:
    from flux.engine.attempt import Attempt

MICROSECONDS = 1_000_000
# Recorded while an attempt runs: they do not say how far the attempts have come.
_THREAD_LEFT = "Its thread was left behind, because Python cannot stop a thread."
_NO_KEYWORDS: Mapping[str, Any] = {}
_ASIDE = frozenset({Type.TASK_PAUSED, Type.TASK_RESUMED, Type.TASK_PROGRESS, Type.TASK_CANCELLED})


@dataclass(slots=True)
class _Failure:
    """Why an attempt failed, while retries, fallback and rollback deal with it."""

    error: BaseException
    inner: BaseException | None = None

    @property
    def data(self) -> bytes:
        return serde.encode_failure(self.error, inner=self.inner)


class Attempts(Surroundings):
    """All attempts of one call; where each step is written, and what else they need, is for the subclass to say.

    Args:
        task: What is called.
        call_id: Of the call, for messages.
        arguments: With what; each attempt gets a copy of its own, unless they were not encoded.
        progress: What history already has between the start of the call and its outcome.
        was_interrupted: Whether an attempt may have begun, in a process that did not finish it.
        grace_seconds: How long an attempt that timed out may clean up.
        redactor: Knows the secrets of the task inside which this one was called.
    """

    __slots__ = (
        "_call_id",
        "_clock",
        "_given",
        "_grace_seconds",
        "_instance",
        "_is_rolling_back",
        "_outer",
        "_progress",
        "_redactor",
        "_task",
        "_threads",
        "_was_interrupted",
        "is_given_up",
        "left_behind",
    )

    def __init__(
        self,
        task: TaskDefinition,
        call_id: str,
        arguments: Arguments,
        *,
        clock: Clock,
        threads: Threads,
        progress: Sequence[ExecutionEvent] = (),
        grace_seconds: float = 5.0,
        was_interrupted: bool = False,
        redactor: Redactor | None = None,
    ) -> None:
        self._task, self._call_id, self._given, self._instance = task, call_id, arguments, arguments.instance
        self._grace_seconds, self._was_interrupted = grace_seconds, was_interrupted
        self._clock, self._threads = clock, threads
        self._progress = [event for event in progress if event.type not in _ASIDE] if progress else progress
        self._redactor = self._outer = redactor
        self._is_rolling_back = False
        # Set by whoever cancels: what the task makes of that counts for nothing.  `Task.cancelling` does not say it:
        # before Python 3.13 a TaskGroup that was aborted leaves it behind.
        self.is_given_up = False
        self.left_behind: str | None = None  # What goes on of an attempt that is over.

    @property
    def is_rolling_back(self) -> bool:
        """Whether what it did is being undone: that must not be cut short."""
        return self._is_rolling_back

    async def undo(self) -> RolledBack:
        """Roll a cancelled call back."""
        return await self._roll_back(_Failure(asyncio.CancelledError("the call was cancelled")))

    def run(self) -> Coroutine[Any, Any, Succeeded | Failed]:
        """Make attempts until one succeeds or none is left, and settle what follows from that."""
        return self._go_on() if self._progress else self._try(0)

    async def _go_on(self) -> Succeeded | Failed:
        """Go on where the history ends."""
        last = self._progress[-1]
        match last.type:
            case Type.TASK_FALLBACK_STARTED | Type.TASK_FALLBACK_COMPLETED | Type.TASK_FALLBACK_FAILED:
                return await self._fall_back(self._recorded_failure())
            case Type.TASK_ROLLBACK_STARTED | Type.TASK_ROLLBACK_COMPLETED | Type.TASK_ROLLBACK_FAILED:
                return await self._fail_after_rollback(self._recorded_failure())
            case Type.TASK_RETRY_COMPLETED:
                output = last.value["output"]
                return Succeeded(output, self._task.encode(output))
            case Type.TASK_RETRY_FAILED if not last.detail["due_at"]:
                return await self._settle(_retried(int(last.value["current_attempt"]), last.detail["error"]))
            case _:
                return await self._try(await self._resume_attempts())

    # -- attempts and retries

    async def _try(self, attempt: int) -> Succeeded | Failed:
        """Make this attempt, 0 for the original, and retries after it."""
        task = self._task
        while True:
            try:
                if self._was_interrupted:
                    self._refuse_second_run(attempt)
                keywords = self._keywords(attempt) if task.secret_requests or task.metadata else _NO_KEYWORDS
                value = await self._attempt(task.func, task.timeout_seconds, keywords)
                if task.output_storage is None and self._redactor is None:
                    data = task.encode(value)
                else:
                    value, data = await self._kept(value, f"the result of {task.name!r}")
            except Exception as error:
                if self.is_given_up:
                    raise asyncio.CancelledError from error
                failure = _Failure(error)
            else:
                if attempt:
                    output = {**self._retry_value(attempt), "output": value}
                    self._record(Type.TASK_RETRY_COMPLETED, self._task.encode(output, extra_levels=1))
                return Succeeded(value, data)
            # A value that cannot be recorded will not be by trying again, and the effect would be repeated.
            is_final = isinstance(failure.error, InvalidValueError)
            if is_final or not self._task.retry.allows(attempt, failure.error):
                return await self._give_up(attempt, failure)
            attempt = await self._next_attempt(attempt, failure.error)

    async def _kept(self, value: Any, what: str) -> tuple[Any, bytes]:
        """A result as the history has it, and that encoded."""
        task = self._task
        if task.output_storage is None:
            data = task.encode(value)
            self._refuse_secrets(value, data, what)
            return value, data
        self._refuse_secrets(value, None, what)
        work = functools.partial(keep, task.output_storage, self.reference_id(), value)
        reference = await self._threads.run(work)
        return reference, serde.encode(reference)

    def _refuse_secrets(self, value: Any, data: bytes | None, what: str) -> None:
        """Raises: InvalidValueError: The value, which would be recorded, holds a secret that the task was given."""
        if self._redactor is not None and (path := self._redactor.find(value, data)) is not None:
            raise InvalidValueError(
                f"{what} holds a secret that it requested, at {path}: return something that can be recorded, and let "
                "the task that needs the secret request it"
            )

    def _keywords(self, attempt: int) -> dict[str, Any]:
        """What Flux gives to the function beside the caller's arguments."""
        keywords: dict[str, Any] = {}
        if self._task.secret_requests:
            secrets = self.secrets(self._task.secret_requests)
            self._redactor = Redactor(secrets, self._outer)
            if self._task.takes_secrets:
                keywords["secrets"] = dict(secrets)
            self._refuse_arguments(self._redactor)
        if self._task.metadata:
            execution_id = self.execution_id
            keywords["metadata"] = TaskMetadata(
                task_id=self._call_id,
                task_name=self.name,
                execution_id=execution_id,
                attempt=attempt + 1,
                idempotency_key=self.idempotency_key(),
            )
        return keywords

    def _refuse_arguments(self, redactor: Redactor) -> None:
        """Raises: InvalidValueError: An argument holds a secret that the task requests."""
        named = self._given.copy()
        if (path := redactor.find(named, self._task.encode_arguments(named), path="arguments")) is not None:
            raise InvalidValueError(
                f"{self._task.name!r} was called with a secret that it requests, at {path}: leave the argument out, "
                "the task is given the secret as secrets[...]"
            )

    def _refuse_second_run(self, attempt: int) -> None:
        """Raises: TaskInterruptedError: This attempt may have run, and may run at most once."""
        if self._task.at_most_once:
            self._was_interrupted = False
            raise TaskInterruptedError(
                f"attempt {attempt + 1} of {self._task.name!r} was interrupted, and it may run at most once: find out "
                "how far it came before you repeat it"
            )

    def _record(self, type_: Type, data: bytes | None, detail: bytes | None = None) -> None:
        self.record(type_, self._redacted(data), self._redacted(detail))

    def _redacted(self, data: bytes | None) -> bytes | None:
        return data if data is None or self._redactor is None else self._redactor.encoded(data)

    async def _resume_attempts(self) -> int:
        """Go on in the attempt, or in the back-off, that was interrupted; returns the attempt, 0 for the original."""
        last = next((e for e in reversed(self._progress) if e.type.startswith("TASK_RETRY_")), None)
        if last is None:
            return 0
        attempt = int(last.value["current_attempt"])
        if last.type is Type.TASK_RETRY_FAILED:
            self._was_interrupted = False  # Between two attempts.
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
        self._record(Type.TASK_RETRY_STARTED, serde.encode(self._retry_value(attempt)))
        await self.before_acting()

    async def _give_up(self, attempt: int, failure: _Failure) -> Succeeded | Failed:
        if attempt:
            self._record_failed_attempt(attempt, failure.error, due_at=0)
            failure = _retried(attempt, failure.error)
        return await self._settle(failure)

    async def _settle(self, failure: _Failure) -> Succeeded | Failed:
        if self._task.fallback is not None:
            return await self._fall_back(failure)
        if self._task.rollback is not None:
            return await self._fail_after_rollback(failure)
        return Failed(self._encoded(failure))

    def _encoded(self, failure: _Failure) -> bytes:
        return self._redacted(failure.data) or b""

    def _record_failed_attempt(self, attempt: int, error: BaseException, due_at: int) -> None:
        detail = serde.encode({"due_at": due_at, "error": error})
        self._record(Type.TASK_RETRY_FAILED, serde.encode(self._retry_value(attempt)), detail)

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
            return Succeeded(done.value, done.data or b"", may_be_cached=False)
        if done is not None:
            return Failed(done.data or b"")
        await self._begin(Type.TASK_FALLBACK_STARTED, failure)
        assert self._task.fallback is not None
        try:
            value = await self._attempt(self._task.fallback, 0, {}, "fallback/")
            value, data = await self._kept(value, f"the result of the fallback of {self._task.name!r}")
        except Exception as error:  # noqa: BLE001 - the boundary around a fallback.
            encoded = self._encoded(_Failure(error))
            self._record(Type.TASK_FALLBACK_FAILED, encoded)
            return Failed(encoded)
        self._record(Type.TASK_FALLBACK_COMPLETED, data)
        return Succeeded(value, data, may_be_cached=False)

    async def _fail_after_rollback(self, failure: _Failure) -> Failed:
        """Undo; whatever becomes of that, the call fails with the original error."""
        if self._done(Type.TASK_ROLLBACK_COMPLETED, Type.TASK_ROLLBACK_FAILED) is None:
            undone = await self._roll_back(failure)
            self._record(undone.type, undone.data)
        return Failed(self._encoded(failure))

    async def _roll_back(self, failure: _Failure) -> RolledBack:
        self._is_rolling_back = True
        await self._begin(Type.TASK_ROLLBACK_STARTED, failure)
        assert self._task.rollback is not None
        try:
            value = await self._attempt(self._task.rollback, 0, {}, "rollback/")
            return RolledBack(Type.TASK_ROLLBACK_COMPLETED, serde.encode(value))
        except Exception as error:  # noqa: BLE001 - the boundary around a rollback.
            return RolledBack(Type.TASK_ROLLBACK_FAILED, self._encoded(_Failure(error)))

    async def _begin(self, started: Type, failure: _Failure) -> None:
        if not any(event.type is started for event in self._progress):
            detail = serde.encode({"error": failure.error, "inner": failure.inner})
            self._record(started, self._task.encode_arguments(self._given.copy()), detail)
        await self.before_acting()

    def _done(self, *types: Type) -> ExecutionEvent | None:
        return next((event for event in self._progress if event.type in types), None)

    def _recorded_failure(self) -> _Failure:
        started = self._done(Type.TASK_FALLBACK_STARTED, Type.TASK_ROLLBACK_STARTED)
        assert started is not None
        return _Failure(started.detail["error"], started.detail["inner"])

    # -- one attempt

    async def _attempt(
        self, function: Callable[..., Any], timeout: float, keywords: Mapping[str, Any], part: str = ""
    ) -> Any:
        """Call user code once.

        Raises:
            ExecutionTimeoutError: It took longer than `timeout` seconds.
        """
        attempt = self.begin(part)
        try:
            if attempt is not None:
                attempt.redactor = self._redactor
            if not timeout:
                return await self._call(attempt, function, keywords)
            call = functools.partial(self._call, attempt, function, keywords)
            return await self._within(timeout, attempt, function, call)
        finally:
            if attempt is not None:
                if attempt.has_open_calls:
                    await attempt.end()
                self.end(attempt)

    async def _within(
        self,
        seconds: float,
        attempt: "Attempt | None",
        function: Callable[..., Any],
        call: Callable[[Callable[[], None]], Coroutine[Any, Any, Any]],
    ) -> Any:
        """Call it in a task of its own, and go on without it if it outlives the cancellation that follows."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        expiry: asyncio.TimerHandle | None = None
        has_expired = False

        def start_clock() -> None:  # Time spent in the queue of the threads does not count.
            nonlocal expiry
            expiry = loop.call_later(seconds, expire)

        def expire() -> None:
            nonlocal has_expired, expiry
            if work.done():
                return
            paused = attempt.take_paused_seconds() if attempt is not None else 0.0
            if paused:
                expiry = loop.call_later(paused, expire)
                return
            has_expired = True
            work.cancel()
            loop.call_later(0 if self._is_stopped_at_once(function) else self._grace_seconds, resolve, over)

        work = lineage.create_task(loop, call(start_clock), contextvars.copy_context())
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

    async def _call(
        self,
        attempt: "Attempt | None",
        function: Callable[..., Any],
        keywords: Mapping[str, Any],
        on_start: Callable[[], None] | None = None,
    ) -> Any:
        """Call it, and let nothing that it raises end more than the task: SystemExit would end the host loop."""
        self.entered(attempt)
        try:
            return await self._invoke(function, keywords, on_start)
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _is_being_cancelled():
                raise
            raise RuntimeError(f"the task raised {_describe(error)}, which would end more than itself") from error
        finally:
            self.left(attempt)

    async def _invoke(
        self, function: Callable[..., Any], keywords: Mapping[str, Any], on_start: Callable[[], None] | None
    ) -> Any:
        """Call it where it belongs: async functions on this loop, others in a thread or a process of ours."""
        arguments, parameters = self._given.copy(), self._task.parameters
        if self._task.in_process and function is self._task.func:
            return await self.run_in_process(function, {**arguments, **keywords}, on_start)
        target = function if self._instance is None else functools.partial(function, self._instance)
        if not self._is_sync(function):
            if on_start is not None:
                on_start()
            value = await parameters.call(target, arguments, keywords)
        else:
            value = await self._run_in_thread(lambda: parameters.call(target, arguments, keywords), on_start)
        return await value if hasattr(type(value), "__await__") else value  # A call that it made and handed on.

    async def _run_in_thread(self, function: Callable[[], Any], on_start: Callable[[], None] | None) -> Any:
        try:
            return await self._threads.run(function, on_start)
        except ThreadLeft:
            self.left_behind = _THREAD_LEFT
            raise

    def _is_stopped_at_once(self, function: Callable[..., Any]) -> bool:
        """Whether nobody need wait for it to clean up: a thread is left behind, a process is killed."""
        return self._is_sync(function) and not self._task.in_process

    def _is_sync(self, function: Callable[..., Any]) -> bool:
        task = self._task
        return not (task.is_async if function is task.func else inspect.iscoroutinefunction(function))

    def _timed_out(self, function: Callable[..., Any], timeout: float) -> ExecutionTimeoutError:
        text = f"Task {self._task.name} ({self._call_id}) timed out ({timeout:g}s)."
        if self._is_stopped_at_once(function):
            text += f" {_THREAD_LEFT}"
        return ExecutionTimeoutError(text)


def _retried(retries: int, error: BaseException) -> _Failure:
    """The failure of the last retry, which says how many there were."""
    shown = serde.to_display(error)["message"]  # Its own str() may fail.
    text = f"failed after {retries} {'retry' if retries == 1 else 'retries'}: {shown}"
    return _Failure(error, RetryError(text, inner_exception=error))


def _describe(error: BaseException) -> str:
    text = serde.to_display(error)["message"]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
