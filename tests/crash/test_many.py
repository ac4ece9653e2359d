"""Ten thousand branches or waiting executions, a thousand levels: done, in little memory, at a flat cost."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import flux.app
from crash.processes import HERE, SOURCE
from flux import pause, task, workflow
from flux.store import database

GIGABYTE = 1024
FLAT = 2.3  # Twice as many take twice the time, and a little for the memory.
DEEP = 1000

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_disk(workdir: Path, monkeypatch: pytest.MonkeyPatch):
    """No power fails here, so nothing need be flushed to the disk."""
    monkeypatch.setitem(database._PRAGMAS, "synchronous", 0)
    yield
    flux.app.close_all()


def crowd(directory: Path, what: str) -> list[float]:
    ended = subprocess.run(
        [sys.executable, str(HERE / "crowd.py"), what],
        cwd=directory,
        env={"PYTHONPATH": SOURCE, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    print(what, ended.stdout)
    return json.loads(ended.stdout)


def test_twenty_thousand_branches_take_twice_as_long_as_half_of_them(tmp_path: Path) -> None:
    some, more, megabytes = crowd(tmp_path, "branches")

    assert megabytes < GIGABYTE
    assert more <= FLAT * some


def test_of_ten_thousand_executions_that_wait_and_are_answered_the_last_cost_what_the_first_cost(
    tmp_path: Path,
) -> None:
    waiting, more_waiting, answered, more_answered, megabytes = crowd(tmp_path, "waiting")

    assert megabytes < GIGABYTE
    assert waiting + more_waiting <= FLAT * waiting
    assert answered + more_answered <= FLAT * answered


# -- a thousand levels


@task
async def count_down(n: int) -> Any:
    return 0 if n == 0 else 1 + await count_down(n - 1)


@task
async def ask_below(n: int) -> Any:
    return await pause("bottom") if n == 0 else 1 + await ask_below(n - 1)


@task
async def fail_below(n: int) -> Any:
    if n == 0:
        raise ValueError("bottom")
    return await fail_below(n - 1)


@workflow
async def counting_tasks(ctx: Any) -> Any:
    return await count_down(ctx.input)


@workflow
async def asking_tasks(ctx: Any) -> Any:
    return await ask_below(ctx.input)


@workflow
async def failing_tasks(ctx: Any) -> Any:
    return await fail_below(ctx.input)


@workflow
async def counting_children(ctx: Any) -> Any:
    return 0 if ctx.input == 0 else 1 + await counting_children(ctx.input - 1)


@workflow
async def asking_children(ctx: Any) -> Any:
    return await pause("bottom") if ctx.input == 0 else 1 + await asking_children(ctx.input - 1)


def test_tasks_a_thousand_levels_inside_each_other_are_done() -> None:
    assert counting_tasks.run(DEEP).output == DEEP


def test_an_error_comes_up_from_a_thousand_levels_of_tasks() -> None:
    error = failing_tasks.run(DEEP).output

    assert (isinstance(error, ValueError), str(error)) == (True, "bottom")


def test_a_pause_inside_a_thousand_levels_of_tasks_is_answered() -> None:
    paused = asking_tasks.run(DEEP)
    assert paused.is_paused

    assert asking_tasks.resume(paused.execution_id, 7).output == DEEP + 7


def test_a_thousand_levels_of_children_are_done() -> None:
    assert counting_children.run(DEEP).output == DEEP


def test_a_pause_below_a_thousand_levels_of_children_is_answered() -> None:
    paused = asking_children.run(DEEP)
    assert paused.is_paused
    app = flux.app.current()
    (lowest,) = (row for row in app.store.list(limit=2 * DEEP) if app.store.pauses(row.execution_id))

    app.send_resume(lowest.execution_id, 7)

    assert asking_children.run(execution_id=paused.execution_id).output == DEEP + 7
