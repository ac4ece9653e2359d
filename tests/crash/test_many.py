"""Ten thousand branches or waiting executions, a thousand levels: done, in little memory, at a flat cost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from crash.processes import HERE, SOURCE

GIGABYTE = 1024
TRIES = 2  # A machine has other things to do now and then.
FLAT = 2.3  # Twice as many take twice the time, and a little for the memory.

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def crowd(directory: Path, what: str, count: int) -> dict[str, float]:
    directory.mkdir()
    ended = subprocess.run(
        [sys.executable, str(HERE / "crowd.py"), what, str(count)],
        cwd=directory,
        env={"PYTHONPATH": SOURCE, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout)


@pytest.mark.parametrize(("what", "count"), [("branches", 10_000), ("waiting", 5_000)])
def test_twice_as_many_cost_twice_as_much(what: str, count: int, tmp_path: Path) -> None:
    for attempt in range(TRIES):
        few = crowd(tmp_path / f"few-{attempt}", what, count)
        many = crowd(tmp_path / f"many-{attempt}", what, 2 * count)
        assert few["output"] == count * (count - 1) // 2
        assert many["output"] == count * (2 * count - 1)
        assert many["mb"] < GIGABYTE
        if many["cpu"] <= FLAT * few["cpu"]:
            return
    pytest.fail(f"{count} took {few['cpu']:.2f} s, and twice as many {many['cpu']:.2f} s")


@pytest.mark.parametrize("what", ["deep", "nesting"])
def test_a_thousand_levels_of_children_and_of_tasks_are_done(what: str, tmp_path: Path) -> None:
    assert crowd(tmp_path / "levels", what, 1_000)["output"] == 1_000
