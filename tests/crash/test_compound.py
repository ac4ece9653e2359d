"""A process that is killed again while it recovers, or finds the disk full then: as if it had happened once."""

import os
import random
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crash.checker import Checker, Violation
from crash.processes import Child, child
from crash.supervised import schedule

WORLDS = int(os.environ.get("FLUX_TEST_COMPOUND", "30"))  # 200 is the whole.
LANES = 2
CRASHES = 20
FAILED_SEEDS: list[int] = []  # Seeds that once found a fault; each is tried again, for ever.
EXECUTIONS = [f"healthy-{n}-[30,0.01]" for n in range(4)]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def begun(directory: Path, wanted: str = "healthy 4 [30,0.01]") -> Path:
    directory.mkdir()
    schedule(directory, wanted)
    return directory


def live(maker: Child, seconds: float, build: str = "sound") -> int:
    maker.say(f"{seconds} {build} work 4")
    return int(maker.line() or 1)


def suffer(directory: Path, seed: str, build: str = "sound") -> int:
    """Kill it in its work, and twice or three times more in its recovery; returns how many kills hit.

    Raises:
        Violation: A promise was broken.
    """
    rng, checker = random.Random(seed), Checker(begun(directory))
    lives = [rng.uniform(0.05, 0.3)] + [rng.uniform(0, 0.5) ** 2 for _ in range(rng.choice([1, 1, 1, 1, 2]))]
    kills = 0
    with child("pool.py", directory) as maker:
        for number, seconds in enumerate(lives):
            is_full = build == "sound" and number and rng.random() < 0.25
            code = live(maker, seconds, "full_at_first" if is_full else build)
            assert code in {0, -9}
            kills += code != 0
            checker.look(EXECUTIONS)
        assert live(maker, 60, rng.choice(["sound", "full_at_first"])) == 0
    checker.look(EXECUTIONS)
    assert checker.outputs() == dict.fromkeys(EXECUTIONS, 200)
    return kills


@pytest.mark.parametrize("seed", [*FAILED_SEEDS, None])
def test_what_is_killed_again_while_it_recovers_loses_and_repeats_nothing(tmp_path, seed):
    seed = random.SystemRandom().randrange(10**9) if seed is None else seed
    print(f"seed {seed}")

    with ThreadPoolExecutor(LANES) as threads:
        kills = list(threads.map(lambda n: suffer(tmp_path / str(n), f"{seed}-{n}"), range(WORLDS)))

    print(f"{sum(kills)} kills in {len(kills)} worlds")
    assert sum(kills) > 1.5 * WORLDS


def test_control_a_build_that_acts_before_the_commit_is_found(tmp_path):
    with pytest.raises(Violation, match="took effect"):
        for number in range(WORLDS):
            suffer(tmp_path / str(number), str(number), "no_output_commit")


def test_the_last_of_many_recoveries_takes_no_longer_than_the_first(tmp_path):
    directory = begun(tmp_path / "x", "healthy 4 [400,0.01]")
    with child("pool.py", directory) as maker:
        for crash in range(CRASHES):
            assert live(maker, 0.12, "sound") == -9, f"it had come to its end after {crash} crashes"

    took = [float(line) for line in (directory / "recoveries").read_text().splitlines()]
    print([round(each, 3) for each in took])
    assert len(took) > CRASHES / 2
    first, last = statistics.median(took[1:6]), statistics.median(took[-5:])
    assert last <= 2 * first + 0.01
