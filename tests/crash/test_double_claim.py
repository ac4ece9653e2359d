"""Eight processes with short leases, that often sleep past them: no claim is given twice, and no sleeper writes."""

import collections
import os
import random
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from conformance.conftest import Driver
from crash.checker import Checker
from crash.processes import child
from flux import serde
from flux.store.sqlite import SqliteStore

PROCESSES = 8
EXECUTIONS = int(os.environ.get("FLUX_TEST_CLAIMED", "300"))  # 2,000 is the whole.
REFUSED = 100
FAILED_SEEDS: list[int] = []  # Seeds that once found a fault; each is tried again, for ever.

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def race(directory: Path, build: str, seed: int) -> tuple[collections.Counter[tuple[str, str]], int]:
    """How often each (execution, fence) was given, and how many appends were refused."""
    folder = directory / ".flux"
    with closing(SqliteStore(folder / "flux.db")) as store:
        driver = Driver(store)
        for number in range(EXECUTIONS):
            append = driver.birth(f"x{number}", worker=None, events=0)
            append.events = driver.events(f"x{number}", 0, 1, data=serde.encode({"key": "first"}))
            driver.send(append)
    given: collections.Counter[tuple[str, str]] = collections.Counter()
    refused = 0
    with ExitStack() as stack:
        processes = [
            stack.enter_context(child("claimer.py", folder, build, str(seed + number))) for number in range(PROCESSES)
        ]
        for process in processes:
            while (line := process.line()) not in {None, "end"}:
                what, id_, fence, *_ = line.split()
                given[id_, fence] += what == "given"
                refused += what == "refused"
            assert line == "end", process.end()
    return given, refused


@pytest.mark.parametrize("seed", [*FAILED_SEEDS, None])
def test_of_processes_that_sleep_past_their_lease_no_two_are_given_the_same_claim(tmp_path, seed):
    seed = random.SystemRandom().randrange(10**9) if seed is None else seed
    print(f"seed {seed}")

    given, refused = race(tmp_path, "sound", seed)

    print(f"{given.total()} claims, {refused} refused")
    assert max(given.values()) == 1
    assert refused >= REFUSED * EXECUTIONS / 300
    checker = Checker(tmp_path)
    checker.look([f"x{number}" for number in range(EXECUTIONS)])
    assert len(checker.outputs()) == EXECUTIONS


def test_control_a_build_whose_claims_raise_no_fence_is_found(tmp_path):
    given, _ = race(tmp_path, "same_fence", 1)

    assert max(given.values()) > 1
