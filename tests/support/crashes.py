"""Executions that call tasks in tasks, have children and are sent messages, with a crash before and after each commit.

A `Trial` is run once without a crash; meanwhile each of its `Moment`s keeps all that survives one: the files of the
database, and what the world outside remembers.  From each moment another process goes on.
"""

import asyncio
import dataclasses
import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.domain.execution import ExecutionState
from flux.engine.attempt import Attempt
from flux.engine.committer import InlineCommitter, Results
from flux.engine.engine import Engine
from flux.errors import ExecutionConflictError
from flux.ids import child_id
from flux.ports import Append, AppendResult, MessageKind, Pause, Store
from flux.store.sqlite import SqliteStore
from flux.testing.virtual_time import EPOCH_US, MICROSECONDS, VirtualLoop
from flux.workflow import Workflow, find_workflow
from support.simulation import Process, plain
from support.world import EXECUTION, Effect, Work, World

Histories = dict[str, list[ExecutionEvent]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Something that is sent from outside, once, whatever crashes meanwhile.

    Args:
        at: Seconds after the beginning.
        to: The child that is meant, by call ids from the first execution on.
    """

    at: float
    kind: MessageKind
    name: str = ""
    value: Any = None
    to: tuple[str, ...] = ()

    @property
    def execution_id(self) -> str:
        execution_id = EXECUTION
        for call_id in self.to:
            execution_id = child_id(execution_id, 1, call_id)
        return execution_id


def signal(at: float, name: str, value: Any = None, to: tuple[str, ...] = ()) -> Send:
    return Send(at=at, kind=MessageKind.SIGNAL, name=name, value=value, to=to)


def cancel(at: float, to: tuple[str, ...] = ()) -> Send:
    return Send(at=at, kind=MessageKind.CANCEL, to=to)


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What happens outside.

    Args:
        sends: Messages, each at its time.
        answers_after: Seconds for which a pause is open before it is answered; by default nobody hurries, and the
            oldest pause is answered when nothing else can happen.
    """

    sends: tuple[Send, ...] = ()
    answers_after: float | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment at which a process can die, and all that is left of it.

    Args:
        files: Of the database.
        stored: The histories in it.
        us: The time.
        begun: When which work began, as the world remembers.
        ledger: What had begun to act.
        sent: The messages whose sender knows that they arrived.
        opened: When pauses were opened.
    """

    files: Mapping[str, bytes]
    stored: Histories
    us: int
    begun: Mapping[Work, int]
    ledger: Sequence[Effect]
    sent: frozenset[str]
    opened: Mapping[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Ended:
    """An execution at its end, as it is stored."""

    workflow: str
    state: ExecutionState
    claims: int
    output: Any
    events: list[ExecutionEvent]


@dataclass(frozen=True, slots=True)
class Course:
    """How a process, and all that went before it, came to the end.

    Args:
        ended: Every execution, by its id.
        ledger: What began to act in this process.
        moments: At which it could have died.
    """

    ended: dict[str, Ended]
    ledger: list[Effect]
    moments: list[Moment]

    @property
    def output(self) -> Any:
        return self.ended[EXECUTION].output

    @property
    def state(self) -> ExecutionState:
        return self.ended[EXECUTION].state


class Commits(Protocol):
    """Who is told of a store's commits."""

    def before_commit(self) -> None: ...

    def after_commit(self, opened: Sequence[tuple[str, Pause]]) -> None: ...


class WatchedStore:
    """A store that knows what it has promised, and tells of each commit.

    Args:
        stored: The histories in it.
    """

    def __init__(self, store: Store, stored: Histories, commits: Commits) -> None:
        self._store, self._commits = store, commits
        self.stored = {execution_id: list(events) for execution_id, events in stored.items()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def append(self, appends: Sequence[Append]) -> list[AppendResult]:
        self._commits.before_commit()
        results = self._store.append(appends)
        opened = []
        for append, result in zip(appends, results, strict=True):
            if result is AppendResult.STORED:
                self._note(append)
                opened += [(append.execution_id, pause) for pause in append.opened]
        self._commits.after_commit(opened)
        return results

    def _note(self, append: Append) -> None:
        known = self.stored.setdefault(append.execution_id, [])
        if append.restart:
            known.clear()
        for event in append.events:
            outcome = event.type in {Type.TASK_COMPLETED, Type.TASK_FAILED}
            child = self.stored.get(_child_of(event, known))
            if outcome and child is not None:
                assert child[-1].type in ENDS, f"a child's result is stored before the child's end: {event}"
            known.append(event)
        for child in append.children:
            self.stored.setdefault(child.execution_id, list(child.events))

    def resume(self, execution_id: str, **message: Any) -> Pause | None:
        self._commits.before_commit()
        pause = self._store.resume(execution_id, **message)
        self._commits.after_commit(())
        return pause

    def send(self, execution_id: str, **message: Any) -> bool:
        self._commits.before_commit()
        is_sent = self._store.send(execution_id, **message)
        self._commits.after_commit(())
        return is_sent


ENDS = frozenset({Type.WORKFLOW_COMPLETED, Type.WORKFLOW_FAILED, Type.WORKFLOW_CANCELLED})


def _child_of(event: ExecutionEvent, history: Sequence[ExecutionEvent]) -> str:
    generation = generation_of(history)
    return child_id(event.execution_id, generation, event.call_id)


def generation_of(history: Sequence[ExecutionEvent]) -> int:
    """How often the execution began anew, plus one."""
    first = next((e for e in history if e.type is Type.WORKFLOW_STARTED), None)
    return int(first.detail.get("generation", 1)) if first is not None else 1


class OneByOneCommitter(InlineCommitter):
    """Commits every execution's part by itself, in either order: a process can die between any two of them.

    It takes some turns of the loop, others each time: whoever does not wait for it is found out.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._commits = 0

    def submit(self, appends: Sequence[Append], done: Callable[[Results], None]) -> None:
        self._commits += 1
        self._commit_after(self._commits * 7 % 5, appends, done)

    def _commit_after(self, turns: int, appends: Sequence[Append], done: Callable[[Results], None]) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._commit_after, turns - 1, appends, done)
            return
        order = range(len(appends)) if self._commits % 2 else reversed(range(len(appends)))
        results = {i: self._store.append([appends[i]])[0] for i in order}
        done([results[i] for i in range(len(appends))])


class WatchedWorld(World):
    """A world that makes sure of the output commit: what begins to act has its cause on disk."""

    stored: Histories
    send: Callable[[str, str, Any], None]  # A signal, to an execution of which a task has just begun to act.

    def entered(self, running: Attempt, effect: Effect) -> None:
        if getattr(running.call.target, "pure", False):
            return
        events = [e for e in self.stored.get(effect.execution_id, ()) if e.call_id == effect.call_id]
        cause = _cause_of(effect)
        assert sum(e.type is cause for e in events) >= (effect.attempt if cause is Type.TASK_RETRY_STARTED else 1), (
            f"{effect} acts before its cause is stored"
        )


def _cause_of(effect: Effect) -> Type:
    if effect.part:
        return Type.TASK_FALLBACK_STARTED if effect.part == "fallback/" else Type.TASK_ROLLBACK_STARTED
    return Type.TASK_RETRY_STARTED if effect.attempt else Type.TASK_STARTED


@dataclass(slots=True, kw_only=True)
class _Memory:
    """What does not die with a process."""

    sent: set[str] = field(default_factory=set)
    opened: dict[tuple[str, str], int] = field(default_factory=dict)


class Life:
    """One process, from its beginning or from what another left, to the end of all executions.

    Args:
        moment: Where the process before it died.
        keeps_moments: Whether to keep those at which this one could die.
        held_seconds: For how long another process has the children that there are, and does nothing.
    """

    def __init__(
        self,
        folder: Path,
        workflow: Workflow[Any, Any],
        script: Script,
        *,
        seed: int,
        moment: Moment | None = None,
        keeps_moments: bool = False,
        held_seconds: float = 0.0,
        downtime_us: int = 0,
        **options: Any,
    ) -> None:
        folder.mkdir(parents=True)
        for name, data in (moment.files if moment is not None else {}).items():
            (folder / name).write_bytes(data)
        self._workflow, self._script, self._folder = workflow, script, folder
        self._keeps_moments = keeps_moments
        self.moments: list[Moment] = []
        starts_at = (moment.us if moment is not None else 0) + downtime_us + EPOCH_US
        stored = moment.stored if moment is not None else {}

        def wrap(store: Store) -> Any:
            return WatchedStore(store, stored, self)

        self.process = Process(folder, seed=seed, starts_at=starts_at, wrap=wrap, **options)
        self.store: Any = self.process.store
        begun = moment.begun if moment is not None else {}
        self.world = self.process.world = WatchedWorld(self.process.time, seed, begun=begun)
        self.world.stored, self.world.send = self.store.stored, self._send_signal
        self.process.app.engine = Engine(self.process.app.engine._parts, OneByOneCommitter(self.store))
        self._memory = _Memory()
        if moment is not None:
            self._memory = _Memory(sent=set(moment.sent), opened=dict(moment.opened))
        self._files: dict[str, bytes] = {}
        self._held_seconds = held_seconds
        self._news: asyncio.Event | None = None

    def run(self, *, only: str | None = None) -> None:
        """Run to the end; or only one of the children, as far as it comes."""
        World.current = self.world
        lost: list[Any] = []
        try:
            with asyncio.Runner(loop_factory=lambda: VirtualLoop(self.process.time)) as runner:
                runner.get_loop().set_exception_handler(lambda _, context: lost.append(context))
                runner.run(self._run_child(only) if only is not None else self._run())
        finally:
            assert lost == [], lost

    async def _run(self) -> None:
        app, definition = self.process.app, self._workflow.definition
        self._news = asyncio.Event()
        self._schedule()
        if self._held_seconds:
            self._at(self.process.time.us + self._held_seconds * MICROSECONDS, self._hold_children().close)
        context = await app.run_async(definition, None, EXECUTION)
        while context.state is ExecutionState.PAUSED:
            await self._move()
            context = await app.engine.run(definition, EXECUTION)

    async def _run_child(self, execution_id: str) -> None:
        row = self.store.get(execution_id)
        await self.process.app.engine.run(find_workflow(row.workflow).definition, execution_id)

    def _hold_children(self) -> SqliteStore:
        """Claim the children as another process, which gives them back when its store is closed."""
        other, now = SqliteStore(self._folder / "flux.db"), self.process.app.clock.now()
        other.register_worker("other", lease_expires_at=now * 2)
        other.rescue(now=now)
        for execution_id in self.store.stored:
            if execution_id != EXECUTION:
                other.claim(execution_id, worker="other", version="1", now=now)
        return other

    # -- what happens outside

    def _schedule(self) -> None:
        for n, send in enumerate(self._script.sends):
            if f"send-{n}" not in self._memory.sent:
                self._at(send.at * MICROSECONDS, self._send, f"send-{n}", send)
        for execution_id in self.store.stored:
            for pause in self.store.pauses(execution_id):
                self._expect_answer(execution_id, pause)

    def _at(self, us: float, act: Callable[..., None], *args: Any) -> None:
        delay = max(0.0, us - self.process.time.us) / MICROSECONDS
        asyncio.get_running_loop().call_later(delay, act, *args)

    def _send(self, client_id: str, send: Send, to: str | None = None) -> None:
        execution_id = to or send.execution_id
        try:
            if send.kind is MessageKind.CANCEL:
                self.process.app.send_cancel(execution_id)
            else:
                self.process.app.send_signal(execution_id, send.name, send.value, client_id=client_id)
        except ExecutionConflictError:
            assert self.store.get(execution_id).state.is_finished
        self._memory.sent.add(client_id)
        self._moved()

    def _send_signal(self, place: str, name: str, value: Any) -> None:
        self._send(place, signal(0, name, value), self.world.ledger[-1].execution_id)

    def _expect_answer(self, execution_id: str, pause: Pause) -> None:
        if self._script.answers_after is not None:
            key = execution_id, pause.call_id
            opened_at = self._memory.opened.setdefault(key, self.process.time.us)
            self._at(opened_at + self._script.answers_after * MICROSECONDS, self._answer, execution_id, pause)

    def _answer(self, execution_id: str, pause: Pause) -> None:
        if pause in self.store.pauses(execution_id):
            self.process.app.send_resume(execution_id, pause.name, name=pause.name)
            self._moved()

    def _moved(self) -> None:
        if self._news is not None:
            self._news.set()

    async def _move(self) -> None:
        """Nothing can happen but from outside: let that happen."""
        assert self._news is not None
        if self._script.answers_after is None:
            for execution_id in self.store.stored:
                for pause in self.store.pauses(execution_id):
                    self._answer(execution_id, pause)
                    return
        self._news.clear()
        await self._news.wait()  # For ever, unless something is still to be sent: then the simulation is stuck.

    # -- its commits

    def before_commit(self) -> None:
        if self._keeps_moments and self.moments:
            moment = self._moment()
            last = self.moments[-1]
            if dataclasses.replace(last, stored={}) != dataclasses.replace(moment, stored={}):
                self.moments.append(moment)

    def after_commit(self, opened: Sequence[tuple[str, Pause]]) -> None:
        asyncio.get_running_loop().call_soon(self._look)
        for execution_id, pause in opened:
            self._memory.opened[execution_id, pause.call_id] = self.process.time.us
            self._expect_answer(execution_id, pause)
        if self._keeps_moments:
            self._files = {name: (self._folder / name).read_bytes() for name in ("flux.db", "flux.db-wal")}
            self.moments.append(self._moment())

    def _look(self) -> None:
        """Look for messages, which is done by polling otherwise, and that would fill virtual time."""
        for host in self.process.app.engine._hosts.values():
            host.post._look()

    def _moment(self) -> Moment:
        stored = {execution_id: list(events) for execution_id, events in self.store.stored.items()}
        world, memory = self.world, self._memory
        return Moment(
            self._files,
            stored,
            self.process.time.us,
            dict(world.begun),
            list(world.ledger),
            frozenset(memory.sent),
            dict(memory.opened),
        )

    # -- its end

    def ended(self) -> dict[str, Ended]:
        """Every execution as it is stored now."""
        ended = {}
        for execution_id in self.store.stored:
            row = self.store.get(execution_id)
            context = self.process.app.engine.context(row)
            ended[execution_id] = Ended(row.workflow, row.state, row.fence, plain(context.output), context.events)
        return ended


class Trial:
    """One workflow and what happens outside it, without a crash and with any.

    Args:
        folder: For databases, one for each process.
        seed: Of all durations.
    """

    def __init__(self, folder: Path, workflow: Workflow[Any, Any], script: Script, *, seed: int = 0) -> None:
        self.folder, self.workflow, self.script, self.seed = folder, workflow, script, seed
        self._numbers = itertools.count()

    def run(self, **options: Any) -> Course:
        """The course without a crash, and its moments."""
        return self._live(keeps_moments=True, **options)

    def run_from(self, moment: Moment, **options: Any) -> Course:
        """The course of the process that goes on from a moment."""
        return self._live(moment=moment, **options)

    def run_child_from(self, moment: Moment, execution_id: str) -> Moment:
        """Run nothing but one child from a moment on, as a process that took nothing else; gives where it came to."""
        with self._life(moment=moment, keeps_moments=True) as life:
            life.run(only=execution_id)
            return life.moments[-1] if life.moments else moment

    def _live(self, **options: Any) -> Course:
        with self._life(**options) as life:
            life.run()
            return Course(life.ended(), life.world.ledger, life.moments)

    @contextmanager
    def _life(self, **options: Any) -> Iterator[Life]:
        folder = self.folder / f"life-{next(self._numbers)}"
        life = Life(folder, self.workflow, self.script, seed=self.seed, **options)
        try:
            yield life
        finally:
            life.process.close()
            shutil.rmtree(folder)
