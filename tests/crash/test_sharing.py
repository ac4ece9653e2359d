"""Eight processes write to one file in every way at once: nobody is told that it is locked, and nobody waits long."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from crash.processes import SOURCE, child

PROCESSES = 8
WRITES = int(os.environ.get("FLUX_TEST_SHARED_WRITES", "150"))  # Of each; 10,000 is the whole.

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def list_executions(directory: Path) -> int:
    """How many the command line sees beside the writers."""
    command = [sys.executable, "-m", "flux", "executions", "list", "--json", "--limit", "1000"]
    env = {**os.environ, "PYTHONPATH": SOURCE}
    ended = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 0, ended.stderr
    return len([json.loads(line) for line in ended.stdout.splitlines()])


def share(directory: Path, build: str, looks: int, writes: int = WRITES) -> tuple[list[float], list[str], list[int]]:
    """The seconds of each write, the errors, and what was seen from outside meanwhile."""
    with ExitStack() as stack:
        writers = [
            stack.enter_context(child("sharer.py", directory, build, f"p{n}", str(writes))) for n in range(PROCESSES)
        ]
        for each in writers:
            assert each.line("up")
        for each in writers:
            each.say("go")
        seen = [list_executions(directory) for _ in range(looks)]
        told = [json.loads((each.line("told") or "").removeprefix("told")) for each in writers]
    return sorted(s for seconds, _ in told for s in seconds), [e for _, errors in told for e in errors], seen


def test_of_eight_processes_that_write_at_once_none_is_told_that_the_file_is_locked(tmp_path):
    seconds, errors, seen = share(tmp_path, "sound", 3)

    p99 = seconds[len(seconds) * 99 // 100]
    print(f"{len(seconds)} writes, median {seconds[len(seconds) // 2]:.4f} s, p99 {p99:.3f} s, seen {seen}")
    assert errors == []
    assert p99 < 0.5
    assert seen == sorted(seen)
    assert 0 < seen[0]


def test_control_without_the_lock_between_processes_somebody_is_told(tmp_path):
    _, errors, _ = share(tmp_path, "no_lock", 0, writes=20)

    assert any("locked" in error for error in errors)
