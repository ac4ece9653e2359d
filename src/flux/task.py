"""`@task`: makes a function a task, with its options and its types."""

import inspect
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import timedelta
from string import Formatter
from typing import Any, Concatenate, Generic, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from flux import serde
from flux.domain.definitions import (
    OutputKeeper,
    Parameters,
    TaskDefinition,
    TaskMetadata,
    output_keeper,
    secret_names,
)
from flux.domain.durations import Duration, in_seconds
from flux.domain.retry import RetryPolicy
from flux.engine import calls, concurrency
from flux.errors import InvalidValueError

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
S = TypeVar("S")
X = TypeVar("X")
Y = TypeVar("Y")
X_contra = TypeVar("X_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

Errors = type[BaseException] | tuple[type[BaseException], ...]


class TaskOptions(TypedDict, total=False):
    """What `with_options` takes, all optional.

    Durations are seconds or a `timedelta`.

    Keys:
        name: In the history; the function's name by default.
        retry_max_attempts: Attempts after the first; 3 means up to 4 calls of the function.  Default 0.
        retry_delay: Wait before the first retry.  Default 1 second.
        retry_backoff: Each further wait is this many times the one before.  Default 2.
        retry_max_delay: No wait is longer.  Default 600 seconds.
        retry_jitter: Draw each wait between zero and the computed one.  Default False.
        retry_on: Only these errors are tried again.  Default every `Exception`.
        no_retry_on: These are not.
        timeout: The longest an attempt may take; 0 for no limit.  Default 0.
        fallback: Called with the task's arguments when every attempt has failed; its result is the task's.
        rollback: Called with them when every attempt has failed and there is no fallback; the task still fails.
        pure: The task only computes or reads, so running it again is harmless: it need not wait for the disk.
        at_most_once: An attempt that was interrupted is not run again: it fails with `TaskInterruptedError`.
        cache: The result answers equal calls of every execution: for ever, or for as long as a `timedelta` says.
        metadata: The function takes a keyword `metadata` and gets a `TaskMetadata`, which has the idempotency key.
        secret_requests: Names of secrets that must be there; a function that takes a keyword `secrets` gets a dict of
            them.
        output_storage: Keeps the results; the history then has references to them.
        executor: "thread" or "process": where a `def` function runs.  In a process an `async def` one does, too, and
            it is killed at its timeout.  Default "thread".
        serializer: "pickle" also takes results and arguments that no codec holds: it pickles them, signed with the
            app's key.  Default "json".
    """

    name: str
    retry_max_attempts: int
    retry_delay: Duration
    retry_backoff: float
    retry_max_delay: Duration
    retry_jitter: bool
    retry_on: Errors
    no_retry_on: Errors
    timeout: Duration
    fallback: Callable[..., Any] | None
    rollback: Callable[..., Any] | None
    pure: bool
    at_most_once: bool
    cache: bool | timedelta
    metadata: bool
    secret_requests: Sequence[str]
    output_storage: OutputKeeper | None
    executor: Literal["thread", "process"]
    serializer: Literal["json", "pickle"]


class Task(Generic[P, R]):
    """A task: call it in a workflow's body, and its result is recorded and never computed again.

    A method is a task like any function; its object is no part of what is recorded.  `@staticmethod` and `@classmethod`
    stand above `@task`.

    Attributes:
        func: The function itself.
        name: As the history shows it.
    """

    def __init__(self, func: Callable[..., Any], options: TaskOptions, instance: Any = None) -> None:
        self.func = func
        self._options = options
        self._instance = instance  # The object of a method that was looked up on one.
        self.definition = _define(func, options, is_method=instance is not None)
        self.name = self.definition.name
        self.__name__ = getattr(func, "__name__", self.name)
        self.__qualname__ = getattr(func, "__qualname__", self.name)
        self.__module__ = getattr(func, "__module__", __name__)
        self.__doc__ = func.__doc__
        self.__wrapped__ = func

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Make a call; await what this returns.

        In a body the call is recorded.  Outside a workflow the function just runs, with its retries, unrecorded.

        Raises:
            ExecutionError: The task failed; also an instance of the original error's class.
            UnserializableValue: An argument cannot be recorded exactly.
            TypeError: The arguments do not fit the function.
        """
        return calls.call(self.definition, args, kwargs, self._instance)

    def map(
        self: "_TakesOne[X, Y]", items: Iterable[X], *, max_concurrent: int | None = None
    ) -> Coroutine[Any, Any, list[Y]]:
        """Call the task for each item, concurrently; gives the results in the order of the items.

        Args:
            items: Each is the only argument of a call.
            max_concurrent: Most calls at a time; all at once by default.

        Raises:
            ExecutionError: A call failed.  The others may finish for 2 seconds, then they are cancelled.

        Example:
            >>> sizes = await fetch.map(urls, max_concurrent=10)
        """
        coroutines = [self(item) for item in items]
        return concurrency.run_all(coroutines, max_concurrent=max_concurrent, raise_on_error=True)

    def with_options(self, **options: Unpack[TaskOptions]) -> "Task[P, R]":
        """The same task with some options changed."""
        return Task(self.func, {**self._options, **options}, self._instance)

    @overload
    def __get__(self, instance: None, owner: type) -> "Task[P, R]": ...

    @overload
    def __get__(self: "Task[Concatenate[S, Q], R]", instance: S, owner: type) -> "Task[Q, R]": ...

    def __get__(self, instance: Any, owner: type) -> Any:
        """A method is called on its object, which is no part of what is recorded."""
        return self if instance is None else Task(self.func, self._options, instance)

    def __repr__(self) -> str:
        return f"<task {self.name}>"


class _TakesOne(Protocol[X_contra, R_co]):
    """A task that can be called with one argument."""

    def __call__(self, item: X_contra, /) -> Coroutine[Any, Any, R_co]: ...


class _Decorator(Protocol):
    """What `with_options` returns: types of the function survive it."""

    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def __call__(self, func: Callable[P, R], /) -> Task[P, R]: ...


class TaskDecorator:
    """`@task`, bare or with options.

    Example:
        >>> @task
        ... async def double(x: int) -> int:
        ...     return 2 * x
        >>> @task.with_options(retry_max_attempts=3, timeout=30)
        ... async def fetch(url: str) -> bytes: ...
    """

    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...

    @overload
    def __call__(self, func: Callable[P, R], /) -> Task[P, R]: ...

    def __call__(self, func: Callable[..., Any], /) -> Any:
        return Task(func, {})

    def with_options(self, **options: Unpack[TaskOptions]) -> _Decorator:
        """Decorate with options; see `TaskOptions` for each of them.

        Raises:
            InvalidValueError: An option does not fit.
        """

        def decorate(func: Callable[..., Any], /) -> Any:
            return Task(func, options)

        return decorate


task = TaskDecorator()


def _define(func: Callable[..., Any], options: TaskOptions, *, is_method: bool = False) -> TaskDefinition:
    if isinstance(func, classmethod | staticmethod):
        kind = type(func).__name__
        raise InvalidValueError(f"@task stands above @{kind} on {func.__qualname__!r}: write @{kind} above @task")
    if not callable(func):
        raise InvalidValueError(f"@task goes on a function, not on {func!r}")
    unknown = set(options) - set(TaskOptions.__annotations__)
    if unknown:
        raise InvalidValueError(
            f"a task has no option {min(unknown)!r}: it takes {', '.join(TaskOptions.__annotations__)}"
        )
    in_process = _one_of(options, "executor", ("thread", "process")) == "process"
    if in_process and is_method:
        raise InvalidValueError(f"the method {func.__qualname__!r} cannot run in a process: make it a function")
    secrets, metadata = secret_names(options.get("secret_requests", ())), _switch(options, "metadata")
    takes_secrets = bool(secrets) and _takes(func, "secrets")
    if metadata and not _takes(func, "metadata"):
        raise InvalidValueError(
            f"metadata=True gives {func.__qualname__!r} a keyword 'metadata', which it does not take: add a parameter "
            "metadata"
        )
    injected = [*(["secrets"] if takes_secrets else []), *(["metadata"] if metadata else [])]
    name, parameters = _name(func, options), Parameters(func, skip_first=is_method, injected=injected)
    is_pickled = _one_of(options, "serializer", ("json", "pickle")) == "pickle"
    if is_pickled and in_process:
        raise InvalidValueError(
            f"{name!r} has serializer='pickle' and executor='process', but a process is handed only what has a codec: "
            "leave one of them out"
        )
    cache_seconds = _cache_seconds(options.get("cache", False))
    # What counts by the name of its class only must not find the result of another object of that class.
    takes_any = is_pickled and cache_seconds is None
    return TaskDefinition(
        name=name,
        func=func,
        parameters=parameters,
        is_async=inspect.iscoroutinefunction(func),
        is_name_template=_is_template(name, parameters),
        retry=_policy(options),
        timeout_seconds=in_seconds("timeout", options.get("timeout", 0)),
        fallback=_function(options, "fallback"),
        rollback=_function(options, "rollback"),
        pure=_switch(options, "pure"),
        at_most_once=_switch(options, "at_most_once"),
        cache_seconds=cache_seconds,
        metadata=metadata,
        secret_requests=secrets,
        takes_secrets=takes_secrets,
        in_process=in_process,
        output_storage=output_keeper(options.get("output_storage")),
        encode=serde.encode_pickled if is_pickled else serde.encode,
        encode_arguments=serde.encode_pickled_arguments if takes_any else serde.encode_arguments,
    )


def _takes(func: Callable[..., Any], name: str) -> bool:
    """Whether a function can be given a keyword of this name."""
    parameters = inspect.signature(func).parameters.values()
    named = {p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}}
    return name in named or any(p.kind is p.VAR_KEYWORD for p in parameters)


def _cache_seconds(value: Any) -> float | None:
    if isinstance(value, timedelta):
        return in_seconds("cache", value)
    if not isinstance(value, bool):
        raise InvalidValueError(f"cache is {value!r}: it is True, False, or a timedelta")
    return float("inf") if value else None


def _one_of(options: TaskOptions, name: str, choices: tuple[str, ...]) -> str:
    value: Any = options.get(name, choices[0])
    if value not in choices:
        raise InvalidValueError(f"{name} is {value!r}: it is one of {', '.join(choices)}")
    return str(value)


def _name(func: Callable[..., Any], options: TaskOptions) -> str:
    name = options.get("name", getattr(func, "__name__", type(func).__name__))
    if not isinstance(name, str) or not name:
        raise InvalidValueError(f"name is {name!r}: it is a text, and not empty")
    return name


def _is_template(name: str, parameters: Parameters) -> bool:
    try:
        fields = {
            field.partition(".")[0].partition("[")[0] for _, field, _, _ in Formatter().parse(name) if field is not None
        }
    except ValueError as error:
        raise InvalidValueError(f"name is {name!r}: {error}; write {{{{ and }}}} for braces") from None
    unknown = fields - set(parameters.names)
    if unknown:
        raise InvalidValueError(
            f"name is {name!r}, but the task has no parameter {min(unknown)!r}: it has {', '.join(parameters.names)}"
        )
    return bool(fields) or "{" in name or "}" in name  # Doubled braces stand for themselves.


def _policy(options: TaskOptions) -> RetryPolicy:
    attempts, backoff = options.get("retry_max_attempts", 0), options.get("retry_backoff", 2)
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 0:
        raise InvalidValueError(f"retry_max_attempts is {attempts!r}: it counts retries, so it is 0 or more")
    if not isinstance(backoff, int | float) or not 0 < backoff < float("inf"):
        raise InvalidValueError(f"retry_backoff is {backoff!r}: it multiplies the wait, so it is more than 0")
    return RetryPolicy(
        max_attempts=attempts,
        delay_seconds=in_seconds("retry_delay", options.get("retry_delay", 1)),
        backoff=backoff,
        max_delay_seconds=in_seconds("retry_max_delay", options.get("retry_max_delay", 600)),
        jitter=_switch(options, "retry_jitter"),
        retry_on=_errors(options, "retry_on", (Exception,)),
        no_retry_on=_errors(options, "no_retry_on", ()),
    )


def _switch(options: TaskOptions, name: str) -> bool:
    value: Any = options.get(name, False)
    if not isinstance(value, bool):
        raise InvalidValueError(f"{name} is {value!r}: it is True or False")
    return value


def _errors(
    options: TaskOptions, name: str, default: tuple[type[BaseException], ...]
) -> tuple[type[BaseException], ...]:
    value: Any = options.get(name, default)
    errors = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(error, type) and issubclass(error, BaseException) for error in errors):
        raise InvalidValueError(f"{name} is {value!r}: it is an exception class, or a tuple of them")
    return errors


def _function(options: TaskOptions, name: str) -> Callable[..., Any] | None:
    """A task given as a fallback or rollback is called as the function that it is."""
    handler: Any = options.get(name)
    if handler is not None and not callable(handler):
        raise InvalidValueError(f"{name} is {handler!r}: it is a function that takes the task's arguments")
    return handler.func if isinstance(handler, Task) else handler


__all__ = ["Task", "TaskMetadata", "TaskOptions", "task"]
