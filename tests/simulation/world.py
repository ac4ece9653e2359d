"""What tasks act on, and what is checked at the moment at which they act."""

import asyncio
import random
from typing import TYPE_CHECKING, Any

from flux.engine.attempt import Attempt
from simulation.process import Process
from simulation.universe import MICROSECONDS
from support.world import Effect, Work, World

if TYPE_CHECKING:
    from simulation.people import Client

LONGEST_SECONDS = 0.8

Key = tuple[str, Any, str, int]  # What acts, wherever its call was made: (task, argument, part, attempt).


def key_of(effect: Effect) -> Key:
    return effect.name, repr(effect.argument), effect.part, effect.attempt


class SimulatedWorld(World):
    """The world as one process sees it; it forgets what a crash has interrupted.

    Args:
        client: Who sends the signals that tasks ask for.
    """

    def __init__(self, process: Process, seed: int, client: "Client") -> None:
        super().__init__(process.clock, seed)  # type: ignore[arg-type]
        self._process, self._client = process, client

    def entered(self, running: Attempt, effect: Effect) -> None:
        self._process.must_live()
        self._process.universe.note(self._process.name, f"acts: {effect}")
        fence = running._calls._log._fence
        is_pure = bool(getattr(running.call.target, "pure", False))
        self._process.checker.acted(self._process, effect, fence, is_pure=is_pure)

    async def spend(self, work: Work, seconds: float | None = None) -> None:
        chance = random.Random(f"{self.seed}:{work}")
        drawn = chance.uniform(0, LONGEST_SECONDS) if chance.random() < 0.8 else 0.0
        await asyncio.sleep(round((drawn if seconds is None else seconds) * MICROSECONDS) / MICROSECONDS)

    def send(self, place: str, name: str, value: Any) -> None:
        """Somebody outside answers what a task has done, with a signal."""
        self._client.signal(self.ledger[-1].execution_id, name, value, client_id=place)
