"""The plugin for pytest, as users meet it: a fixture that is there."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TESTS = """
from datetime import timedelta
from flux import workflow
from flux.engine import launcher
from flux.tasks import sleep

before = launcher.current()

@workflow
async def patient(ctx):
    await sleep(timedelta(days=30))
    return ctx.input

def test_on_a_bed(flux_bed):
    assert launcher.current() is flux_bed.app
    assert patient.run(5).output == 5
    assert flux_bed.time.elapsed == timedelta(days=30)

def test_on_another_bed(flux_bed):
    assert flux_bed.time.elapsed == timedelta(0)
    assert flux_bed.store.list() == []

def test_without_a_bed():
    assert launcher.current() is before
"""


def test_the_fixture_is_a_bed_of_the_test_alone_and_gone_afterwards(workdir: Path):
    (workdir / "test_it.py").write_text(TESTS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "flux.testing.plugin",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_pytest_finds_the_plugin_by_its_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert project["entry-points"]["pytest11"] == {"flux": "flux.testing.plugin"}
