"""Fakes: what a task or a child workflow does, replaced for a test; its name, parameters and retries are kept."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from flux.domain.definitions import TaskMetadata
from flux.domain.execution_context import ExecutionContext
from flux.engine.launcher import MISSING
from flux.errors import InvalidValueError
from flux.task import Task
from flux.workflow import Workflow

_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD


@dataclass(frozen=True, slots=True)
class FakedCall:
    """One attempt that reached a fake.

    Args:
        arguments: By name; what Flux gives (`metadata`, `secrets`) and the object of a method are left out.
        execution_id: Of the execution; empty outside a workflow.
        call_id: Of the call; empty outside a workflow and for child workflows.
        attempt: From 1.
        key: The idempotency key of the call.
    """

    arguments: Mapping[str, Any]
    execution_id: str
    call_id: str
    attempt: int
    key: str


# Calls a function with the arguments of the call that is to be answered.
Ask = Callable[[Callable[..., Any]], Any]
# Gives the n-th answer, from 0.
Answer = Callable[[int, Ask], Any]


class Faked:
    """What a fake was asked for.

    Attributes:
        calls: The attempts, in order.  One that was interrupted by a crash and made again is there twice.
    """

    def __init__(self, name: str, answer: Answer) -> None:
        self.name = name
        self.calls: list[FakedCall] = []
        self._answer = answer
        self._numbers: dict[tuple[str, int], int] = {}  # What is made again after a crash gets the same answer.

    def answer(self, call: FakedCall, ask: Ask) -> Any:
        """Answer a call."""
        number = self._numbers.setdefault((call.key, call.attempt), len(self._numbers))
        return self._answer(number, ask)

    @property
    def state(self) -> Any:
        """How far it has come; set it to go back there."""
        return list(self.calls), dict(self._numbers)

    @state.setter
    def state(self, state: Any) -> None:
        calls, numbers = state
        self.calls[:], self._numbers = calls, dict(numbers)

    def __repr__(self) -> str:
        return f"<fake {self.name}: {len(self.calls)} calls>"


active: list[Faked] = []  # The outermost first.


@contextmanager
def fake(
    target: Task[..., Any] | Workflow[Any, Any],
    *,
    returns: Any = MISSING,
    raises: BaseException | type[BaseException] | None = None,
    script: Sequence[Any] | None = None,
    calls: Callable[..., Any] | None = None,
) -> Iterator[Faked]:
    """Put something else in the place of what a task does; give exactly one of the four.

    Name, parameters, retries, timeout, fallback and rollback stay; secrets are not asked for.  Fakes may be nested: the
    innermost counts.  A copy that `with_options` made before is a task of its own, and not faked.

    Args:
        target: A task, or a workflow that is called as a child.
        returns: The result of every call.
        raises: The error of every call.
        script: Each attempt takes the next item; an item that is an error is raised.
        calls: Called with the arguments instead, and with `metadata` if it has a parameter of that name; sync or async.

    Raises:
        InvalidValueError: Not exactly one was given, or the target is no task and no workflow.

    Example:
        >>> with fake(charge, script=[ConnectionError("no answer"), "receipt 1"]) as charged:
        ...     checkout.run({"order": 7})
        >>> assert [call.arguments["order"] for call in charged.calls] == [7, 7]
    """
    if not isinstance(target, Task | Workflow):
        raise InvalidValueError(f"a fake of {target!r}: give it a task, or a workflow")
    faked = Faked(target.name, _answer(target.name, returns, raises, script, calls))
    before = dict(vars(target))
    active.append(faked)
    if isinstance(target, Task):
        vars(target).update(_stand_in(target, faked))
    else:
        vars(target)["definition"] = replace(target.definition, func=_body(target.func, faked))
    try:
        yield faked
    finally:
        vars(target).update(before)
        active[:] = [each for each in active if each is not faked]


def _answer(
    name: str, returns: Any, raises: Any, script: Sequence[Any] | None, calls: Callable[..., Any] | None
) -> Answer:
    if sum((returns is not MISSING, raises is not None, script is not None, calls is not None)) != 1:
        raise InvalidValueError(f"a fake of {name!r} takes exactly one of returns, raises, script and calls")
    if calls is not None:
        return lambda _, ask: ask(calls)

    def answer(number: int, _: Ask) -> Any:
        if script is not None and number >= len(script):
            raise AssertionError(
                f"the fake of {name!r} is asked for answer {number + 1}, and its script has {len(script)}: add to the "
                "script, or look why it is called more often than you expected"
            )
        item = script[number] if script is not None else raises if raises is not None else returns
        if isinstance(item, BaseException) or (isinstance(item, type) and issubclass(item, BaseException)):
            raise item.with_traceback(None) if isinstance(item, BaseException) else item
        return item

    return answer


def _stand_in(task: Task[..., Any], faked: Faked) -> dict[str, Any]:
    """The attributes of a task that asks the fake; made anew, so that methods looked up on it ask, too."""
    signature = inspect.signature(task.func)
    injected = {"metadata"} if task.definition.metadata else set()
    injected |= {"secrets"} if task.definition.secret_requests else set()
    own = signature.replace(parameters=[p for p in signature.parameters.values() if p.name not in injected])
    with_metadata = "metadata" not in own.parameters  # Else it is one of the caller's own.

    async def answer(*args: Any, **kwargs: Any) -> Any:
        metadata: TaskMetadata | None = kwargs.pop("metadata", None) if with_metadata else None
        named = dict(own.bind(*args, **kwargs).arguments)
        if args and getattr(type(args[0]), task.__name__, None) is task:  # The object of a method is no part of a call.
            named.pop(next(iter(own.parameters)))
            args = args[1:]
        call = _call(named, metadata, len(faked.calls))
        faked.calls.append(call)

        def ask(function: Callable[..., Any]) -> Any:
            takes = metadata is not None and "metadata" in inspect.signature(function).parameters
            return function(*args, **kwargs, **({"metadata": metadata} if takes else {}))

        value = faked.answer(call, ask)
        return await value if inspect.isawaitable(value) else value

    functools.update_wrapper(answer, task.func)
    parameters = list(own.parameters.values())
    if with_metadata:
        at = len(parameters) - (bool(parameters) and parameters[-1].kind is _VAR_KEYWORD)
        parameters.insert(at, inspect.Parameter("metadata", _KEYWORD_ONLY))
    answer.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    options: Any = {**task._options, "metadata": with_metadata, "secret_requests": (), "executor": "thread"}
    made = vars(Task(answer, options, task._instance))
    return {name: made[name] for name in ("func", "definition", "_options")}


def _call(named: dict[str, Any], metadata: TaskMetadata | None, number: int) -> FakedCall:
    if metadata is None:
        return FakedCall(named, "", "", 1, str(number))
    return FakedCall(named, metadata.execution_id, metadata.task_id, metadata.attempt, metadata.idempotency_key)


def _body(func: Callable[..., Any], faked: Faked) -> Callable[..., Any]:
    """A body that asks the fake; however often it is replayed, one execution is one call."""

    async def body(ctx: ExecutionContext[Any]) -> Any:
        call = FakedCall({"input": ctx.input}, ctx.execution_id, "", 1, ctx.execution_id)
        if all(each.key != call.key for each in faked.calls):
            faked.calls.append(call)
        value = faked.answer(call, lambda function: function(ctx.input))
        return await value if inspect.isawaitable(value) else value

    return functools.update_wrapper(body, func)
