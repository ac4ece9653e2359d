"""What the decorators make of a function: all that the engine needs to run it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flux import serde
from flux.domain.retry import RetryPolicy

_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_VAR_POSITIONAL = inspect.Parameter.VAR_POSITIONAL
_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


@dataclass(slots=True, eq=False)  # Not frozen: that would cost more than the rest of making a call.
class Arguments:
    """The arguments of one call.

    Args:
        named: By parameter name, as history shows them.
        data: `named`, encoded: what replay compares.
        instance: The object a method is bound to; it is no part of what is recorded.
    """

    named: Mapping[str, Any]
    data: bytes
    instance: Any = None

    def copy(self) -> Mapping[str, Any]:
        """The arguments by name, as a replay would give them: nobody else holds these objects."""
        if all(map(serde.is_plain, self.named.values())):
            return self.named
        return serde.decode_arguments(self.data, dict(self.named))


class Parameters:
    """A function's parameters: binds calls to names, and calls it with them again."""

    __slots__ = ("_names", "_signature", "_simple")

    def __init__(self, func: Callable[..., Any], *, skip_first: bool) -> None:
        parameters = list(inspect.signature(func).parameters.values())[1 if skip_first else 0 :]
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

    def call(self, func: Callable[..., Any], named: Mapping[str, Any]) -> Any:
        """Call a function with these arguments, by position where possible: a fallback may name them otherwise."""
        if self._simple and len(named) == len(self._names):
            return func(*named.values())
        bound = inspect.BoundArguments(self._signature, dict(named))
        return func(*bound.args, **bound.kwargs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDefinition:
    """A task, as its decorator and options describe it.

    Args:
        name: As it stands in the history; may be a template over the arguments, like "get_{repo}".
        func: What an attempt calls.
        parameters: Of `func`, without the `self` of a method.
        retry: When a failed attempt is tried again.
        timeout_seconds: The longest an attempt may take; 0 for no limit.
        fallback: Called with the task's own arguments when every attempt has failed; its result is the task's.
        rollback: Called with them when every attempt has failed and there is no fallback; the task still fails.
        pure: Running it again is harmless and changes nothing outside, so it need not wait for the disk.
    """

    name: str
    func: Callable[..., Any]
    parameters: Parameters
    is_name_template: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout_seconds: float = 0.0
    fallback: Callable[..., Any] | None = None
    rollback: Callable[..., Any] | None = None
    pure: bool = False

    def name_of(self, arguments: Arguments) -> str:
        """The name of a call with these arguments."""
        return self.name.format(**arguments.named) if self.is_name_template else self.name

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any], instance: Any = None) -> Arguments:
        """Bind and encode the arguments of a call.

        Raises:
            TypeError: They do not fit the task's parameters.
            UnserializableValue: One of them cannot be recorded exactly.
        """
        named = self.parameters.bind(args, kwargs)
        return Arguments(named, serde.encode_arguments(named), instance)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowDefinition:
    """A workflow, as its decorator and options describe it.

    Args:
        name: By which executions, commands and other workflows know it.
        func: The body; takes the execution context.
        version: Informs, and unblocks diverged executions when it changes.
        location: Where the code is, so that an execution can be continued without naming it again.
    """

    name: str
    func: Callable[..., Any]
    version: str
    location: str
