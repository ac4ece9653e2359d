"""The world that tasks act on: a ledger of effects, and durations that are a pure function of the call.

A world that remembers is like a service with idempotency keys: a call that is made again after a crash finds its
work where it was, so that it ends when it would have ended.  A world that forgets makes it start from zero.
"""

import asyncio
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flux import task
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.engine.calls import current_attempt
from flux.testing.virtual_time import MICROSECONDS, VirtualTime

LONGEST_US = 5 * MICROSECONDS


@dataclass(frozen=True, slots=True)
class Effect:
    """One attempt that began to act.

    Args:
        attempt: From 0, counting the failed ones before it.
    """

    call_id: str
    name: str
    attempt: int
    argument: Any


class World:
    """What the tasks of one simulated process see.

    Args:
        seed: Of all durations.
        past: The events before the crash, if the world remembers them.
    """

    current: ClassVar["World"]

    def __init__(self, time: VirtualTime, seed: int, past: Iterable[ExecutionEvent] = ()) -> None:
        self.time = time
        self.seed = seed
        self.ledger: list[Effect] = []
        self.failures: dict[str, int] = {}
        self._begun: dict[tuple[str, int], int] = {}
        for event in past:
            self._recall(event)

    def _recall(self, event: ExecutionEvent) -> None:
        if event.type is Type.TASK_RETRY_FAILED:
            self.failures[event.call_id] = self.failures.get(event.call_id, 0) + 1
        elif event.type in {Type.TASK_STARTED, Type.TASK_RETRY_STARTED}:
            self._begun[event.call_id, self.failures.get(event.call_id, 0)] = event.time_us

    def forget_failures_after(self, history: Sequence[ExecutionEvent]) -> None:
        """Even a world that forgets its work in progress knows what is on record."""
        for event in history:
            if event.type is Type.TASK_RETRY_FAILED:
                self.failures[event.call_id] = self.failures.get(event.call_id, 0) + 1

    def act(self, argument: Any) -> tuple[str, int]:
        """Enter the ledger; returns the call and its attempt."""
        running = current_attempt()
        assert running is not None, "a task of the table was called outside a workflow"
        call = running.call
        attempt = self.failures.get(call.id, 0)
        self.ledger.append(Effect(call.id, call.target.name, attempt, argument))
        return call.id, attempt

    async def spend(self, call: tuple[str, int], seconds: float | None = None) -> None:
        """Take as long as this call takes: `seconds`, or what the seed says."""
        chance = random.Random(f"{self.seed}:{call}")
        duration = chance.randint(1, LONGEST_US) if seconds is None else round(seconds * MICROSECONDS)
        ends_at = self._begun.setdefault(call, self.time.now()) + duration
        await asyncio.sleep(max(0, ends_at - self.time.now()) / MICROSECONDS)

    @property
    def called(self) -> set[str]:
        """The ids of the calls that acted."""
        return {effect.call_id for effect in self.ledger}


@task
async def work(x: Any, seconds: float | None = None) -> Any:
    """Take its time, and give its argument back."""
    world = World.current
    await world.spend(world.act(x), seconds)
    return x


@task
async def fail(x: Any, seconds: float | None = None) -> Any:
    """Take its time, and fail."""
    world = World.current
    await world.spend(world.act(x), seconds)
    raise ValueError(x)


@task
async def tidy(x: Any) -> Any:
    """Take its time; when cancelled, take some more."""
    world = World.current
    call = world.act(x)
    try:
        await world.spend(call, 100)
    finally:
        await world.spend((call[0], call[1] + 1000), 0.25)
    return x


@task
def work_in_thread(x: Any) -> Any:
    """A task that is not async."""
    World.current.act(x)
    return x


@task.with_options(pure=True)
async def compute(x: int) -> int:
    """A task that need not wait for the disk."""
    World.current.act(x)
    return x * x


async def _flaky(x: Any, failures: int) -> Any:
    world = World.current
    call = world.act(x)
    await world.spend(call)
    if call[1] < failures:
        world.failures[call[0]] = call[1] + 1
        raise OSError(f"{x} failed {call[1] + 1} times")
    return x


async def _instead(x: Any, failures: int) -> Any:
    World.current.act(x)
    return ("instead of", x, failures)


async def _undo(x: Any, failures: int) -> None:  # noqa: ARG001 - it is given the task's own arguments.
    World.current.act(x)


flaky = task.with_options(name="flaky", retry_max_attempts=3, retry_delay=2)(_flaky)
with_fallback = task.with_options(name="with_fallback", retry_max_attempts=1, fallback=_instead)(_flaky)
with_rollback = task.with_options(name="with_rollback", retry_max_attempts=1, rollback=_undo)(_flaky)


@task.with_options(timeout=1.5)
async def hasty(x: Any, seconds: float) -> Any:
    """A task with a timeout of its own."""
    world = World.current
    await world.spend(world.act(x), seconds)
    return x
