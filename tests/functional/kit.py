"""What functional tests share: flux on virtual time, crashes, and exact comparison of histories."""

import asyncio
import dataclasses
import os
import selectors
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flux
from flux.app import App
from flux.engine import launcher
from flux.engine.committer import InlineCommitter
from flux.engine.engine import Engine
from flux.engine.launcher import MISSING
from flux.engine.threads import Threads
from flux.errors import ExecutionError
from flux.settings import Settings

SOURCE = str(Path(flux.__file__).parent.parent)
BEGINNING_US = 1_700_000_000_000_000


# -- errors and histories, compared exactly


@dataclasses.dataclass(frozen=True)
class Error:
    """Equals any error that is an instance of all these classes, with exactly this text and inner error.

    One class alone must be the error's very class; several are those that a made-up class derives from.
    """

    classes: tuple[type[BaseException], ...]
    text: str
    inner: "Error | None" = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BaseException) or str(other) != self.text:
            return False
        if len(self.classes) == 1 and type(other) is not self.classes[0]:
            return False
        inner = getattr(other, "inner_exception", None)
        return all(isinstance(other, one) for one in self.classes) and (
            inner is None if self.inner is None else self.inner == inner
        )

    __hash__ = None  # type: ignore[assignment]


def plain(cls: type[BaseException], text: str, inner: Error | None = None) -> Error:
    """An error of exactly this class."""
    return Error((cls,), text, inner)


def failure(cls: type[BaseException], text: str, inner: Error | None = None) -> Error:
    """What a failed task raises: an ExecutionError and a `cls` at once; its inner error is the original."""
    return Error((ExecutionError, cls), text, inner if inner is not None else plain(cls, text))


def shape(ctx: Any) -> list[tuple[Any, ...]]:
    """The history as (type, name, value), with types in short."""
    return [(short(event.type), event.name, event.value) for event in ctx.events]


def types(ctx: Any) -> list[str]:
    return [short(event.type) for event in ctx.events]


def short(type_: str) -> str:
    return {
        "WORKFLOW_STARTED": "WS",
        "WORKFLOW_COMPLETED": "WC",
        "WORKFLOW_FAILED": "WF",
        "WORKFLOW_PAUSED": "WP",
        "TASK_STARTED": "TS",
        "TASK_COMPLETED": "TC",
        "TASK_FAILED": "TF",
        "TASK_PAUSED": "TP",
    }.get(str(type_), str(type_).removeprefix("TASK_") if "_RE" in type_ or "BACK" in type_ else str(type_))


def comparable(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """A value in which errors compare by class, bases, arguments and message."""
    if id(value) in seen:
        return ("again", seen.index(id(value)))
    if isinstance(value, BaseException):
        seen = (*seen, id(value))
        inner, cause = getattr(value, "inner_exception", None), value.__cause__
        bases = [f"{base.__module__}.{base.__qualname__}" for base in type(value).__mro__]
        links = [comparable(each, seen) for each in (value.args, inner, cause)]
        return ("error", bases, str(value), links)
    if isinstance(value, dict):
        return ("dict", [(comparable(k, seen), comparable(v, seen)) for k, v in value.items()])
    if isinstance(value, list | tuple):
        return (type(value).__name__, [comparable(item, seen) for item in value])
    return value if value == value else repr(value)  # NaN equals nothing.


def whole(ctx: Any) -> list[Any]:
    """All that a context says, so that two can be compared."""
    events = [
        (e.id, e.seq, e.type, e.call_id, e.source_id, e.name, e.time, comparable(e.value), comparable(e.detail))
        for e in ctx.events
    ]
    return [ctx.execution_id, ctx.name, ctx.state, comparable(ctx.input), comparable(ctx.output), events]


def stored(execution_id: str, database: Path | None = None) -> Any:
    """An execution as a fresh app reads it from the database."""
    app = App(Settings(database=database or Path(".flux/flux.db").absolute()))
    try:
        return app.engine.context(app.row(execution_id))
    finally:
        app.close()


def recorded_ids(database: Path | None = None) -> list[str]:
    """The ids of all executions in the database."""
    app = App(Settings(database=database or Path(".flux/flux.db").absolute()))
    try:
        return [row.execution_id for row in app.store.list()]
    finally:
        app.close()


# -- virtual time


class VirtualClock:
    """Time that passes only when everybody waits for it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> int:
        return BEGINNING_US + round(self.seconds * 1_000_000)

    def monotonic(self) -> float:
        return self.seconds


class _CountedThreads(Threads):
    """Knows whether a sync task runs: time must not jump over it."""

    busy = 0

    async def run(self, function: Callable[[], Any], on_start: Callable[[], None] | None = None) -> Any:
        self.busy += 1
        try:
            return await super().run(function, on_start)
        finally:
            self.busy -= 1


class _JumpingSelector(selectors.DefaultSelector):
    clock: VirtualClock
    threads: _CountedThreads

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if timeout is None or self.threads.busy:
            return super().select(0.005)
        self.clock.seconds += timeout
        return ready


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self, clock: VirtualClock, threads: _CountedThreads) -> None:
        selector = _JumpingSelector()
        selector.clock, selector.threads = clock, threads
        self._virtual = clock
        super().__init__(selector)

    def time(self) -> float:
        return self._virtual.seconds


class Kit:
    """Flux on virtual time, in one database, which survives `crash`."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.clock = VirtualClock()
        self._settings = Settings(database=directory / "virtual.db", lease_seconds=1e9, **settings)
        self._open()

    def _open(self) -> None:
        self._threads = _CountedThreads()
        self.app = App(self._settings, clock=self.clock)
        parts = dataclasses.replace(self.app.engine._parts, threads=self._threads, news_seconds=1e9)
        self.app.engine = Engine(parts, InlineCommitter(self.app.store))
        self.store = self.app.store
        self._runner = asyncio.Runner(loop_factory=lambda: _VirtualLoop(self.clock, self._threads))

    def look_for_news_every(self, seconds: float) -> None:
        """Poll for what other processes write, which fills virtual time: so by default it is not done."""
        parts = dataclasses.replace(self.app.engine._parts, news_seconds=seconds)
        self.app.engine = Engine(parts, InlineCommitter(self.app.store))

    def run(self, workflow: Any, value: Any = MISSING, execution_id: str | None = None) -> Any:
        return self.drive(workflow.run_async(value, execution_id=execution_id))

    def resume(self, workflow: Any, execution_id: str, value: Any = None) -> Any:
        return self.drive(workflow.resume_async(execution_id, value))

    def drive(self, work: Any) -> Any:
        """Run a coroutine on the virtual loop."""
        found = launcher._find
        launcher.install(lambda: self.app)
        try:
            return self._runner.run(work)
        finally:
            launcher.install(found)  # type: ignore[arg-type]

    def run_for(self, seconds: float, work: Any) -> None:
        """Run for so long, then lose the process: nothing more is written, as by `kill -9`."""

        async def until_killed() -> None:
            task = asyncio.ensure_future(work)
            await asyncio.wait([task], timeout=seconds)
            assert not task.done(), "the crash came too late"
            self.store.close()  # From here on nothing can be written, and the proof of life is gone.
            self.app.engine.abandon_all()
            task.cancel()
            await asyncio.wait([task])
            task.cancelled() or task.exception()

        self.drive(until_killed())
        self._runner.close()
        self._open()

    def stored(self, execution_id: str) -> Any:
        return stored(execution_id, self._settings.database)

    def close(self) -> None:
        self._runner.close()
        self.app.close()


# -- other processes

PRELUDE = """
import asyncio, os, sys, time, signal, threading
from datetime import timedelta
from flux import ExecutionContext, task, workflow, pause
from flux.tasks import now, parallel, pipeline, sleep, uuid4

def once(name):
    \"\"\"True the first time, in whatever process.\"\"\"
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

def count(name):
    with open(name, "a") as file:
        file.write("x")

def die():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def script(directory: Path, text: str, *arguments: str, name: str = "script.py") -> "subprocess.Popen[str]":
    """Start a program, after the usual imports, in a directory of its own."""
    file = directory / name
    file.write_text(PRELUDE + textwrap.dedent(text))
    environment = {**os.environ, "PYTHONPATH": SOURCE, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error"}
    return subprocess.Popen(
        [sys.executable, str(file), *arguments],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_script(directory: Path, text: str, *arguments: str, code: int | None = 0) -> str:
    """Run a program to its end; returns what it printed."""
    with script(directory, text, *arguments) as process:
        out, err = process.communicate(timeout=15)
    if code is not None:
        assert process.returncode == code, f"exit code {process.returncode}\n{out}\n{err}"
    return out


def times(directory: Path, name: str) -> int:
    """How often a program called `count(name)`."""
    file = directory / name
    return len(file.read_text()) if file.exists() else 0
