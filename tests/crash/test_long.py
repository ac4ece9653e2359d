"""A hundred thousand steps: the last costs what the first cost, and they are replayed in seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crash.processes import HERE, SOURCE

FLAT = 1.5
STEPS = int(os.environ.get("FLUX_TEST_LONG_STEPS", "100000"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def long(directory: Path, *arguments: str) -> dict[str, float]:
    command = [sys.executable, str(HERE / "long.py"), *arguments]
    env = {**os.environ, "PYTHONPATH": SOURCE}
    ended = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    print(*arguments, ended.stdout)
    return json.loads(ended.stdout)


def test_step_100_000_costs_what_step_1_000_costs_and_all_are_replayed_in_ten_seconds(tmp_path):
    cost = long(tmp_path, "run", str(STEPS))
    again = long(tmp_path, "resume")

    assert cost["last"] <= FLAT * cost["first"]
    assert again["events"] > 2 * STEPS
    assert again["replay"] < 10
    assert again["grew"] < 500
    assert again["look"] < 0.02
    assert again["reads"] == 0


def test_control_a_build_that_reads_its_history_again_at_each_commit_is_found(tmp_path):
    cost = long(tmp_path, "run", "11000", "rereads")

    assert cost["last"] > FLAT * cost["first"]
