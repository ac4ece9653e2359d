"""What the laws share: folders in memory, and one live run of each body of the table."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.constructs import TABLE
from support.simulation import Run, Simulation, folder_in_memory

Live = Callable[[str], tuple[Simulation, Run]]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """As pytest's own, in memory."""
    with folder_in_memory() as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def live() -> Iterator[Live]:
    """The simulation of a body, and its run without a crash."""
    runs: dict[str, tuple[Simulation, Run]] = {}

    with folder_in_memory() as folder:

        def run(name: str) -> tuple[Simulation, Run]:
            if name not in runs:
                simulation = Simulation(Path(folder) / name, TABLE[name], seed=3)
                runs[name] = simulation, simulation.run()
            return runs[name]

        yield run
