"""A simulated process: a real app with the real engine and lease, whose loop, threads and clocks are the universe's."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flux.app import App
from flux.engine.committer import Committer
from flux.errors import BodyError
from flux.settings import Settings
from flux.store.memory import Memory, MemoryStore
from flux.testing.virtual_time import EPOCH_US
from simulation.committer import SimulatedCommitter
from simulation.faults import FaultyStore, Killed, Mix
from simulation.loop import MICROSECONDS, NEVER, ProcessLoop
from simulation.universe import Universe
from support.world import World

if TYPE_CHECKING:
    from simulation.checker import Checker

LEASE_SECONDS = 1.5
PATIENCE_SECONDS = 2.0
GRACE_SECONDS = 1.0
NEWS_SECONDS = 0.2
STOP_SECONDS = 3.0


class ProcessClock:
    """A wall clock that may be wrong, and a monotonic one that is not."""

    def __init__(self, universe: Universe, offset_us: int) -> None:
        self._universe, self.offset_us = universe, offset_us

    def now(self) -> int:
        return EPOCH_US + self._universe.us + self.offset_us

    def monotonic(self) -> float:
        return self._universe.us / MICROSECONDS


class Process:
    """One life of a process, from its start to its death.

    Args:
        name: In traces.
        memory: The database.
        mix: What goes wrong.
        unload_after_seconds: As of the engine.
    """

    def __init__(
        self,
        universe: Universe,
        name: str,
        memory: Memory,
        checker: "Checker",
        mix: Mix,
        *,
        unload_after_seconds: float = 10.0,
    ) -> None:
        self.universe, self.name, self.checker, self.mix = universe, name, checker, mix
        self.is_alive, self.workers = True, set[str]()
        self.blocked_until = self.frozen_until = self.cut_off_until = 0
        self.loop = ProcessLoop(universe, self._lost)
        self.world: World
        skew = round(mix.skew * MICROSECONDS)
        self.clock = ProcessClock(universe, universe.chance.randint(-skew, skew))
        self._inner = MemoryStore(memory)
        self.store: Any = FaultyStore(self, self._inner)
        committer: Committer = SimulatedCommitter(self, patience_seconds=PATIENCE_SECONDS)
        settings = Settings(
            database=Path("no-file"),
            lease_seconds=LEASE_SECONDS,
            cancel_grace_seconds=GRACE_SECONDS,
            unload_after_seconds=unload_after_seconds,
            guard_bodies=False,
        )
        self.app = App(settings, store=self.store, clock=self.clock, committer=committer, news_seconds=NEWS_SECONDS)
        self._served: list[asyncio.Task[None]] = []
        self._has_heart = False
        self.app._lease._start = self._start_heart  # type: ignore[method-assign]  # In place of the thread.
        self.app.engine._watch.wake = lambda: None  # type: ignore[method-assign]  # No body computes for long here.
        universe.begin(self)

    # -- what it does

    def serve(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a coroutine run on its loop; it is cancelled when the process stops."""
        self._served.append(self.loop.create_task(work))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Let one of its threads do something, unless it is dead by then; as soon as it is not frozen."""

        def act() -> None:
            if not self.is_alive:
                return
            if self.universe.us < self.frozen_until:
                self.universe.after((self.frozen_until - self.universe.us) / MICROSECONDS, act)
                return
            with contextlib.suppress(Killed):
                action()

        self.universe.after(seconds, act)

    def latency(self) -> float:
        """How long a commit is on its way."""
        return self.universe.lottery(self.mix.latency)

    def next_due(self) -> int:
        """When its loop can take a turn."""
        return max(self.loop.next_due(), self.blocked_until) if self.is_alive else NEVER

    def turn(self) -> None:
        """Run the next callback of its loop; it may die of that."""
        World.current = self.world
        with contextlib.suppress(Killed):
            self.loop.turn()

    # -- what becomes of it

    def must_live(self) -> None:
        """Raises: Killed: It is dead, and whatever still runs of it does nothing."""
        if not self.is_alive:
            raise Killed

    def is_reachable(self) -> bool:
        """Whether what it has sent arrives."""
        return self.is_alive or self.mix.arrives_late

    def is_cut_off(self) -> bool:
        """Whether it cannot reach the database now."""
        return self.universe.us < self.cut_off_until

    def kill(self, why: str) -> None:
        """It dies, between two callbacks or in the middle of one."""
        if self.is_alive:
            self.universe.note(self.name, f"dies {why}", fault="deaths")
            self.is_alive = False
            self.universe.living.remove(self)
            if not self.mix.leaves_proof:
                self._inner.kill()

    def stop(self) -> None:
        """It is asked to end: it gives back what it owns, if that does not take too long."""
        self.universe.note(self.name, "is asked to stop")
        for task in self._served:
            self.loop.call_soon(task.cancel)
        self.after(STOP_SECONDS, lambda: self.kill("because it did not stop"))
        self._close_when_served()

    def _close_when_served(self) -> None:
        if all(task.done() for task in self._served):
            self._inner.close()
            self.checker.written(self, "remove_worker", (), {}, None)
            self.kill("in peace")
        else:
            self.after(0.1, self._close_when_served)

    def freeze(self, seconds: float, *, wholly: bool = True) -> None:
        """It stands still: all of it, or its loop alone."""
        until = self.universe.us + round(seconds * MICROSECONDS)
        what, fault = ("is frozen", "freezes") if wholly else ("stalls", "stalls")
        self.universe.note(self.name, f"{what} for {seconds:.3f} s", fault=fault)
        self.blocked_until = max(self.blocked_until, until)
        if wholly:
            self.frozen_until = max(self.frozen_until, until)

    def cut_off(self, seconds: float) -> None:
        """The database cannot be reached for a while."""
        self.universe.note(self.name, f"is cut off for {seconds:.3f} s", fault="cuts")
        self.cut_off_until = self.universe.us + round(seconds * MICROSECONDS)

    def step_clock(self, seconds: float) -> None:
        """Somebody sets its wall clock."""
        self.universe.note(self.name, f"has its clock set by {seconds:.3f} s", fault="clock steps")
        self.clock.offset_us += round(seconds * MICROSECONDS)

    def end(self) -> None:
        """The universe is over."""
        self.is_alive = False
        for runners in tuple(self.app.engine._runners.values()):
            for runner in tuple(runners):
                with contextlib.suppress(Killed):
                    runner._close()
        self.loop.end()

    # -- its threads

    def _start_heart(self) -> None:
        if not self._has_heart:
            self._has_heart = True
            self.after(LEASE_SECONDS / 3, self._beat)

    def _beat(self) -> None:
        try:
            self.app._lease.beat()
        except Killed:
            raise
        except Exception as error:  # noqa: BLE001 - as the thread does.
            self.universe.note(self.name, f"has no heartbeat: {error}")
        self.after(LEASE_SECONDS / 3 + self.latency(), self._beat)

    def _lost(self, context: dict[str, Any]) -> None:
        error = context.get("exception")  # A body error is for what a task has left running.
        if self.is_alive and not isinstance(error, Killed | BodyError):
            self.universe.breach("error", f"{self.name}: asyncio says {context.get('message')}: {error!r}")
