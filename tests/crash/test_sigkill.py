"""A process may be killed at any instruction: what was acknowledged stays, and what was done is not done again."""

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from crash.checker import Checker, Violation
from crash.processes import child

KILLS = 100
LANES = 2
FAILED_SEEDS: list[int] = []  # Seeds that once found a fault; each is tried again, for ever.


class World:
    """A directory in which executions are run, killed and run again until they are finished."""

    def __init__(self, directory: Path, rng: random.Random, build: str) -> None:
        directory.mkdir()
        self.directory, self._rng, self._build = directory, rng, build
        self._order = rng.choice(["ONE_BY_ONE", "TOGETHER"])
        self._durability = rng.choice(["full", "process"])  # A process that dies takes nothing with it in either.
        self.inputs = {f"{directory.name}-{n}": rng.randrange(100) for n in range(rng.randint(1, 3))}
        self.checker = Checker(directory)

    def run(self, kills: int) -> int:
        """Kill it at up to so many random moments, then let it end; returns how many there were.

        Raises:
            Violation: A promise was broken.
        """
        for killed in range(kills):
            if not self._run_until_killed():
                return killed
        self._run_to_the_end()
        return kills

    def _run_until_killed(self) -> bool:
        with self._start() as victim:
            if self._rng.random() < 0.9:  # Else it may be killed before it has begun.
                victim.line("up")
            was_killed = victim.kill_after(self._rng.uniform(0, 0.12))
        self.checker.look([*self.inputs])
        return was_killed

    def _run_to_the_end(self) -> None:
        with self._start() as victim:
            assert victim.end() == 0
        self.checker.look([*self.inputs])

    def _start(self):
        wanted = [f"{id_}={value}" for id_, value in self.inputs.items()]
        return child("victim.py", self.directory, self._order, self._build, *wanted, FLUX_DURABILITY=self._durability)


def faultless(directory: Path, inputs: dict[str, int]) -> dict[str, object]:
    """What the same executions give when nobody disturbs them."""
    world = World(directory, random.Random(0), "sound")
    world.inputs = inputs
    world.run(0)
    return world.checker.outputs()


def lane(directory: Path, seed: str, build: str, kills: int) -> list[World]:
    """One world after another, until so many kills have hit."""
    rng, worlds, left = random.Random(seed), [], kills
    for number in count():
        if left <= 0:
            return worlds
        build_here = rng.choice(["sound", "slow_disk"]) if build == "sound" else build
        worlds.append(World(directory / f"{seed}-{number}", rng, build_here))
        left -= worlds[-1].run(min(left, rng.randint(1, 12)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*FAILED_SEEDS, None])
def test_kill_9_at_random_moments_loses_nothing_acknowledged_and_repeats_nothing_recorded(tmp_path, seed):
    seed = random.SystemRandom().randrange(10**9) if seed is None else seed
    print(f"seed {seed}")

    with ThreadPoolExecutor(LANES) as pool:
        lanes = [pool.submit(lane, tmp_path, f"{seed}-{n}", "sound", KILLS // LANES) for n in range(LANES)]
        worlds = [world for each in lanes for world in each.result()]

    inputs = {id_: value for world in worlds for id_, value in world.inputs.items()}
    outputs = {id_: output for world in worlds for id_, output in world.checker.outputs().items()}
    assert outputs == faultless(tmp_path / "faultless", inputs)
    interrupted = sum(world.checker.interruptions.total() for world in worlds)
    print(f"{len(worlds)} worlds, {len(inputs)} executions, {interrupted} tasks interrupted")
    assert interrupted >= KILLS / 10, "the kills did not meet running tasks: this run proved nothing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "broken"),
    [
        ("no_output_commit", "took effect|which is not stored"),
        ("results_in_memory", "took effect|is lost|which is not stored"),
    ],
)
def test_the_checker_finds_a_build_that_is_broken(tmp_path, build, broken):
    seed = random.SystemRandom().randrange(10**9)
    print(f"seed {seed}")

    with pytest.raises(Violation, match=broken):
        lane(tmp_path, str(seed), build, 60)
