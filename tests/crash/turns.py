"""A process on virtual time, in which anything may happen right before each single turn of its loop.

Messages and crashes come between two turns, so every way in which they can meet the engine's steps and commits can be
tried, one after the other.  A commit is answered some turns after it was asked for, as by a writer thread.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from flux.app import App
from flux.engine.children import scheduled
from flux.engine.engine import Engine
from flux.ports import Append, AppendResult, Store
from flux.settings import Settings
from flux.testing.virtual_time import VirtualLoop, VirtualTime
from support.simulation import _InlineThreads, _StillLease

TURNS = 20_000  # More than any race takes: a loop that turns for ever fails instead of hanging.


class Restless(AssertionError):
    """The loop turned for ever."""


class TurnLoop(VirtualLoop):
    """Counts its turns.

    Attributes:
        plan: What happens right before which turn, in order.
    """

    def __init__(self, time: VirtualTime) -> None:
        super().__init__(time)
        self.turns = 0
        self.plan: list[tuple[int, Callable[[], None]]] = []

    def complete(self, work: Coroutine[Any, Any, Any], turns: int = 0) -> Any:
        """Run it, counting the turns from here; what was planned and has not happened never will."""
        self.turns = turns
        try:
            return self.run_until_complete(work)
        except RuntimeError as error:
            if self.turns < TURNS:
                raise
            raise Restless(f"the loop turns without an end at {self._virtual.us} us") from error
        finally:
            self.plan = []

    def _call_soon(self, callback: Any, args: Any, context: Any) -> Any:
        return super()._call_soon(self._turn, (callback, args), context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return super().call_at(when, self._turn, callback, args, context=context)

    def _turn(self, callback: Any, args: Any) -> None:
        self.turns += 1
        while self.plan and self.plan[0][0] <= self.turns:
            self.plan.pop(0)[1]()
        if self.turns >= TURNS:
            self.stop()
        callback(*args)


class TurnCommitter:
    """Commits some turns after it was asked to, and answers some turns after that."""

    def __init__(self, store: Store, before: int, after: int) -> None:
        self._store, self._before, self._after = store, before, after

    def try_commit(self, appends: Sequence[Append]) -> Sequence[AppendResult] | None:
        return None if self._before or self._after else self._store.append(appends)

    def submit(self, appends: Sequence[Append], done: Callable[[Any], None]) -> None:
        def commit() -> None:
            results = self._store.append(appends)
            self._later(self._after, lambda: done(results))

        self._later(self._before, commit)

    def _later(self, turns: int, then: Callable[[], None]) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._later, turns - 1, then)
        else:
            then()

    def close(self) -> None:
        """Nothing is under way when the loop rests."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """How a process works.

    Args:
        before: Turns before a commit.
        after: Turns before it is answered.
        replayed: Whether the body is replayed after every step.
        nudged: Whether messages come from this process, which need not look for them then.
    """

    before: int = 0
    after: int = 0
    replayed: bool = False
    nudged: bool = True


class Process:
    """One process on the database of a folder."""

    def __init__(self, folder: Path, time: VirtualTime, pace: Pace) -> None:
        self.time, self.pace = time, pace
        self.loop = TurnLoop(time)
        settings = Settings(database=folder / "flux.db", unload_after_seconds=1.0, replay_each_step=pace.replayed)
        self.app = App(settings, clock=time)
        self.store = self.app.store
        lease = self.app._lease = _StillLease(self.store, time, lambda: None, seconds=1e9)
        parts = dataclasses.replace(
            self.app.engine._parts,
            lease=lease,
            threads=_InlineThreads(),
            news_seconds=0.05,
        )
        self.app.engine = Engine(parts, TurnCommitter(self.store, pace.before, pace.after))

    def schedule(self, workflow: Any, execution_id: str, value: Any) -> None:
        """Record a new execution, for whoever claims it."""
        create, data = self.app._new(workflow.definition, value, worker=None)
        assert self.store.append([scheduled(execution_id, create, data)]) == [AppendResult.STORED]

    def tree(self, execution_id: str) -> list[str]:
        """An execution and all that are below it."""
        found = [execution_id]
        for each in found:
            found += [row.execution_id for row in self.store.list(parent_id=each)]
        return found

    async def finish(self, workflow: Any, execution_id: str) -> Any:
        """Run an execution to its end: a pause is waited for, as by a process that serves everything."""
        while True:
            context = await self.app.engine.run(workflow.definition, execution_id)
            if context.has_finished:
                return context
            await asyncio.sleep(0.01)

    def die(self) -> None:
        """Nothing is written any more from this turn on, and the proof of life is gone."""
        self.loop.set_exception_handler(lambda loop, context: None)  # The dead complain of nothing.
        self.store.close()
        self.app.engine.abandon_all()

    def close(self) -> None:
        self.app.close()
        self.loop.close()
