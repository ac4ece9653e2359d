"""Where in an attempt code runs: the path of asyncio tasks from the attempt's own to the one that runs now.

A task body is not deterministic, but it usually creates its asyncio tasks in the same order each time.  So a call made
inside it is known again by that path and a count, whatever its branches do in between.
"""

import asyncio
import contextvars
import weakref
from asyncio import events as asyncio_events
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flux.engine.attempt import Attempt

_ATTRIBUTE = "_flux_branch"
# Beside the attribute of asyncio tasks, which wins: for threads, and for tasks that start before they are returned.
_BRANCH: contextvars.ContextVar["Branch | None"] = contextvars.ContextVar("flux_branch", default=None)


class Branch:
    """One asyncio task of an attempt.

    Attributes:
        attempt: Whose.
    """

    __slots__ = ("_calls", "_children", "_creator", "_path", "attempt")

    def __init__(self, attempt: "Attempt", path: str = "", creator: "Branch | None" = None) -> None:
        self.attempt = attempt
        self._creator = creator
        self._path = path
        self._children = self._calls = 0

    @property
    def ancestors(self) -> "Iterator[Branch]":
        """The branch itself, and those that created it."""
        branch: Branch | None = self
        while branch is not None:
            yield branch
            branch = branch._creator

    def child(self) -> "Branch":
        """The branch of the next asyncio task that this one creates."""
        self._children += 1
        path = f"{self._path}.{self._children}" if self._path else str(self._children)
        return Branch(self.attempt, path, self)

    def next_call(self) -> str:
        """The next call of this branch, as a name that no other branch of the attempt uses."""
        self._calls += 1
        return f"{self._path}:{self._calls}" if self._path else str(self._calls)


def current() -> Branch | None:
    """The branch that runs at this moment on this thread."""
    loop = asyncio_events._get_running_loop()
    task = asyncio.current_task(loop) if loop is not None else None
    return getattr(task, _ATTRIBUTE, None) or _BRANCH.get()


def enter(branch: Branch) -> None:
    """Make the running asyncio task the first branch of an attempt."""
    setattr(asyncio.current_task(), _ATTRIBUTE, branch)
    _BRANCH.set(branch)


def exit(task: "asyncio.Task[Any]") -> None:  # noqa: A001 - of `enter`.
    """The asyncio task that runs belongs to no attempt any more: what the engine does in it is its own."""
    setattr(task, _ATTRIBUTE, None)
    _BRANCH.set(None)


def leave() -> None:
    """What this context starts from now on belongs to no attempt."""
    _BRANCH.set(None)


class Follower:
    """Gives asyncio tasks that are created within attempts on one loop their branch; `follower` gives that of a loop.

    Its factory hands on to the one that was there.  It is in place from the first attempt until no execution is under
    way on the loop, whoever runs them.
    """

    def __init__(self, host: asyncio.AbstractEventLoop) -> None:
        self._host = weakref.ref(host)
        self._factory = self._create
        self._before: list[Callable[..., Any] | None] = []  # What was there; a later one may hand on to ours.
        self._executions = self._depth = 0

    def open(self) -> None:
        """One more execution is under way."""
        self._executions += 1

    def close(self) -> None:
        """One less is; after the last one the loop is as it was."""
        self._executions -= 1
        host = self._host()
        if not self._executions and host is not None and host.get_task_factory() is self._factory:
            host.set_task_factory(self._before[-1])

    def begin(self) -> None:
        """An attempt begins; a factory that was set meanwhile is followed, too."""
        host = self._host()
        if host is not None and (factory := host.get_task_factory()) is not self._factory:
            if factory in self._before:
                del self._before[self._before.index(factory) :]
            self._before.append(factory)
            host.set_task_factory(self._factory)

    def _create(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        parent = current()
        if parent is None or self._depth:
            return self._hand_on(loop, coro, options)
        branch = parent.child()
        if options.get("context") is not None:  # Shared on purpose: what is set there would be seen by others.
            task = self._hand_on(loop, coro, options)
        else:
            options.pop("context", None)
            context = contextvars.copy_context()
            context.run(_BRANCH.set, branch)
            task = context.run(self._hand_on, loop, coro, options)
        setattr(task, _ATTRIBUTE, branch)
        branch.attempt.branched(branch, task)
        return task

    def _hand_on(self, loop: asyncio.AbstractEventLoop, coro: Any, options: dict[str, Any]) -> Any:
        before = self._before[-1 - self._depth] if self._depth < len(self._before) else None
        if before is None:
            return asyncio.Task(coro, loop=loop, **options)
        self._depth += 1
        try:
            return before(loop, coro, **options)
        finally:
            self._depth -= 1


_followers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Follower] = weakref.WeakKeyDictionary()


def follower(host: asyncio.AbstractEventLoop) -> Follower:
    """The one of this loop: two that wrapped each other would never come to an end."""
    if host not in _followers:
        _followers[host] = Follower(host)
    return _followers[host]


def create_task(host: asyncio.AbstractEventLoop, coro: Any, context: contextvars.Context) -> "asyncio.Task[Any]":
    """A task of the engine's own, which belongs to no attempt, whatever code happens to run when it is made."""
    return asyncio.Task(coro, loop=host, context=context)
