"""A disk that answers nothing for longer than the lease: no task is started meanwhile, and none is done twice."""

import re
import shutil
import time
from pathlib import Path

import pytest

from crash.checker import Checker
from crash.processes import child

LEASE = 0.5
FREEZE = 2.0
SLACK = 0.1  # An attempt that was begun in time notes it a little later.
FROZEN = re.compile(r"\d+ +(\d+\.\d+) fdatasync\(.*DELAYED\) <(\d+\.\d+)>")

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace delays system calls: install it"),
    pytest.mark.slow,
]


def freeze(directory: Path, build: str = "sound") -> tuple[list[float], float, float]:
    """When tasks that wait for no commit were started, and the moments of frost and thaw."""
    when = "when=25+1000"  # Once a thread.
    prefix = ("strace", "-f", "-qq", "-ttt", "-T", "-o", "trace", "-e", "trace=fdatasync")
    delay = ("-e", f"inject=fdatasync:delay_enter={FREEZE:.0f}s:{when}")
    env = {"FLUX_LEASE_SECONDS": str(LEASE)}
    with child("frozen.py", directory, build, prefix=(*prefix, *delay), **env) as first:
        pid = (first.line("up") or "").removeprefix("up ")
        time.sleep(0.3)
        with child("frozen.py", directory, "sound", **env) as second:  # It would take over if it could.
            assert [each.line("result") for each in (first, second)] == ["result 190"] * 2
            assert (first.end(), second.end()) == (0, 0)
    found = [(float(at), float(took)) for at, took in FROZEN.findall((directory / "trace").read_text())]
    frost, took = found[0]
    looks = [line.split() for line in (directory / "looks").read_text().splitlines()]
    return [float(at) for at, who in looks if who == pid], frost, frost + took


def test_while_the_disk_is_frozen_no_task_is_started_beyond_the_lease_and_none_is_done_twice(tmp_path):
    starts, frost, thaw = freeze(tmp_path)

    assert any(frost - 0.3 < at < frost for at in starts)
    assert [at for at in starts if frost + LEASE + SLACK < at < thaw] == []
    assert thaw - frost >= FREEZE
    checker = Checker(tmp_path)
    checker.interruptions.update(("busy", f"act-{n}") for n in range(40))
    checker.look(["busy"])
    repeated = [line.split()[1] for line in (tmp_path / "ledger").read_text().splitlines()]
    assert len(repeated) - len(set(repeated)) <= 1, "one takeover repeats one task at most"


def test_control_a_build_that_trusts_its_lease_blindly_starts_tasks_while_the_disk_is_frozen(tmp_path):
    starts, frost, thaw = freeze(tmp_path, "blind_trust")

    assert [at for at in starts if frost + LEASE + SLACK < at < thaw]
