"""`@workflow`: makes a function a workflow, which can be run, killed and continued."""

import functools
import hashlib
import inspect
import itertools
import sys
import typing
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypedDict, TypeVar, Unpack, overload

from flux import serde
from flux.domain.attributes import check_labels
from flux.domain.definitions import Arguments, OutputKeeper, WorkflowDefinition, output_keeper, secret_names
from flux.domain.execution_context import ExecutionContext
from flux.engine import calls, launcher
from flux.engine.calls import ChildRequest
from flux.engine.launcher import MISSING, ExecutionHandle, Missing
from flux.errors import BodyError, InvalidInputError, InvalidValueError, WorkflowNotFoundError

T = TypeVar("T")
R = TypeVar("R")


class WorkflowOptions(TypedDict, total=False):
    """What `with_options` takes, all optional.

    Keys:
        name: By which executions, commands and other workflows know it; the function's name by default.
        version: Of the code; a digest of the function's source by default.
        secret_requests: Names of secrets that must be there before an execution starts.  The body does not get them:
            each task requests those that it uses.
        output_storage: Keeps the result; `ctx.output` is then the reference to it.
        labels: What a worker must have to run its executions, as in {"gpu": "a100"}.
    """

    name: str
    version: str
    secret_requests: Sequence[str]
    output_storage: OutputKeeper | None
    labels: Mapping[str, str]


class Workflow(Generic[T, R]):
    """A workflow: a body that decides, while tasks act.

    Attributes:
        func: The function itself.
        name: By which it is known.
    """

    def __init__(self, func: Callable[..., Any], options: WorkflowOptions) -> None:
        self.func = func
        self._options = options
        self.definition = _define(func, options)
        self.name = self.definition.name
        self.__name__ = getattr(func, "__name__", self.name)
        self.__qualname__ = getattr(func, "__qualname__", self.name)
        self.__module__ = getattr(func, "__module__", __name__)
        self.__doc__ = func.__doc__
        self.__wrapped__ = func
        _workflows[self.name, next(_numbers)] = self

    def __call__(self, input: T | Missing = MISSING) -> Coroutine[Any, Any, R]:  # noqa: A002
        """Execute it as a child of the workflow in whose body this is awaited; gives its result.

        The child has an id and a history of its own.  It is cancelled with its parent.

        Args:
            input: What `ctx.input` is in the child; checked against its annotation before anything is recorded.

        Raises:
            ExecutionError: The child failed; also an instance of the original error's class.
            ExecutionCancelledError: Somebody else cancelled the child.
            InvalidInputError: The input does not fit.
            BodyError: This is not awaited in the body of a workflow.

        Example:
            >>> receipt = await charge_card({"amount": 5})
        """
        return call_child(self.definition, input)

    def run(
        self,
        input: T | Missing = MISSING,  # noqa: A002
        *,
        execution_id: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> ExecutionContext[T]:
        """Run an execution in this process until it is finished or paused.

        With an id it is start-or-continue: an unknown id is started; a known one is continued if it was interrupted,
        and returned as it is when it is finished or paused.  Without an input, a known id is continued or, when
        paused, resumed with None.

        Args:
            input: What `ctx.input` is; checked against the body's annotation.
            execution_id: By which to know it; a new id by default.
            attributes: To find it by, at most 20 texts by name.  They are recorded when it is created: for an execution
                that exists they are neither changed nor compared.

        Returns:
            The execution; look at `state` and `output`.  A failed execution is returned, not raised.

        Raises:
            InvalidInputError: The input does not fit, or the execution was started with another one.
            InvalidValueError: An attribute is none: too long, or no text.
            ExecutionContextNotFoundError: There is no such execution, and no input to start one.
            NonDeterminismError: The code does not fit the execution's history.

        Example:
            >>> ctx = checkout.run({"cart": 7}, execution_id="cart-7", attributes={"customer": "7"})
            >>> ctx.output
        """
        self._refuse_in_body("run")
        return launcher.current().run(self.definition, input, execution_id, attributes)

    async def run_async(
        self,
        input: T | Missing = MISSING,  # noqa: A002
        *,
        execution_id: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> ExecutionContext[T]:
        """`run`, on the running event loop."""
        self._refuse_in_body("run_async")
        return await launcher.current().run_async(self.definition, input, execution_id, attributes)

    def resume(self, execution_id: str, input: Any = None, *, name: str | None = None) -> ExecutionContext[T]:  # noqa: A002
        """Answer the oldest open pause of an execution, and run it on.

        Args:
            execution_id: Which execution.
            input: What `await pause(...)` returns in the body.
            name: Answer the pause of this name; so a repeat cannot answer the next one.

        Raises:
            ExecutionContextNotFoundError: There is no such execution.
            ExecutionConflictError: It is not paused, or it belongs to another workflow.
        """
        self._refuse_in_body("resume")
        return launcher.current().resume(self.definition, execution_id, input, name)

    async def resume_async(
        self,
        execution_id: str,
        input: Any = None,  # noqa: A002
        *,
        name: str | None = None,
    ) -> ExecutionContext[T]:
        """`resume`, on the running event loop."""
        self._refuse_in_body("resume_async")
        return await launcher.current().resume_async(self.definition, execution_id, input, name)

    def start(
        self,
        input: T | Missing = MISSING,  # noqa: A002
        *,
        execution_id: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> ExecutionHandle:
        """Start an execution and return at once; it is recorded durably when this returns.

        It runs on the running event loop, or on a thread of Flux's own where there is none.
        """
        self._refuse_in_body("start")
        return launcher.current().start(self.definition, input, execution_id, attributes)

    def execution(self, execution_id: str) -> ExecutionHandle:
        """A handle on an execution of this workflow, to signal it, to cancel it, or to run it on.

        Raises:
            ExecutionContextNotFoundError: There is no such execution.
            ExecutionConflictError: It belongs to another workflow.

        Example:
            >>> checkout.execution("cart-7").signal("paid", 5)
        """
        self._refuse_in_body("execution")
        return launcher.current().execution(self.definition, execution_id)

    def signal(self, execution_id: str, name: str, value: Any = None, *, client_id: str | None = None) -> None:
        """Send a signal to an execution; durable when this returns.

        Whoever runs the execution delivers it, once, to the next `wait_for_signal(name)`; one that is sent early
        waits.  This does not run an execution that nobody runs: `run(execution_id=...)` does.

        Args:
            execution_id: Which execution.
            name: Of the signal.
            value: What `wait_for_signal` returns.
            client_id: Of this signal: a repeat with the same one is ignored.

        Raises:
            ExecutionContextNotFoundError: There is no such execution.
            ExecutionConflictError: It is finished, or belongs to another workflow.
            UnserializableValue: The value cannot be recorded.
        """
        self._refuse_in_body("signal")
        launcher.current().signal(self.definition, execution_id, name, value, client_id)

    def cancel(self, execution_id: str, *, now: bool = False) -> ExecutionContext[T]:
        """Cancel an execution, and run it until its clean-up is over.

        The body is told by `asyncio.CancelledError` where it awaits; a body that swallows it goes on.

        Args:
            execution_id: Which execution.
            now: End it and its children without that: the body is not told, nothing is rolled back, and tasks that
                run are cancelled and not waited for.  It ends whatever it does, also if it is blocked.

        Raises:
            ExecutionContextNotFoundError: There is no such execution.
            ExecutionConflictError: It is finished, or belongs to another workflow.
        """
        self._refuse_in_body("cancel")
        return launcher.current().cancel(self.definition, execution_id, now=now)

    async def cancel_async(self, execution_id: str, *, now: bool = False) -> ExecutionContext[T]:
        """`cancel`, on the running event loop."""
        self._refuse_in_body("cancel_async")
        return await launcher.current().cancel_async(self.definition, execution_id, now=now)

    def with_options(self, **options: Unpack[WorkflowOptions]) -> "Workflow[T, R]":
        """The same workflow with some options changed."""
        return Workflow(self.func, {**self._options, **options})

    def _refuse_in_body(self, method: str) -> None:
        if calls.current_body() is not None:
            instead = f"'await {self.__name__}(...)' executes it as a child, or " if method in _STARTING else ""
            raise BodyError(
                f"{self.__name__}.{method}() was called in the body of a workflow, where it would run again at every "
                f"replay: {instead}do it in a @task"
            )

    def __repr__(self) -> str:
        return f"<workflow {self.name}>"


class _Decorator(Protocol):
    """What `with_options` returns: types of the function survive it."""

    @overload
    def __call__(self, func: Callable[[ExecutionContext[T]], Coroutine[Any, Any, R]], /) -> Workflow[T, R]: ...

    @overload
    def __call__(self, func: Callable[[ExecutionContext[T]], R], /) -> Workflow[T, R]: ...


class WorkflowDecorator:
    """`@workflow`, bare or with options.

    Example:
        >>> @workflow
        ... async def greet(ctx: ExecutionContext[str]) -> str:
        ...     return await say_hello(ctx.input)
    """

    @overload
    def __call__(self, func: Callable[[ExecutionContext[T]], Coroutine[Any, Any, R]], /) -> Workflow[T, R]: ...

    @overload
    def __call__(self, func: Callable[[ExecutionContext[T]], R], /) -> Workflow[T, R]: ...

    def __call__(self, func: Callable[..., Any], /) -> Any:
        return Workflow(func, {})

    def with_options(self, **options: Unpack[WorkflowOptions]) -> _Decorator:
        """Decorate with options; see `WorkflowOptions` for each of them."""

        def decorate(func: Callable[..., Any], /) -> Any:
            return Workflow(func, options)

        return decorate


workflow = WorkflowDecorator()

_VARIADIC = frozenset({inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD})
_STARTING = frozenset({"run", "run_async", "start"})

# By name and in order of definition, as far as they are loaded; for `call("name", …)`.  A copy with other options, when
# it is dropped, leaves the original of the same name.
_workflows: weakref.WeakValueDictionary[tuple[str, int], Workflow[Any, Any]] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def find_workflow(name: str) -> Workflow[Any, Any]:
    """The workflow of this name that was defined last.

    Raises:
        WorkflowNotFoundError: None is loaded.
    """
    loaded: dict[tuple[str, int], Workflow[Any, Any]] = dict(_workflows.items())
    found = [key for key in loaded if key[0] == name]
    if not found:
        known = ", ".join(sorted({each for each, _ in loaded})) or "none"
        raise WorkflowNotFoundError(
            f"no workflow named {name!r} is loaded (loaded are: {known}): import the module that defines it"
        )
    return loaded[max(found)]


async def call_child(definition: WorkflowDefinition, value: Any) -> Any:
    """See `Workflow.__call__`."""
    body = calls.current_body()
    if body is None:
        raise BodyError(
            f"the workflow {definition.name!r} was awaited outside the body of a workflow: {definition.name}.run(...) "
            f"runs it, and 'await {definition.name}.run_async(...)' does where an event loop runs"
        )
    checked = check_input(definition, value)
    request, arguments = ChildRequest(definition, serde.encode(checked)), {"input": checked}
    return await body.call(request, Arguments(arguments, serde.encode_arguments(arguments)))


def check_input(definition: WorkflowDefinition, value: Any) -> Any:
    """An input as the workflow's annotation has it.  No input is None, and checks nothing.

    Raises:
        InvalidInputError: It does not fit.
    """
    if value is MISSING or value is None:
        return None
    try:
        return serde.validate(input_annotation(definition), value)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"the input does not fit the workflow {definition.name!r}: {error}; give it what its ExecutionContext[…] "
            "says"
        ) from None


def encode_input(definition: WorkflowDefinition, value: Any) -> bytes:
    """An input, checked and encoded.

    Raises:
        InvalidInputError: It does not fit.
        UnserializableValue: It cannot be recorded.
    """
    return serde.encode(check_input(definition, value))


def _define(func: Callable[..., Any], options: WorkflowOptions) -> WorkflowDefinition:
    if not callable(func):
        raise InvalidValueError(f"@workflow goes on a function, not on {func!r}")
    unknown = set(options) - set(WorkflowOptions.__annotations__)
    if unknown:
        raise InvalidValueError(
            f"a workflow has no option {min(unknown)!r}: it takes {', '.join(WorkflowOptions.__annotations__)}"
        )
    parameters = list(inspect.signature(func).parameters.values())
    if not parameters or any(each.default is each.empty and each.kind not in _VARIADIC for each in parameters[1:]):
        name = getattr(func, "__name__", "workflow")
        raise InvalidValueError(
            f"a workflow takes its execution context and nothing else: write {name}(ctx: ExecutionContext)"
        )
    definition = WorkflowDefinition(
        name=_text("name", options.get("name", getattr(func, "__name__", type(func).__name__))),
        func=func,
        version=_text("version", options["version"]) if "version" in options else _digest(func),
        location=_location(func),
        secret_requests=secret_names(options.get("secret_requests", ())),
        output_storage=output_keeper(options.get("output_storage")),
        labels=check_labels(options.get("labels", {})),
        encode_input=lambda value: encode_input(definition, value),
    )
    return definition


def _text(option: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidValueError(f"{option} is {value!r}: it is a text, and not empty")
    return value


def input_annotation(definition: WorkflowDefinition) -> Any:
    """`T` of the body's `ExecutionContext[T]`; `Any` where it is not said.

    Looked up when an execution is started, not when the workflow is defined, so that it may name classes that are
    defined further down.
    """
    try:
        return _input_annotation(definition.func)
    except Exception:  # noqa: BLE001 - an annotation that cannot be looked up checks nothing.
        return Any


@functools.lru_cache(maxsize=1024)  # What fails is not kept.
def _input_annotation(func: Callable[..., Any]) -> Any:
    first = next(iter(inspect.signature(func).parameters))
    hint = typing.get_type_hints(func, include_extras=True).get(first)
    arguments = typing.get_args(hint) if typing.get_origin(hint) is ExecutionContext else ()
    return arguments[0] if arguments else Any


def _digest(func: Callable[..., Any]) -> str:
    try:
        source = inspect.getsource(func).encode()
    except (OSError, TypeError):
        code = getattr(func, "__code__", None)
        source = code.co_code if code is not None else repr(func).encode()
    return hashlib.blake2b(source, digest_size=8).hexdigest()


def _location(func: Callable[..., Any]) -> str:
    """The module's name if it can be imported, else its file: enough to find the workflow again."""
    module = sys.modules.get(func.__module__)
    file = getattr(module, "__file__", None)
    is_package_member = getattr(module, "__spec__", None) is not None and "." in func.__module__
    if file is None or is_package_member:
        return func.__module__
    return str(Path(file).resolve())


__all__ = ["Workflow", "WorkflowOptions", "encode_input", "find_workflow", "input_annotation", "workflow"]
