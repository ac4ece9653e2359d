"""A thousand seeds hold every rule, and every planted bug breaks the rule that is there for it."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simulation.__main__ import main
from simulation.bugs import BUGS, a_claim_makes_no_new_fence
from simulation.rules import RULES
from simulation.run import run_seed
from simulation.universe import Trace

TESTS = Path(__file__).parent.parent
SEEDS = 1000


def simulated(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What `make simulate` runs."""
    paths = [str(TESTS), *sys.path]
    return subprocess.run(
        [sys.executable, "-m", "simulation", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_thousand_seeds_hold_every_rule() -> None:
    run = simulated("--seeds", str(SEEDS))

    assert run.returncode == 0, run.stderr
    assert f"{SEEDS:,} seeds, 0 failed" in run.stdout
    assert run.stderr == ""
    faults = re.search("what went wrong: (.*)", run.stdout)
    assert faults is not None
    counts = {kind: int(count.replace(",", "")) for count, kind in re.findall(r"([\d,]+) ([a-z ]+)", faults[1])}
    assert len(counts) == 8
    assert min(counts.values()) > 100, counts


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "rule"), BUGS.items(), ids=lambda each: getattr(each, "__name__", each))
def test_control_a_rule_finds_that(plant: Any, rule: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        found = next((each for each in map(run_seed, range(SEEDS)) if each.rule), None)

    assert found is not None
    assert found.rule == rule, found.violation
    assert run_seed(found.seed).violation == ""


def test_every_rule_that_is_not_about_the_twin_has_a_bug_that_it_finds() -> None:
    assert set(RULES) - set(BUGS.values()) <= {"again", "twice", "error", "output", "effects"}


@pytest.mark.slow
def test_a_hundred_seeds_have_one_trace_whatever_the_hashes_of_their_texts_and_whoever_runs_them() -> None:
    runs = [simulated("--seeds", "100", "--processes", n, PYTHONHASHSEED=n).stdout.splitlines() for n in ("1", "2")]

    assert runs[0][0].startswith("trace ")
    assert runs[0][:2] == runs[1][:2]


def test_two_seeds_have_two_traces_and_one_seed_has_one() -> None:
    digests = [run_seed(seed, Trace()).digest for seed in (1, 2, 1)]

    assert digests[0] == digests[2] != digests[1]


def test_a_failure_is_told_with_its_seed_and_how_to_look_at_it(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a_claim_makes_no_new_fence(monkeypatch)

    assert main(["--seeds", "3", "--processes", "1"]) == 1
    told = capsys.readouterr()
    assert "seed 1 fails: owner (" in told.err
    assert "3 seeds, " in told.out
    assert "python -m simulation --seed N --trace, for N in " in told.out
    assert main(["--seed", "1", "--trace"]) == 1
    assert " rule     owner: " in capsys.readouterr().out
