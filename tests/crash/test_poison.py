"""A workflow that ends every process that runs it is put aside, with the reason; its neighbours hardly notice."""

import collections
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from crash.processes import HERE, SOURCE
from crash.supervised import DEATHS_AT_MOST, schedule, work
from flux.domain.execution import POISON, POISON_TAKEOVERS
from flux.store.sqlite import SqliteStore

ENDS = {"exits": 3, "crashes": -signal.SIGSEGV, "grows": -signal.SIGKILL}

pytestmark = pytest.mark.slow


def effects(directory: Path) -> collections.Counter[tuple[str, str]]:
    lines = [line.split() for line in (directory / "ledger").read_text().splitlines()]
    return collections.Counter((who, what) for who, what, _ in lines)


def rows(directory: Path):
    with closing(SqliteStore(directory / ".flux" / "flux.db")) as store:
        return {row.execution_id: row for row in store.list(limit=1000)}


def flux(directory: Path, *arguments: str, code: int = 0) -> str:
    command, env = [sys.executable, "-m", "flux", *arguments], {**os.environ, "PYTHONPATH": f"{SOURCE}:{HERE}"}
    ended = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == code, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("how", ENDS)
def test_what_ends_its_process_each_time_is_tried_five_times_and_put_aside_with_the_reason(tmp_path, how):
    schedule(tmp_path, f'poison 1 "{how}"', "healthy 10 [3,0.01]")

    assert work(tmp_path) == [ENDS[how]] * POISON_TAKEOVERS

    found, poison = rows(tmp_path), f"poison-0-{how}"
    assert effects(tmp_path)[poison, how] == POISON_TAKEOVERS
    assert found.pop(poison).blocked_reason == POISON
    assert {row.state for row in found.values()} == {"COMPLETED"}
    shown = flux(tmp_path, "executions", "show", poison)
    assert "blocked" in shown
    assert "taken over 5 times" in " ".join(shown.split())


def test_a_person_who_asks_has_poison_tried_again(tmp_path):
    schedule(tmp_path, 'poison 1 "exits"')
    work(tmp_path)

    flux(tmp_path, "run", f"{HERE / 'pool.py'}:poison", "--id", "poison-0-exits", code=3)
    assert rows(tmp_path)["poison-0-exits"].blocked_reason is None

    assert work(tmp_path) == [3] * (POISON_TAKEOVERS - 1)
    assert effects(tmp_path)["poison-0-exits", "exits"] == 2 * POISON_TAKEOVERS


def test_control_without_quarantine_poison_ends_processes_for_ever(tmp_path):
    schedule(tmp_path, 'poison 1 "exits"')

    assert len(work(tmp_path, build="no_quarantine", lanes=1)) == DEATHS_AT_MOST
    assert rows(tmp_path)["poison-0-exits"].blocked_reason is None


def blamed(directory: Path, build: str) -> set[str]:
    """Poison that ends its process at once, among neighbours whose first task takes longer than that."""
    schedule(directory, "healthy 10 [1,0.4]", 'poison 1 "exits"')
    work(directory, build=build, lanes=1)
    return {id_ for id_, row in rows(directory).items() if row.blocked_reason}


def test_what_died_with_the_poison_before_it_could_get_further_is_not_blamed(tmp_path):
    assert blamed(tmp_path, "sound") == {"poison-0-exits"}
    assert {row.state for row in rows(tmp_path).values() if row.workflow == "healthy"} == {"COMPLETED"}


def test_control_without_isolation_the_neighbours_of_poison_are_blamed_too(tmp_path):
    assert len(blamed(tmp_path, "no_isolation")) > 1


def seconds(directory: Path, *others: str) -> float:
    """How long a hundred healthy executions take."""
    directory.mkdir()
    schedule(directory, *others, "healthy 100 [11,0.1]")
    began = time.monotonic()
    work(directory)
    took = time.monotonic() - began
    assert [row.state for row in rows(directory).values() if row.workflow == "healthy"] == ["COMPLETED"] * 100
    return took


def test_a_hundred_healthy_executions_beside_poison_lose_less_than_a_tenth_of_their_throughput(tmp_path):
    losses = []
    while len(losses) < 3 and (not losses or min(losses) >= 0.1):  # Others may disturb a measurement, or two.
        alone = seconds(tmp_path / f"alone-{len(losses)}")
        beside = seconds(tmp_path / f"beside-{len(losses)}", 'poison 1 "exits"')
        losses.append(beside / alone - 1)
        print(f"alone {alone:.2f} s, beside poison {beside:.2f} s")

    assert min(losses) < 0.1
