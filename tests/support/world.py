"""The world that tasks act on: a ledger of effects, and durations that are a pure function of the call.

A world that remembers is like a service with idempotency keys: a call that is made again after a crash finds its
work where it was, so that it ends when it would have ended.  A world that forgets makes it start from zero.
"""

import asyncio
import contextvars
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from flux import task
from flux.domain.events import ExecutionEvent
from flux.domain.events import ExecutionEventType as Type
from flux.engine.attempt import Attempt
from flux.engine.calls import current_attempt
from flux.testing.virtual_time import MICROSECONDS, VirtualTime

EXECUTION = "execution-1"  # Always: hashes of tasks are salted by it.
LONGEST_US = 5 * MICROSECONDS

Work = tuple[str, int]  # A place where something acts, and the attempt.

# Who makes a call, for those that differ in nothing else.
LABEL: contextvars.ContextVar[Any] = contextvars.ContextVar("LABEL", default="nobody")


@dataclass(frozen=True, slots=True)
class Effect:
    """One attempt that began to act.

    Args:
        generation: Of the execution: how often it began anew, plus one.
        part: "" for the task itself, else "fallback/" or "rollback/".
        attempt: From 0, counting the failed ones before it.
    """

    execution_id: str
    generation: int
    call_id: str
    part: str
    attempt: int
    name: str
    argument: Any


class World:
    """What the tasks of one simulated process see.

    Args:
        seed: Of all durations.
        past: The events before the crash, if the world remembers them.
        begun: When which work began, if the world remembers that.
    """

    current: ClassVar["World"]

    def __init__(
        self, time: VirtualTime, seed: int, past: Iterable[ExecutionEvent] = (), begun: Mapping[Work, int] | None = None
    ) -> None:
        self.time = time
        self.seed = seed
        self.ledger: list[Effect] = []
        self.begun: dict[Work, int] = dict(begun or {})
        failures: dict[str, int] = {}
        for event in past:
            if event.type is Type.TASK_RETRY_FAILED:
                failures[event.call_id] = failures.get(event.call_id, 0) + 1
            elif event.type in {Type.TASK_STARTED, Type.TASK_RETRY_STARTED}:
                self.begun[event.call_id, failures.get(event.call_id, 0)] = event.time_us

    def act(self, argument: Any) -> Work:
        """Enter the ledger; returns what acts, by which `spend` knows it again."""
        running = current_attempt()
        assert running is not None, "a task of the table was called outside a workflow"
        effect = _effect_of(running, argument)
        self.entered(running, effect)
        self.ledger.append(effect)
        place = effect.call_id + effect.part
        if (effect.execution_id, effect.generation) != (EXECUTION, 1):
            place = f"{effect.execution_id}.{effect.generation}.{place}"
        return place, effect.attempt

    def entered(self, running: Attempt, effect: Effect) -> None:
        """Look at an attempt that begins to act."""

    async def spend(self, work: Work, seconds: float | None = None) -> None:
        """Take as long as this work takes: `seconds`, or what the seed says."""
        chance = random.Random(f"{self.seed}:{work}")
        duration = chance.randint(1, LONGEST_US) if seconds is None else round(seconds * MICROSECONDS)
        ends_at = self.begun.setdefault(work, self.time.now()) + duration
        await asyncio.sleep(max(0, ends_at - self.time.now()) / MICROSECONDS)

    @property
    def called(self) -> set[str]:
        """The ids of the calls that acted."""
        return {effect.call_id for effect in self.ledger}


def _effect_of(running: Attempt, argument: Any) -> Effect:
    call, calls = running.call, running._calls
    failed = [e for e in calls.history.calls[call.id].progress if e.type is Type.TASK_RETRY_FAILED]
    return Effect(
        calls.execution_id,
        calls._children.generation,
        call.id,
        running._prefix.removeprefix(f"{call.id}/"),
        len(failed),
        call.target.name,
        argument,
    )


@task
async def work(x: Any, seconds: float | None = None) -> Any:
    """Take its time, and give its argument back."""
    world = World.current
    await world.spend(world.act(x), seconds)
    return x


@task
async def mark() -> Any:
    """Take its time, and say who has asked: equal calls of different branches have different answers."""
    world, label = World.current, LABEL.get()
    await world.spend(world.act(label))
    return label


async def ask(label: Any) -> Any:
    """Make a call that differs in nothing from what others make."""
    LABEL.set(label)
    return await mark()


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
