"""The figures that the engine promises, beside plain commits of the same disk in the same run."""

import gc
import importlib.util
import os
from pathlib import Path
from statistics import median

import pytest

TRIES = 3  # A machine has other things to do now and then; what it can do it must show once in three.

_spec = importlib.util.spec_from_file_location("bench", Path(__file__).parent / "bench.py")
bench = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bench)


def best_of_tries(measure, holds):
    for _ in range(TRIES):
        figures = measure()
        if holds(figures):
            return figures
    return figures


@pytest.fixture
def database(tmp_path, monkeypatch):
    gc.freeze()  # Thousands of tests are collected: what a search for garbage in them costs is not the engine's.
    monkeypatch.setenv("FLUX_DATABASE", str(tmp_path / "flux.db"))
    monkeypatch.chdir(tmp_path)
    bench.tasks_per_second(bench.sequential, 1000)  # Warm.
    yield
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.timeout(400)  # Nine rounds on a busy machine.
def test_tasks_keep_pace_with_the_disk_and_their_cost_is_flat(database):
    """Half of what a quiet machine shows, whose disk and processor differ less: this finds what has become much slower.

    `make bench` shows the figures themselves.  The 10,000th task costs what the 100th does.
    """

    def measure():
        rounds = [bench.engine_round() for _ in range(3)]
        return {name: round(median(each[name] for each in rounds), 3) for name in rounds[0]}

    def holds(figures):
        return (
            figures["sequential_by_c"] >= 0.25
            and figures["parallel_by_c"] >= 1
            and figures["cost_at_10000_by_100"] <= 1.5
        )

    figures = best_of_tries(measure, holds)

    assert holds(figures), figures


@pytest.mark.slow
def test_importing_and_a_first_run_are_quick(tmp_path, monkeypatch):
    """Importing costs at most twice asyncio and pydantic, a first run from an empty directory at most five times."""
    for name in [name for name in os.environ if name.startswith("FLUX_")]:
        monkeypatch.delenv(name)

    def holds(figures):
        return figures["import_by_base"] <= 2 and figures["hello_by_base"] <= 5

    figures = best_of_tries(bench.start_figures, holds)

    assert holds(figures), figures
