"""Races replay: a thousand programs, each crashed somewhere and continued by a process that hashes texts otherwise."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import flux
from support.races import CASES, UNORDERED, Race

TESTS = Path(__file__).parents[1]
SEEDS = int(os.environ.get("FLUX_RACE_SEEDS", "1000"))
SHARES = 2  # Of processes at once.


def start(action: str, file: Path, hash_seed: int, *seeds: int) -> "subprocess.Popen[str]":
    path = os.pathsep.join([str(TESTS), str(Path(flux.__file__).parents[1])])
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "support.races", action, str(file), *map(str, seeds)],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err[-3000:]
    answer: dict[str, Any] = json.loads(out)
    return answer


def in_processes(folder: Path, action: str, hash_seeds: list[int]) -> list[dict[str, Any]]:
    size = SEEDS // SHARES
    return [
        answer(process)
        for process in [
            start(action, folder / f"share-{share}", hash_seed, share * size, (share + 1) * size)
            for share, hash_seed in enumerate(hash_seeds)
        ]
    ]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_race_that_crashed_has_the_same_winner_in_a_process_that_hashes_otherwise(tmp_path: Path):
    """And the control: what is ordered by the hashes of texts has not, and is noticed."""
    chance = random.Random(f"races {SEEDS}")
    hash_seeds = chance.sample(range(1, 2**32), 2 * SHARES)
    in_processes(tmp_path, "record", hash_seeds[:SHARES])

    answers = in_processes(tmp_path, "replay", hash_seeds[SHARES:])

    same = sum((Counter(answer["same"]) for answer in answers), Counter[str]())
    others = [answer["others"] for answer in answers]
    print(f"{SEEDS} races, {sum(same[case] for case in CASES)} with the same course; hash seeds {hash_seeds}")
    print(dict(same))
    unordered = [seeds for each in others for seeds in each.pop(UNORDERED, [])]
    assert others == [{}] * SHARES
    assert sum(same[case] for case in CASES) == SEEDS
    assert same[UNORDERED] < len(unordered) / 5, "texts came in the same order: the hash seeds do not differ"


def test_the_seeds_make_races_of_every_case_with_2_to_50_branches():
    races = [Race(seed) for seed in range(SEEDS)]

    assert set(CASES) == {
        *("gather_of_two_sequences", "as_completed", "wait_for_the_first", "task_group"),
        *("timeouts", "shield", "cancellation"),
        *("timeouts_at_one_moment", "task_group_at_one_moment", "cancellation_at_one_moment"),
    }
    assert {race.case for race in races} == set(CASES)
    for case in CASES:
        assert {race.branches for race in races if race.case == case} >= {2, 50}
