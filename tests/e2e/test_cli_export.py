"""What `flux executions export` promises: the whole history as text, which tests replay on changed code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.command import HEAD, environment, run

ORDERS = """
@task
async def reserve(item):
    return f"{item} reserved"

@task.with_options(secret_requests=["TOKEN"])
async def pay(amount, secrets):
    raise ConnectionError(f"no answer to {secrets['TOKEN']}")

@workflow
async def order(ctx: ExecutionContext[str]):
    reserved = await reserve(ctx.input)
    try:
        await pay(5)
    except ConnectionError:
        pass
    return reserved, await pause("\\x85approval\\u202e")
"""
REPLAY = """
import sys, pathlib, orders
from flux.testing import replay
replay(pathlib.Path(sys.argv[1]).read_text("utf-8"), orders.order)
"""
TOKEN = "a secret of 24 characters"
CHANGED = ("await reserve(ctx.input)", "await reserve(ctx.input.upper())")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An order that waits for an approval."""
    (tmp_path / "orders.py").write_text(HEAD + ORDERS)
    assert run(tmp_path, "run", "orders.py", "tea", "--id", "order-7", FLUX_SECRET_TOKEN=TOKEN).returncode == 4
    return tmp_path


def replayed(directory: Path, file: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", REPLAY, file]
    return subprocess.run(
        command, cwd=directory, env=environment(), capture_output=True, encoding="utf-8", check=False, timeout=20
    )


def test_an_exported_history_fits_the_code_that_made_it_and_is_a_readable_difference_to_changed_code(project):
    exported = run(project, "executions", "export", "order-7", "-o", "histories/order-7.json")
    fits = replayed(project, "histories/order-7.json")
    source = (project / "orders.py").read_text()
    (project / "orders.py").write_text(source.replace(*CHANGED))
    does_not = replayed(project, "histories/order-7.json")

    line = next(n for n, text in enumerate(source.splitlines(), start=1) if CHANGED[0] in text)
    assert (exported.returncode, exported.stdout) == (0, "")
    assert exported.stderr == "order-7 exported to histories/order-7.json\n"
    assert (fits.returncode, fits.stderr) == (0, "")
    assert does_not.returncode == 1
    assert (
        "NonDeterminismError: history has reserve(item='tea'), the code made reserve(item='TEA') "
        f"(event 2, call 1), at {project / 'orders.py'}:{line}." in does_not.stderr
    )


def test_without_a_file_it_goes_to_stdout_the_same_values_with_nothing_that_a_terminal_obeys(project):
    run(project, "executions", "export", "order-7", "--output", "order-7.json")
    done = run(project, "executions", "export", "orde")

    text = (project / "order-7.json").read_text("utf-8")
    assert "\x85" in text
    assert not {"\x85", "\u202e"} & set(done.stdout)
    assert json.loads(done.stdout) == json.loads(text)
    assert [json.loads(text)[key] for key in ("execution_id", "workflow", "state")] == ["order-7", "order", "PAUSED"]


def test_secrets_are_redacted_as_they_are_in_the_database(project):
    done = run(project, "executions", "export", "order-7")

    assert "no answer to" in done.stdout
    assert TOKEN not in done.stdout


def test_a_finished_execution_is_exported_to_its_end(project):
    run(project, "executions", "resume", "order-7", "yes")
    run(project, "executions", "export", "order-7", "-o", "order-7.json")

    assert json.loads((project / "order-7.json").read_text())["events"][-1]["type"] == "WORKFLOW_COMPLETED"
    assert replayed(project, "order-7.json").returncode == 0


def test_an_unknown_execution_is_refused_and_no_file_is_made(project):
    done = run(project, "executions", "export", "order-8", "-o", "order-8.json")

    assert (done.returncode, done.stdout) == (3, "")
    assert "there is no execution 'order-8'; did you mean order-7?" in done.stderr.replace(": did", "; did")
    assert not (project / "order-8.json").exists()


def test_a_file_that_cannot_be_written_is_named(project):
    os.mkdir(project / "taken")

    done = run(project, "executions", "export", "order-7", "-o", "taken")

    assert done.returncode == 1
    assert "taken" in done.stderr
