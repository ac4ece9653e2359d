"""What `flux check` promises to whoever is about to deploy: which executions the new code can go on with."""

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from e2e.command import HEAD, environment, run, start, wait_for

ORDERS = """
@task
async def reserve(item):
    with open("effects.txt", "a") as file:
        file.write(f"reserve {item}\\n")
    return f"{item} reserved"

@task
async def ship(item, by="post"):
    with open("effects.txt", "a") as file:
        file.write(f"ship {item}\\n")

@workflow
async def order(ctx: ExecutionContext[str]):
    print("the body of", ctx.input)
    reserved = await reserve(ctx.input)
    await pause("approval")
    await ship(ctx.input)
    return reserved
"""
STORAGE = """
@workflow
async def stocktaking(ctx): return await pause("counted")
"""
PREPARE = (
    "import orders, stock\norders.order.run('tea', execution_id='o-1')\nstock.stocktaking.run(1, execution_id='s-1')"
)
CHANGED = ("await reserve(ctx.input)", "await reserve(ctx.input + '!')")
BEHIND = ("await ship(ctx.input)", "await ship(ctx.input, by='courier')")


def python(directory: Path, code: str) -> None:
    subprocess.run([sys.executable, "-c", code], cwd=directory, env=environment(), check=True, timeout=60)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An order and a stocktaking, both of which wait for somebody."""
    (tmp_path / "orders.py").write_text(HEAD + ORDERS)
    (tmp_path / "stock.py").write_text(HEAD + STORAGE)
    python(tmp_path, PREPARE)
    (tmp_path / "effects.txt").unlink()
    return tmp_path


def edit(directory: Path, change: tuple[str, str], name: str = "orders.py") -> None:
    text = (directory / name).read_text()
    assert change[0] in text
    (directory / name).write_text(text.replace(*change))


def content(directory: Path) -> list[str]:
    with closing(sqlite3.connect(directory / ".flux" / "flux.db")) as connection:
        return list(connection.iterdump())


def line_of(directory: Path, text: str) -> int:
    lines = (directory / "orders.py").read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if text in line)


def test_unchanged_code_fits_and_the_exit_code_is_0(project):
    done = run(project, "check", "orders.py", "stock.py")

    assert done.stdout.splitlines() == ["compatible   s-1  stocktaking", "compatible   o-1  order"]
    assert (done.returncode, done.stderr) == (0, "2 compatible, 0 divergent\n")


def test_a_divergent_execution_is_shown_with_its_first_event_and_the_line_and_the_exit_code_is_1(project):
    edit(project, CHANGED)

    done = run(project, "check", "orders.py", "stock.py")

    place = f"event 2, call 1), at {project / 'orders.py'}:{line_of(project, CHANGED[1])}"
    assert done.stdout.splitlines() == [
        "compatible   s-1  stocktaking",
        "divergent    o-1  order: history has reserve(item='tea'), the code made reserve(item='tea!') (" + place,
    ]
    assert done.returncode == 1
    assert "1 compatible, 1 divergent" in done.stderr
    assert "flux.patched('id')" in done.stderr


def test_a_change_of_what_is_still_to_come_fits(project):
    edit(project, BEHIND)

    assert run(project, "check", "orders.py").returncode == 0


def test_nothing_is_run_printed_or_written(project):
    before = content(project)
    with closing(sqlite3.connect(project / ".flux" / "flux.db")) as watching:
        (version,) = watching.execute("PRAGMA data_version").fetchone()
        done = run(project, "check", "orders.py", "stock.py")
        (after,) = watching.execute("PRAGMA data_version").fetchone()

    assert "the body" not in done.stdout + done.stderr
    assert not (project / "effects.txt").exists()
    assert after == version
    assert content(project) == before


def test_a_check_is_told_from_a_command_that_writes(project):
    with closing(sqlite3.connect(project / ".flux" / "flux.db")) as watching:
        (version,) = watching.execute("PRAGMA data_version").fetchone()
        run(project, "executions", "resume", "o-1", "yes")
        (after,) = watching.execute("PRAGMA data_version").fetchone()

    assert after != version
    assert (project / "effects.txt").read_text() == "ship tea\n"


def test_what_the_files_do_not_have_is_named_as_not_checked(project):
    done = run(project, "check", "orders.py")

    assert "not checked  s-1  stocktaking: the files have no such workflow" in done.stdout
    assert "1 not checked: name the files of their workflows, too" in done.stderr
    assert done.returncode == 0


def test_a_program_gets_an_object_a_line(project):
    edit(project, CHANGED)

    done = run(project, "check", "orders.py", "--json")

    answers: dict[str, dict[str, Any]] = {
        each["execution_id"]: each for each in map(json.loads, done.stdout.splitlines())
    }
    assert [answers[id_]["result"] for id_ in ("o-1", "s-1")] == ["divergent", "not checked"]
    assert answers["o-1"]["state"] == "PAUSED"
    assert answers["o-1"]["reason"].startswith("history has reserve(item='tea'), the code made reserve(item='tea!')")


def test_a_blocked_execution_is_checked_on_the_code_that_is_to_unblock_it(project):
    edit(project, CHANGED)
    assert run(project, "executions", "resume", "o-1", "yes").returncode == 1
    blocked = run(project, "check", "orders.py")
    edit(project, CHANGED[::-1])

    assert "divergent    o-1" in blocked.stdout
    assert "compatible   o-1" in run(project, "check", "orders.py").stdout


def test_finished_executions_are_left_out(project):
    run(project, "executions", "resume", "o-1", "yes")
    edit(project, CHANGED)

    done = run(project, "check", "orders.py")

    assert (done.returncode, "o-1" in done.stdout) == (0, False)


def test_a_process_that_runs_an_execution_meanwhile_keeps_it(project):
    (project / "slow.py").write_text(
        f"{HEAD}\n@workflow\nasync def slow(ctx):\n    return [await step(number) for number in range(6)]\n\n@task\n"
        "async def step(number):\n    pathlib.Path('began').touch()\n    while not pathlib.Path('go').exists():\n"
        "        await asyncio.sleep(0.01)\n    return number\n"
    )
    with start(project, "run", "slow.py", "--id", "slow-1") as running:
        wait_for((project / "began").exists)
        done = run(project, "check", "slow.py")
        (project / "go").touch()
        out, _ = running.communicate(timeout=20)

    assert "compatible   slow-1  slow" in done.stdout
    assert (running.returncode, json.loads(out)) == (0, [0, 1, 2, 3, 4, 5])


def test_a_body_that_acts_is_refused_as_it_would_be_and_only_then(project):
    edit(project, ('print("the body of", ctx.input)', 'pathlib.Path("body.txt").write_text("acts")'))

    refused = run(project, "check", "orders.py")
    taken = run(project, "check", "orders.py", FLUX_GUARD_BODIES="false")

    assert "divergent    o-1  order: " in refused.stdout
    assert "body.txt" in refused.stdout
    assert "compatible   o-1" in taken.stdout


def test_without_a_database_there_is_nothing_to_check_and_none_is_made(tmp_path):
    (tmp_path / "stock.py").write_text(HEAD + STORAGE)

    done = run(tmp_path, "check", "stock.py")

    assert (done.returncode, done.stdout) == (0, "")
    assert not (tmp_path / ".flux").exists()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "missing argument"),
        (("none.py",), 2, "none.py has no workflow"),
        (("broken.py",), 2, "broken.py:1"),
        (("gone.py",), 3, "there is no file gone.py"),
        (("orders.py", "twin.py"), 2, "there are two workflows 'order', in orders.py and in twin.py"),
    ],
)
def test_bad_usage_is_told_from_a_divergence(project, words, code, text):
    (project / "none.py").write_text("x = 1\n")
    (project / "broken.py").write_text("def oops(:\n")
    (project / "twin.py").write_text(HEAD + ORDERS)

    done = run(project, "check", *words)

    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr


def test_a_workflow_that_is_imported_gives_way_to_where_it_is_defined(project):
    (project / "all.py").write_text("from orders import order\n")
    edit(project, CHANGED)

    for files in (("all.py", "orders.py"), ("orders.py", "all.py"), ("all.py",)):
        assert "divergent    o-1" in run(project, "check", *files).stdout


def test_a_database_of_an_older_schema_is_refused_not_changed(project):
    path = project / ".flux" / "flux.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    before = content(project)

    done = run(project, "check", "orders.py")

    assert done.returncode == 2
    assert "has schema 1 of " in done.stderr
    assert content(project) == before


@pytest.mark.slow
def test_a_thousand_executions_are_checked_in_less_than_five_seconds(tmp_path):
    (tmp_path / "orders.py").write_text(HEAD + ORDERS)
    code = (
        "import asyncio, orders\n"
        "async def all():\n"
        "    await asyncio.gather(*(orders.order.run_async(f'item {n}', execution_id=f'o-{n}') for n in range(1000)))\n"
        "asyncio.run(all())"
    )
    python(tmp_path, code)
    text = (tmp_path / "orders.py").read_text()
    changed = "await reserve(ctx.input if ctx.input != 'item 500' else 'another')"
    (tmp_path / "orders.py").write_text(text.replace(CHANGED[0], changed))

    began = time.monotonic()
    done = run(tmp_path, "check", "orders.py")
    took = time.monotonic() - began

    print(f"1,000 executions checked in {took:.2f} s")
    assert "999 compatible, 1 divergent" in done.stderr
    assert "divergent    o-500  order: history has reserve(item='item 500')" in done.stdout
    assert took < 5
