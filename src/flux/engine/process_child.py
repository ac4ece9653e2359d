"""The inside of a child process; this module is for loading a task's function there, and answering calls of it.

It is told what to do and answers over a channel of its own; what the function prints goes where its parent's goes.
The end of the channel is the end of the parent, and so of the child and of all that it has started.
"""

import asyncio
import faulthandler
import importlib
import importlib.util
import inspect
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from flux import serde
from flux.engine import frames, launcher, lineage, processes
from flux.engine.launcher import LoadingStopped
from flux.engine.processes import PROGRESSED, RAISED, RETURNED
from flux.errors import BodyError, ExecutionError, NotFoundError
from flux.serde.classes import NotLoadedError

# As multiprocessing calls it: not `__main__`, so that what is guarded by that does not run; serde knows it, too.
MAIN = "__mp_main__"


def main() -> None:
    """Answer the parent's calls until it ends."""
    channel = int(sys.argv[1])
    os.set_inheritable(channel, False)  # Nothing that is started here may hold it open: its end is this one's.
    os.register_at_fork(after_in_child=lambda: os.close(channel))
    if sys.stderr is not None:
        faulthandler.enable()  # A segmentation fault says where.
    processes.become_child()
    launcher.install(_refuse)
    calls: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, calls), daemon=True).start()
    while True:
        request, arguments = calls.get()
        attempt = _Elsewhere(channel)
        lineage._BRANCH.set(lineage.Branch(attempt))  # type: ignore[arg-type]
        answer = _answer(request, arguments)
        attempt.end()
        frames.send(channel, *answer)


def _listen(channel: int, calls: "queue.SimpleQueue[tuple[bytes, bytes]]") -> None:
    try:
        while True:
            calls.put((frames.receive(channel), frames.receive(channel)))
    finally:
        os.killpg(0, signal.SIGKILL)  # The group is this process's own, with all that the function has started.


def _refuse() -> NoReturn:
    raise BodyError(
        "a task with executor='process' cannot call other tasks, pause, or run workflows, because nothing is recorded "
        "in its process: do that in the body of the workflow, and pass the task what comes of it"
    )


class _Elsewhere:
    """Stands for the attempt, which is in the parent: that is told of progress; whoever wants more of it is refused."""

    def __init__(self, channel: int) -> None:
        self._channel, self._is_over, self._lock = channel, False, threading.Lock()

    def progressed(self, data: bytes) -> None:
        with self._lock:
            if not self._is_over:
                frames.send(self._channel, PROGRESSED, data)

    def end(self) -> None:
        with self._lock:  # What it has left in a thread must not speak into the next call.
            self._is_over = True

    def __getattr__(self, name: str) -> Any:
        return launcher.current()  # Raises in any case: while a file is loaded, what ends the loading.


def _answer(request: bytes, arguments: bytes) -> tuple[bytes, bytes]:
    try:
        return RETURNED, serde.encode(_perform(serde.decode(request), arguments))
    except Exception as error:  # noqa: BLE001 - the boundary around a task's function.
        return RAISED, serde.encode(error)
    except BaseException as error:  # noqa: BLE001 - as above, for what would end this process.
        return RAISED, serde.encode(_harmless(error))
    finally:
        for stream in (sys.stdout, sys.stderr):  # An idle process is killed, and so cannot do it at its end.
            with suppress(Exception):
                stream.flush()


def _perform(request: dict[str, Any], data: bytes) -> Any:
    sources = _Sources(request["main"])
    function = sources.function(request["module"], request["file"], request["function"])
    named = sources.arguments(data)
    try:
        value = _called(function, named)
        return asyncio.run(_awaited(value)) if inspect.isawaitable(value) else value
    except BaseException as error:
        error.__traceback__ = _within(function, error.__traceback__)
        raise


def _called(function: Callable[..., Any], named: dict[str, Any]) -> Any:
    signature = inspect.signature(function)
    bound = inspect.BoundArguments(signature, named)
    others = {name: value for name, value in named.items() if name not in signature.parameters}
    return function(*bound.args, **bound.kwargs, **others)


def _harmless(error: BaseException) -> RuntimeError:
    shown = f"{type(error).__name__}: {serde.to_display(error)['message']}".removesuffix(": ")
    harmless = RuntimeError(f"the task raised {shown}, which would end more than itself")
    harmless.__cause__ = error
    return harmless


async def _awaited(value: Any) -> Any:
    return await value


def _within(function: Callable[..., Any], traceback: TracebackType | None) -> TracebackType | None:
    """The traceback from the function on; how asyncio got there tells nobody anything."""
    code, own = getattr(function, "__code__", None), traceback
    while own is not None and own.tb_frame.f_code is not code:
        own = own.tb_next
    return own or traceback


class _Sources:
    """Loads the modules that a call needs, as the parent has them.

    Args:
        main: The parent's `__main__`: the name that it is recorded by, its file, and whether it was run as a module.
    """

    def __init__(self, main: dict[str, Any] | None) -> None:
        self._main = main

    def function(self, module: str, file: str, name: str) -> Callable[..., Any]:
        """The function of that name, which may be a task now.

        Raises:
            ExecutionError: It is not there, or its module cannot be loaded.
        """
        found = getattr(self._loaded(module, file), name, None)
        if found is None:
            raise ExecutionError(
                f"the process of the task does not find the function {name!r} in {file}: define it at the top of the "
                "module, above what runs a workflow, and put that below \"if __name__ == '__main__':\""
            )
        return found if inspect.isfunction(found) else getattr(found, "func", found)

    def arguments(self, data: bytes) -> dict[str, Any]:
        """The arguments; the modules of their classes are loaded, since the parent has them loaded, too.

        Raises:
            NotFoundError: A class is not in its module.
        """
        while True:
            try:
                return serde.decode(data)  # type: ignore[no-any-return]
            except NotFoundError as error:
                missing = error.__context__
                module = missing.name.partition(":")[0] if isinstance(missing, NotLoadedError) else ""
                if not module or self._known_as(module) in sys.modules:
                    raise
            self._loaded(module, None)

    def _known_as(self, module: str) -> str:
        return MAIN if self._main is not None and module == self._main["module"] else module

    def _loaded(self, name: str, file: str | None) -> ModuleType:
        loaded = sys.modules.get(self._known_as(name))
        if loaded is not None:
            return loaded
        try:
            with _loading():
                if self._known_as(name) == MAIN and self._main is not None:
                    return _load_main(name, **{key: self._main[key] for key in ("file", "is_module")})
                return _load(name, file)
        except (Exception, SystemExit) as error:
            sys.modules.pop(self._known_as(name), None)
            raise ExecutionError(
                f"the process of the task cannot load {file or name}: {error!r}; what must not run there belongs below "
                "\"if __name__ == '__main__':\""
            ) from error


@contextmanager
def _loading() -> Iterator[None]:
    """A module is loaded for what it defines: nothing runs there, and what it prints is no data."""
    launcher.set_loading(is_loading=True)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        launcher.set_loading(is_loading=False)


def _load_main(name: str, *, file: str, is_module: bool) -> ModuleType:
    module = ModuleType(MAIN)
    module.__file__ = file
    if is_module:  # python -m
        module.__spec__ = importlib.util.find_spec(name)
        module.__package__ = name.rpartition(".")[0]
    sys.modules["__main__"] = sys.modules[MAIN] = module
    with suppress(LoadingStopped):
        exec(compile(Path(file).read_bytes(), file, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - as Python does.
    return module


def _load(name: str, file: str | None) -> ModuleType:
    """Load a module by its name; from its file, if that name leads elsewhere or nowhere."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if file is not None and (spec is None or spec.origin != file):
        spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    with suppress(LoadingStopped):
        spec.loader.exec_module(module)
    package, _, child = name.rpartition(".")
    if package in sys.modules:
        setattr(sys.modules[package], child, module)
    return module
