"""Child processes for tasks with `executor="process"`; this module is for starting, asking and ending them.

A child is a Python of its own with `engine/process_child.py` in it, in a session of its own: Ctrl-C does not reach it,
and what it starts ends with it.  A thread asks it and waits for the answer, so that any event loop can wait for both.
"""

import asyncio
import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from select import POLLIN, poll
from types import ModuleType
from typing import Any

from flux import serde
from flux.engine import frames, lineage
from flux.engine.threads import Threads, resolve
from flux.errors import BodyError, ExecutionError, NotFoundError, UnserializableValue
from flux.serde.classes import NotLoadedError, find, name_of

LIMIT = max(4, os.cpu_count() or 1)
IDLE_SECONDS = 10.0
CLOSE_SECONDS = 5.0
PROGRESSED, RETURNED, RAISED = b"progressed", b"returned", b"raised"  # The kinds of answers; the first is not the last.
_NAME_MARK = b'{"~name"'  # Of functions and classes among encoded arguments.
# Not `python -m`: that looks for flux before it has the parent's path.
_PROGRAM = "import sys; sys.path[:] = sys.argv[2:]; from flux.engine.process_child import main; main()"


_is_child = False


def become_child() -> None:
    """Say that here is a child itself, which starts none: what it loads could start children without end."""
    global _is_child  # noqa: PLW0603 - of this process.
    _is_child = True


class Processes:
    """Runs functions in child processes, which are used again while they are idle for a short time only.

    Args:
        limit: Most children at work at once; further functions wait.
        idle_seconds: A child that had nothing to do for so long is ended.
    """

    def __init__(self, limit: int = LIMIT, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._limit, self._idle_seconds = limit, idle_seconds
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._threads = Threads(self._limit)
        self._changed = threading.Condition()  # Of all below, and of the calls' children.
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []
        self._expiry: threading.Timer | None = None

    async def run(
        self, func: Callable[..., Any], named: Mapping[str, Any], *, on_start: Callable[[], None] | None = None
    ) -> Any:
        """Call a function in a child process and return what it returns.

        When the caller is cancelled, the child is killed with all that it has started, and is gone before this returns.

        Args:
            func: At the top level of a module, or of a script; sync or async. A task of that name will do.
            named: Its arguments by parameter name.
            on_start: Called on the caller's loop when the function leaves the queue.

        Raises:
            UnserializableValue: The function, an argument or the result cannot be handed over.
            ExecutionError: The child could not load the function, or died.
            Exception: Whatever the function raised, of the same class, with the traceback that it had in the child.

        Example:
            >>> await processes.run(resize, {"path": "cat.png", "width": 200})
        """
        if _is_child:
            raise BodyError("a task with executor='process' cannot start a process of Flux: do that in the workflow")
        loop, branch = asyncio.get_running_loop(), lineage.current()
        request = serde.encode(_request(func))
        on_progress = branch.attempt.progressed if branch is not None else None
        call = _Call(name_of(func), request, _encoded(named), loop, loop.create_future(), on_progress)
        try:
            returned, data = await self._threads.run(lambda: self._perform(call), on_start)
        except asyncio.CancelledError:
            if self._cancel(call):
                await call.ended
            raise
        if not returned:
            raise data
        return data

    def close(self) -> None:
        """End all children; a call that is under way fails."""
        with self._changed:
            for child in self._children:
                child.kill()
            idle, self._idle = self._idle, []
        self._end(idle)
        with self._changed:
            if self._expiry is not None:
                self._expiry.cancel()
            self._changed.wait_for(lambda: not self._children, CLOSE_SECONDS)

    def forget(self) -> None:
        """A forked child has none of its parent's threads, and must not keep its parent's children alive."""
        for child in self._children:
            child.close_channel()
        _of_the_parent.extend(self._children)
        self._reset()

    # -- one call, in a thread

    def _perform(self, call: "_Call") -> "tuple[bool, Any]":
        try:
            child = self._take(call)
            if child is None:
                return True, None
            try:
                kind, data = child.ask(call)
            except (EOFError, OSError):
                was_killed = child.is_killed
                self._release(call, child, is_sound=False)
                why = "it was ended by Processes.close()" if was_killed else child.describe_end()
                raise ExecutionError(f"the process that ran {call.function} died: {why}") from None
            self._release(call, child, is_sound=True)
            return kind == RETURNED, serde.decode(data)
        finally:
            with suppress(RuntimeError):  # The loop is closed: nobody waits.
                call.loop.call_soon_threadsafe(resolve, call.ended)

    def _take(self, call: "_Call") -> "_Child | None":
        """An idle child, or a new one; none if nobody waits for it any more."""
        surroundings = _Surroundings.current()
        outdated: list[_Child] = []
        try:
            with self._changed:
                if call.is_cancelled:
                    return None
                while self._idle:
                    child = self._idle.pop()
                    if child.surroundings == surroundings and child.is_sound():
                        break
                    outdated.append(child)
                else:
                    child = _Child(surroundings)
                    self._children.add(child)
                call.child = child
                return child
        finally:
            self._end(outdated)

    def _release(self, call: "_Call", child: "_Child", *, is_sound: bool) -> None:
        with self._changed:
            call.child = None  # From here on a cancellation must not kill it.
            if is_sound and not child.is_killed:
                child.idle_since = time.monotonic()
                self._idle.append(child)
                self._watch()
                return
        self._end([child])

    def _cancel(self, call: "_Call") -> bool:
        """Kill the child of a call; returns whether there is one."""
        with self._changed:
            call.is_cancelled = True
            if call.child is not None:
                call.child.kill()
            return call.child is not None

    # -- the end of children

    def _end(self, children: "list[_Child]") -> None:
        """End children that are not at work, and not idle any more."""
        for child in children:
            with self._changed:
                child.kill()
            child.wait()
            with self._changed:
                self._children.discard(child)
                self._changed.notify_all()

    def _watch(self) -> None:
        """See that idle children are ended; the lock is held."""
        if self._expiry is None:
            self._expiry = threading.Timer(self._idle_seconds, self._expire)
            self._expiry.daemon = True
            self._expiry.start()

    def _expire(self) -> None:
        with self._changed:
            self._expiry = None
            limit = time.monotonic() - self._idle_seconds
            expired = [child for child in self._idle if child.idle_since <= limit]
            self._idle = [child for child in self._idle if child.idle_since > limit]
            if self._idle:
                self._watch()
        self._end(expired)


@dataclass(slots=True, eq=False)
class _Call:
    function: str
    request: bytes
    arguments: bytes
    loop: asyncio.AbstractEventLoop
    ended: "asyncio.Future[None]"
    on_progress: Callable[[bytes], None] | None
    child: "_Child | None" = None
    is_cancelled: bool = False


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What a child takes over when it is started: one with others is of no use."""

    path: list[str]
    environment: dict[str, str]
    directory: tuple[int, int]

    @classmethod
    def current(cls) -> "_Surroundings":
        directory = Path().stat()  # Not its name: another may be in its place.
        return cls(list(sys.path), dict(os.environ), (directory.st_dev, directory.st_ino))


class _Child:
    """One child process.  `kill` needs the lock of its owner; `wait` is called once, by whoever ends it."""

    def __init__(self, surroundings: _Surroundings) -> None:
        self.surroundings = surroundings
        self.idle_since = 0.0
        self.is_killed = False
        ours, theirs = socket.socketpair()
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
        command = [sys.executable, *flags, "-c", _PROGRAM, str(theirs.fileno()), *surroundings.path]
        with ours, theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this very Python.
                command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
            )
            self._channel = ours.detach()

    def ask(self, call: _Call) -> tuple[bytes, bytes]:
        """Have it perform a call; returns the kind of the answer, and the answer.

        Raises:
            EOFError, OSError: It died.
        """
        frames.send(self._channel, call.request, call.arguments)
        while True:
            kind, data = frames.receive(self._channel), frames.receive(self._channel)
            if kind != PROGRESSED:
                return kind, data
            if call.on_progress is not None:
                call.on_progress(data)

    def is_sound(self) -> bool:
        """Whether it still waits for a call: there is neither an end nor an answer that nobody asked for."""
        poller = poll()
        poller.register(self._channel, POLLIN)
        return not poller.poll(0)

    def kill(self) -> None:
        """Kill it with all that it has started.  Only once: afterwards the number may be another's."""
        if not self.is_killed:
            self.is_killed = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Wait until it has ended, and close the channel."""
        self._process.wait()
        self.close_channel()

    def close_channel(self) -> None:
        """Close this side: then it ends by itself, when no other process has this side."""
        os.close(self._channel)

    def describe_end(self) -> str:
        """How it ended, when it has."""
        code = self._process.returncode
        if code >= 0:
            return f"it ended itself with exit code {code}; let the function return, or raise an error"
        hint = "; the system does that when memory runs out" if -code == signal.SIGKILL else ""
        return f"{_signal_name(-code)} ended it{hint}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _request(func: Callable[..., Any]) -> dict[str, Any]:
    """Where the child finds the function.

    Raises:
        UnserializableValue: It would not find it.
    """
    name = str(getattr(func, "__qualname__", None) or repr(func))
    module = sys.modules.get(getattr(func, "__module__", None) or "")
    file = getattr(module, "__file__", None)
    held = getattr(module, name, None)
    if "." in name or "<" in name:
        why = "it is not at the top level of a module: move it there, and pass it what it needs as arguments"
    elif module is None or file is None:
        why = "its module has no file: put it in one that can be imported"
    elif held is not func and getattr(held, "func", None) is not func:
        why = f"in {file} that name stands for something else: give the function a name of its own"
    else:
        main = _main()
        is_main = main is not None and module is sys.modules["__main__"]
        known_as = main["module"] if main is not None and is_main else module.__name__
        return {"module": known_as, "file": str(Path(file).absolute()), "function": name, "main": main}
    raise UnserializableValue(f"{name} cannot be run with executor='process', because {why}")


def _main() -> dict[str, Any] | None:
    """What the child must know of this process's script, which may define classes of arguments, too."""
    main: ModuleType | None = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if file is None:
        return None
    is_module = spec is not None and spec.name != "__main__"  # As which a directory is run.
    name = spec.name if spec is not None else Path(file).stem
    return {"module": name, "file": str(Path(file).absolute()), "is_module": is_module}


def _encoded(named: Mapping[str, Any]) -> bytes:
    """The arguments, encoded.

    Raises:
        UnserializableValue: One cannot be, or holds a function or a class that the child would not find.
    """
    data = serde.encode_arguments(named)
    if _NAME_MARK in data and not all(map(_is_found, named.values())):
        raise UnserializableValue(
            "an argument holds a function or a class that another process would not find: pass it one from the top "
            "level of a module"
        )
    return data


def _is_found(value: Any) -> bool:
    try:
        serde.decode(serde.encode_arguments({"value": value}))
        return not hasattr(value, "__qualname__") or find(name_of(value)) is value
    except (NotFoundError, NotLoadedError):
        return False


_all: "weakref.WeakSet[Processes]" = weakref.WeakSet()
_of_the_parent: list[_Child] = []  # Kept: nobody here may wait for them, not even to clear them away.


def _forget_all() -> None:
    for processes in list(_all):
        processes.forget()


def _close_all() -> None:
    for processes in list(_all):
        processes.close()


os.register_at_fork(after_in_child=_forget_all)
atexit.register(_close_all)
