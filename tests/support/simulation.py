"""A process that runs workflows on a real app and a real SQLite file, in virtual time, and crashes where it is told.

Nothing waits, and nothing is left to chance: two simulations of one seed record the same bytes.  A crash after event k
is a fresh database that holds exactly the first k events; `cuts` says after which events a process can die.
"""

import asyncio
import contextvars
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux.app import App
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.domain.execution_context import ExecutionContext
from flux.domain.history import DECIDED_BY_BODY, History
from flux.engine.committer import InlineCommitter
from flux.engine.engine import Engine
from flux.engine.lease import Lease
from flux.engine.parts import Parts
from flux.engine.threads import Threads
from flux.ports import Append, AppendResult, Pause, Store
from flux.settings import Settings
from flux.store.sqlite import SqliteStore
from flux.testing.virtual_time import EPOCH_US, VirtualLoop, VirtualTime
from flux.workflow import Workflow
from support.world import EXECUTION, World

OUTCOMES = frozenset({Type.TASK_COMPLETED, Type.TASK_FAILED, Type.TASK_CANCELLED})
_OF_ONE_COMMIT = frozenset({Type.WORKFLOW_RESUMED, Type.TASK_RESUMED, Type.TASK_COMPLETED})
_numbers = itertools.count(1)

Event = tuple[Any, ...]


def folder_in_memory() -> "tempfile.TemporaryDirectory[str]":
    """A folder for databases: a crash is a copy of files in a simulation, so no disk is needed."""
    return tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)


class _StillLease(Lease):
    """A lease without a heartbeat: in a simulation there is one thread, and nobody to lose it to."""

    def _start(self) -> None:
        pass


class _InlineThreads(Threads):
    """Sync tasks run at once, where they are called."""

    async def run(self, function: Callable[[], Any], on_start: Callable[[], None] | None = None) -> Any:
        if on_start is not None:
            on_start()
        return contextvars.copy_context().run(function)


class SnapshottingStore:
    """A store that keeps a copy of its files after every commit, as a power cut would leave them."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder
        self.snapshots: list[Path] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        results = self._store.append(appends)
        self._snapshot()
        return results

    def resume(self, execution_id: str, **message: Any) -> Pause | None:
        pause = self._store.resume(execution_id, **message)
        self._snapshot()
        return pause

    def _snapshot(self) -> None:
        copy = self._folder / f"snapshot-{len(self.snapshots) + 1}"
        copy.mkdir()
        for name in ("flux.db", "flux.db-wal"):
            shutil.copyfile(self._folder / name, copy / name)
        self.snapshots.append(copy)


class Process:
    """One process of a simulation.

    Args:
        folder: Where its database is, or is to be.
        past: What the world remembers.
        starts_at: Microseconds on the wall clock.
        replay_each_step: See `Parts`.
        unload_after_seconds: See `Parts`; by default nothing is unloaded.
        wrap: Puts something between the engine and the store.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        past: Sequence[ExecutionEvent] = (),
        starts_at: int = EPOCH_US,
        replay_each_step: bool = False,
        unload_after_seconds: float = 1e9,
        wrap: Callable[[Store], Store] | None = None,
    ) -> None:
        self.time = VirtualTime(starts_at - EPOCH_US)
        self.world = World(self.time, seed, past)
        self.store: Store = SqliteStore(folder / "flux.db")
        if wrap is not None:
            self.store = wrap(self.store)
        self.app = App(Settings(database=folder / "flux.db"), store=self.store, clock=self.time)
        lease = _StillLease(self.store, self.time, lambda: None, seconds=1e9)
        parts = Parts(
            store=self.store,
            clock=self.time,
            lease=lease,
            threads=_InlineThreads(),
            processes=self.app.processes,
            secrets=self.app.find_secrets,
            news_seconds=1e9,
            unload_after_seconds=unload_after_seconds,
            replay_each_step=replay_each_step,
        )
        self.app._lease = lease
        self.app.engine = Engine(parts, InlineCommitter(self.store))

    def run(self, workflow: Workflow[Any, Any], *, answer: Callable[[str], Any] = str) -> ExecutionContext[Any]:
        """Start or continue the execution, and answer its pauses until it is finished."""
        World.current = self.world
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(self.time)) as runner:
            return runner.run(self._run(workflow, answer))

    async def _run(self, workflow: Workflow[Any, Any], answer: Callable[[str], Any]) -> ExecutionContext[Any]:
        context = await self.app.run_async(workflow.definition, None, EXECUTION)
        while context.state is ExecutionState.PAUSED:
            (pause, *_) = self.store.pauses(EXECUTION)
            self.app.send_resume(EXECUTION, answer(pause.name), name=pause.name)
            context = await self.app.engine.run(workflow.definition, EXECUTION)
        return context

    def close(self) -> None:
        self.app.close()


@dataclass(frozen=True, slots=True)
class Run:
    """What became of an execution, as it is stored.

    Args:
        output: What the body returned; of a failed one, its error as `(class name, args)`.
    """

    state: ExecutionState
    output: Any
    events: list[ExecutionEvent]
    world: World

    @property
    def shape(self) -> list[Event]:
        """The history in full, times included, in a form that can be compared."""
        return [shape_of(event) for event in self.events]

    @property
    def timeless(self) -> list[Event]:
        """The history without its times."""
        return [shape_of(event)[:-1] for event in self.events]


class Simulation:
    """Runs one workflow, and runs it again from wherever it could have crashed.

    Args:
        folder: For databases, one for each process.
        seed: Of all durations.
    """

    def __init__(self, folder: Path, workflow: Workflow[Any, Any], *, seed: int = 0, **options: Any) -> None:
        self.folder, self.workflow, self.seed, self.options = folder, workflow, seed, options

    def run(self, **options: Any) -> Run:
        """The run without a crash."""
        with self._process(**options) as process:
            return self._finish(process)

    def run_from(
        self, events: Sequence[ExecutionEvent], *, remembers: bool = True, downtime_us: int = 0, **options: Any
    ) -> Run:
        """Continue a process that crashed after these events.

        Args:
            remembers: Whether the world kept the work in progress.
            downtime_us: Between the last event and the next process.
        """
        past = events if remembers else ()
        starts_at = events[-1].time_us + downtime_us if events else EPOCH_US
        with self._process(past=past, starts_at=starts_at, **options) as process:
            if events:
                plant(process, self.workflow, events)
            return self._finish(process)

    def run_with_snapshots(self) -> tuple[Run, list[Path]]:
        """The run without a crash, and what is on the disk after each of its commits."""
        stores: list[SnapshottingStore] = []

        def wrap(store: Store) -> Any:
            stores.append(SnapshottingStore(store, store._path.parent))  # type: ignore[attr-defined]
            return stores[0]

        run = self.run(wrap=wrap)
        return run, stores[0].snapshots

    def run_from_snapshot(self, folder: Path) -> tuple[list[ExecutionEvent], Run]:
        """Continue what a killed process left on the disk; also gives the history that it left."""
        with closing(SqliteStore(folder / "flux.db")) as store:
            events = store.events(EXECUTION)
        process = Process(folder, seed=self.seed, past=events, starts_at=events[-1].time_us, **self.options)
        with closing(process):
            return events, self._finish(process)

    @contextmanager
    def _process(self, **options: Any) -> Iterator[Process]:
        folder = self.folder / f"process-{next(_numbers)}"
        process = Process(folder, seed=self.seed, **{**self.options, **options})
        try:
            yield process
        finally:
            process.close()

    def _finish(self, process: Process) -> Run:
        context = process.run(self.workflow)
        row = process.store.get(EXECUTION)
        assert row is not None
        assert row.state is context.state
        return Run(context.state, plain(context.output), process.store.events(EXECUTION), process.world)


def plant(process: Process, workflow: Workflow[Any, Any], events: Sequence[ExecutionEvent]) -> None:
    """Store an execution that has exactly these events and no owner."""
    definition = workflow.definition
    create, _ = process.app._new(definition, None, worker=None)
    append = Append(
        execution_id=EXECUTION,
        fence=0,
        expected_seq=0,
        events=events,
        create=create,
        opened=_open_pauses(events),
    )
    assert process.store.append([append]) == [AppendResult.STORED]


def cuts(events: Sequence[ExecutionEvent], at_most: int | None = None) -> list[int]:
    """After how many events a process can have died, evenly chosen if there are too many.

    What moves a message out of the inbox is one commit, so there is no dying in the middle of it.  The rest of a
    commit may be cut: that is harder than life, but a journal that splits a large commit does it.
    """
    inside: set[int] = set()
    for event, after in itertools.pairwise(events):
        if event.type in {Type.WORKFLOW_RESUMING, Type.WORKFLOW_RESUMED, Type.TASK_RESUMED}:
            assert after.type in _OF_ONE_COMMIT
            inside.add(event.seq)
    possible = [k for k in range(1, len(events)) if k not in inside]
    if at_most is None or len(possible) <= at_most:
        return possible
    step = (len(possible) - 1) / (at_most - 1)
    return [possible[round(i * step)] for i in range(at_most)]


def finished_calls(events: Sequence[ExecutionEvent]) -> set[str]:
    """The calls whose outcome is among these events."""
    return {
        call_id
        for call_id, record in History(events).calls.items()
        if record.started and record.outcome and record.outcome.detail_data != DECIDED_BY_BODY
    }


def shape_of(event: ExecutionEvent) -> Event:
    """An event as a value; of errors the text and the arguments count, not the traceback."""
    value, detail = plain(event.value), plain(event.detail)
    return (event.seq, event.type.value, event.call_id, event.name, value, detail, event.time_us)


def plain(value: Any) -> Any:
    """A value in which errors are replaced by what makes them equal."""
    if isinstance(value, BaseException):
        inner = getattr(value, "inner_exception", None)
        names = [c.__name__ for c in type(value).__mro__ if c is not object]
        return ["error", names, plain(value.args), str(value), type(inner).__name__, str(inner)]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def litter(amount: int) -> list[Any]:
    """Take up memory, so that what is made next lies elsewhere, and an order by address shows."""
    return [bytearray(n * 7 % 600) for n in range(amount)]


def _open_pauses(events: Sequence[ExecutionEvent]) -> list[Pause]:
    closed = finished_calls(events)
    return [Pause(e.call_id, e.value) for e in events if e.type is Type.TASK_PAUSED and e.call_id not in closed]
