"""What the decorators make of a function: all that the engine needs to run it."""

import hashlib
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flux import serde
from flux.domain.attributes import missing_labels
from flux.domain.retry import RetryPolicy
from flux.errors import InvalidValueError

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_VAR_POSITIONAL = inspect.Parameter.VAR_POSITIONAL
_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


@dataclass(slots=True, eq=False)  # Not frozen: that would cost more than the rest of making a call.
class Arguments:
    """The arguments of one call.

    Args:
        named: By parameter name, as history shows them.
        data: `named`, encoded: what replay compares; empty where nothing is recorded.
        instance: The object a method is bound to; it is no part of what is recorded.
    """

    named: Mapping[str, Any]
    data: bytes
    instance: Any = None

    def copy(self) -> Mapping[str, Any]:
        """The arguments by name, as a replay would give them: nobody else holds these objects."""
        if not self.data or serde.PLAIN.issuperset(map(type, self.named.values())):
            return self.named
        return serde.decode_arguments(self.data, dict(self.named))


class Parameters:
    """A function's parameters: binds calls to names, and calls it with them again.

    Args:
        skip_first: Whether the first is the object of a method.
        injected: Parameters that Flux gives, not the caller: no call binds them.
    """

    __slots__ = ("_names", "_signature", "_simple")

    def __init__(self, func: Callable[..., Any], *, skip_first: bool, injected: Collection[str] = ()) -> None:
        parameters = list(inspect.signature(func).parameters.values())[1 if skip_first else 0 :]
        parameters = [parameter for parameter in parameters if parameter.name not in injected]
        self._signature = inspect.Signature(parameters)
        self._names = tuple(p.name for p in parameters)
        # Most functions: every parameter can be named, so binding needs no inspection.
        self._simple = not any(p.kind in {_POSITIONAL_ONLY, _VAR_POSITIONAL, _VAR_KEYWORD} for p in parameters)
        self._simple = self._simple and all(p.kind is not inspect.Parameter.KEYWORD_ONLY for p in parameters)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in order."""
        return self._names

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Name the arguments.

        Raises:
            TypeError: They do not fit the function, as when it is called directly.
        """
        if self._simple and not kwargs and len(args) == len(self._names):
            return dict(zip(self._names, args, strict=True))
        return dict(self._signature.bind(*args, **kwargs).arguments)

    def with_defaults(self, named: Mapping[str, Any]) -> Mapping[str, Any]:
        """The arguments, with those that the caller left to the function."""
        bound = inspect.BoundArguments(self._signature, dict(named))
        bound.apply_defaults()
        return bound.arguments

    def call(self, func: Callable[..., Any], named: Mapping[str, Any], injected: Mapping[str, Any]) -> Any:
        """Call a function with these arguments, by position where possible: a fallback may name them otherwise.

        Args:
            injected: Further keywords, that no caller gave.
        """
        if self._simple and len(named) == len(self._names):
            return func(*named.values(), **injected)
        bound = inspect.BoundArguments(self._signature, dict(named))
        return func(*bound.args, **bound.kwargs, **injected)


class OutputKeeper(Protocol):
    """What keeps results outside the history: an `OutputStorage`."""

    def store(self, reference_id: str, value: Any, /) -> Any:
        """Keep a value, and return the reference that the history keeps."""
        ...

    def retrieve(self, reference: Any, /) -> Any:
        """The value of a reference."""
        ...


def output_keeper(value: object) -> OutputKeeper | None:
    """The option `output_storage`, checked.

    Raises:
        InvalidValueError: It cannot store and retrieve.
    """
    is_one = all(callable(getattr(value, name, None)) for name in ("store", "retrieve")) and not isinstance(value, type)
    if value is not None and not is_one:
        raise InvalidValueError(
            f"output_storage is {value!r}: it is an object with store() and retrieve(), such as a "
            "flux.output_storage.LocalFileStorage"
        )
    return value  # type: ignore[return-value]


def keep(keeper: OutputKeeper, reference_id: str, value: Any) -> Any:
    """Keep a value; gives the reference to it.

    Raises:
        InvalidValueError: The storage gave something else.
    """
    reference = keeper.store(reference_id, value)
    if not is_reference(reference):
        raise InvalidValueError(
            f"store() of the output storage {keeper!r} returned {reference!r}: it returns an OutputStorageReference"
        )
    return reference


def is_reference(value: Any) -> bool:
    """Whether this is what an output storage gives for a value, not the value itself."""
    return hasattr(value, "reference_id")


def secret_names(value: object) -> tuple[str, ...]:
    """The option `secret_requests`, checked.

    Raises:
        InvalidValueError: It is not a list of names.
    """
    if isinstance(value, str) or not isinstance(value, Iterable) or not all(isinstance(each, str) for each in value):
        raise InvalidValueError(f"secret_requests is {value!r}: it is a list of names of secrets, like ['API_KEY']")
    return tuple(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMetadata:
    """What a task with `metadata=True` is told about its call.

    Args:
        task_id: The call's id.
        task_name: The task's name, as the history shows it.
        execution_id: Of the execution; empty outside a workflow.
        attempt: From 1; it goes on after an interruption.
        idempotency_key: The same in every attempt and after every crash, and of no other call: pass it to outside
            systems that recognise a repeat by such a key.
    """

    task_id: str
    task_name: str
    execution_id: str
    attempt: int
    idempotency_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """A task, as its decorator and options describe it.

    Args:
        name: As it stands in the history; may be a template over the arguments, like "get_{repo}".
        func: What an attempt calls.
        parameters: Of `func`, without the `self` of a method.
        is_async: Whether `func` is an `async def`, and runs on the loop.
        retry: When a failed attempt is tried again.
        timeout_seconds: The longest an attempt may take; 0 for no limit.
        fallback: Called with the task's own arguments when every attempt has failed; its result is the task's.
        rollback: Called with them when every attempt has failed and there is no fallback; the task still fails.
        pure: Running it again is harmless and changes nothing outside, so it need not wait for the disk.
        at_most_once: An attempt that was interrupted is not run again, but fails.
        cache_seconds: How long the result answers equal calls of any execution; None: it does not.
        metadata: Whether `func` takes a keyword `metadata`, a `TaskMetadata`.
        secret_requests: Names of the secrets that must be there.
        takes_secrets: Whether `func` takes them as a keyword `secrets`, a dict.
        in_process: Whether `func` runs in a child process.
        output_storage: Keeps the results, of which the history then has references.
        encode: Encodes the results.
        encode_arguments: Encodes the arguments.
    """

    name: str
    func: Callable[..., Any]
    parameters: Parameters
    is_async: bool
    is_name_template: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_seconds: float = 0.0
    fallback: Callable[..., Any] | None = None
    rollback: Callable[..., Any] | None = None
    pure: bool = False
    at_most_once: bool = False
    cache_seconds: float | None = None
    metadata: bool = False
    secret_requests: tuple[str, ...] = ()
    takes_secrets: bool = False
    in_process: bool = False
    output_storage: OutputKeeper | None = None
    encode: Callable[..., bytes] = serde.encode
    encode_arguments: Callable[[Mapping[str, Any]], bytes] = serde.encode_arguments

    def cache_key(self, arguments: Arguments) -> bytes:
        """What equal calls of this task have in common, in whatever execution."""
        function = f"{self.func.__module__}:{getattr(self.func, '__qualname__', '')}:{self.name_of(arguments)}"
        return hashlib.blake2b(function.encode() + b"\0" + arguments.data, digest_size=32).digest()

    def name_of(self, arguments: Arguments) -> str:
        """The name of a call with these arguments."""
        return self._filled_in(arguments.named) if self.is_name_template else self.name

    def _filled_in(self, named: Mapping[str, Any]) -> str:
        try:
            return self.name.format(**self.parameters.with_defaults(named))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise InvalidValueError(
                f"the name {self.name!r} cannot be made of the task's arguments: {type(error).__name__}: {error}; call "
                "it with what fits, or choose another name"
            ) from error

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any], instance: Any = None) -> Arguments:
        """Bind and encode the arguments of a call.

        Raises:
            TypeError: They do not fit the task's parameters.
            UnserializableValue: One of them cannot be recorded exactly.
        """
        named: Mapping[str, Any] = self.parameters.bind(args, kwargs)
        data = self.encode_arguments(named)
        if serde.NAME_MARK in data:
            named = serde.decode_arguments(data, named)  # As they are now: the body may go on to change them.
        return Arguments(named, data, instance)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowDefinition:
    """A workflow, as its decorator and options describe it.

    Args:
        name: By which executions, commands and other workflows know it.
        func: The body; takes the execution context.
        version: Informs, and unblocks diverged executions when it changes.
        location: Where the code is, so that an execution can be continued without naming it again.
        secret_requests: Secrets that must be there before an execution starts.
        output_storage: Keeps the result, of which the history then has a reference.
        labels: What a worker that runs it must have.
        encode_input: Encodes an input as its annotation has it, or raises InvalidInputError.
    """

    name: str
    func: Callable[..., Any]
    version: str
    location: str
    secret_requests: tuple[str, ...] = ()
    output_storage: OutputKeeper | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    encode_input: Callable[[Any], bytes] | None = None

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether a worker with these labels may run it."""
        return not missing_labels(self.labels, labels)

    def start_digest(self, input_data: bytes) -> bytes:
        """What tells a repeated start from another one of the same id."""
        return start_digest(self.name, input_data)


def start_digest(workflow: str, input_data: bytes) -> bytes:
    """What tells a repeated start of the workflow of this name from another one of the same id."""
    return hashlib.blake2b(workflow.encode() + b"\0" + input_data, digest_size=16).digest()
