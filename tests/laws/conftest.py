"""What the laws share: one live run of each body of the table."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.constructs import TABLE
from support.simulation import Run, Simulation

Live = Callable[[str], tuple[Simulation, Run]]


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Live:
    """The simulation of a body, and its run without a crash."""
    folder: Path = tmp_path_factory.mktemp("live")
    runs: dict[str, tuple[Simulation, Run]] = {}

    def run(name: str) -> tuple[Simulation, Run]:
        if name not in runs:
            simulation = Simulation(folder / name, TABLE[name], seed=3)
            runs[name] = simulation, simulation.run()
        return runs[name]

    return run
