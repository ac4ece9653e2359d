"""What a seed is about, but for the faults: the executions, the people, and how many processes there are."""

import random
from dataclasses import dataclass

from simulation.programs import Request, draw_request


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What happens in a seed, and in its twin.

    Args:
        are_started_by_workers: Several of them at once, each with the same id and input; else by a client.
        cancelled: The executions that somebody cancels, unless they have ended; in the twin nobody does.
        murmurs: How many signals each execution gets that it does not wait for.
        impatience: How likely it is that something is sent twice.
        unload_after_seconds: As of the engine.
    """

    seed: int
    requests: tuple[Request, ...]
    are_started_by_workers: bool
    cancelled: tuple[str, ...]
    murmurs: int
    impatience: float
    workers: int
    unload_after_seconds: float

    @classmethod
    def drawn(cls, seed: int) -> "Plan":
        """The plan of a seed."""
        chance = random.Random(f"plan {seed}")
        requests = tuple(draw_request(chance, n) for n in range(chance.choice([1, 1, 2])))
        return cls(
            seed=seed,
            requests=requests,
            are_started_by_workers=chance.random() < 0.5,
            cancelled=tuple(each.execution_id for each in requests if chance.random() < 0.25),
            murmurs=chance.choice([0, 0, 2]),
            impatience=chance.choice([0.0, 0.3]),
            workers=chance.choice([2, 3]),
            unload_after_seconds=chance.choice([0.2, 10.0]),
        )
