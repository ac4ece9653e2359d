"""Killed in calls inside tasks, in children and in histories that begin anew, an execution repeats nothing stored."""

import random
import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

from crash.checker import Violation
from crash.processes import PATIENCE_SECONDS, child

KILLS = 40
LANES = 2
FAILED_SEEDS: list[int] = []  # Seeds that once found a fault; each is tried again, for ever.


def check(log: list[str], where: str) -> None:
    """An effect is repeated only if a process was killed, and never after its result was stored."""
    open_effects: dict[str, bool] = {}  # By key: whether a process was killed since it began.
    stored: set[str] = set()
    for what, *words in map(str.split, log):
        if what == "killed":
            open_effects = dict.fromkeys(open_effects, True)
        elif what == "stored":
            stored.add(words[0])
        elif what == "began":
            (key,) = words
            if key in stored:
                raise Violation(f"{where}: {key} was done again after its result was stored")
            if not open_effects.get(key, True):
                raise Violation(f"{where}: {key} was done twice, and nobody was killed")
            open_effects[key] = False


def live(directory: Path, build: str, execution: str, value: int, rng: random.Random, kills: int) -> tuple[int, str]:
    """Run an execution in processes of which so many are killed; returns how many were, and the result.

    Raises:
        Violation: Something was repeated.
    """
    directory.mkdir(parents=True)
    log, killed = directory / "log", 0
    with child("nested.py", directory, build) as server:
        while True:
            seconds = rng.uniform(0.03, 0.25) if killed < kills else PATIENCE_SECONDS - 5
            server.say(f"{seconds} {execution} {value}")
            code = int(server.line())
            if code == 0:
                break
            assert code == -signal.SIGKILL
            assert killed < kills, "it does not come to an end"
            killed += 1
            with log.open("a") as lines:
                lines.write("killed\n")
            check(log.read_text().splitlines(), execution)
    check(log.read_text().splitlines(), execution)
    return killed, log.read_text().splitlines()[-1]


def lane(directory: Path, seed: str, build: str, kills: int) -> dict[str, tuple[int, str]]:
    """One execution after another, until so many kills have hit; gives the input and the result of each."""
    rng, left, results = random.Random(seed), kills, {}
    for number in count():
        if left <= 0:
            return results
        execution, value = f"{seed}-{number}", rng.randrange(1000)
        killed, result = live(directory / execution, build, execution, value, rng, min(left, rng.randint(8, 12)))
        results[execution] = value, result
        left -= killed
    raise AssertionError


@pytest.mark.slow
@pytest.mark.parametrize("seed", [*FAILED_SEEDS, None])
def test_what_is_stored_at_any_depth_is_not_repeated_by_a_process_that_comes_after_a_kill(tmp_path: Path, seed) -> None:
    seed = random.SystemRandom().randrange(10**9) if seed is None else seed
    print(f"seed {seed}")

    with ThreadPoolExecutor(LANES) as pool:
        lanes = [pool.submit(lane, tmp_path, f"{seed}-{n}", "sound", KILLS // LANES) for n in range(LANES)]
        results = {execution: result for each in lanes for execution, result in each.result().items()}

    repeated, calm = 0, tmp_path / "calm"
    for execution, (value, result) in results.items():
        assert live(calm / execution, "sound", execution, value, random.Random(0), 0) == (0, result)
        repeated += began(tmp_path / execution) - began(calm / execution)
    print(f"{len(results)} executions, {repeated} effects repeated")
    assert repeated, "the kills did not meet running tasks: this run proved nothing"


def began(directory: Path) -> int:
    return (directory / "log").read_text().count("began ")


@pytest.mark.slow
def test_the_check_finds_a_build_that_forgets_calls_inside_tasks(tmp_path: Path) -> None:
    with pytest.raises(Violation, match="after its result was stored"):
        lane(tmp_path, "broken", "forget_calls_inside", KILLS)
