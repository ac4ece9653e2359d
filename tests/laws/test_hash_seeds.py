"""A history that was recorded under one hash seed replays under another: any worker can continue it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flux
from support.across_processes import UNORDERED
from support.constructs import TABLE

TESTS = Path(__file__).parents[1]


def run(action: str, folder: Path, hash_seed: str) -> dict[str, Any]:
    path = os.pathsep.join([str(TESTS), str(Path(flux.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "support.across_processes", action, str(folder)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outputs: dict[str, Any] = json.loads(done.stdout)
    return outputs


@pytest.mark.slow
def test_a_history_recorded_under_one_hash_seed_replays_under_another(tmp_path: Path) -> None:
    """The bodies of the table, and the stories with all that they meet.

    And the control: what is ordered by the hashes of texts does not, and is noticed.
    """
    recorded = run("record", tmp_path, "1")
    replayed = run("replay", tmp_path, "2")

    assert set(recorded) == {*TABLE, UNORDERED}
    assert replayed.pop(UNORDERED) == "diverged"
    recorded.pop(UNORDERED)
    assert replayed == recorded
