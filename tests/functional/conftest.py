"""Every functional test has a working directory, and so a database, of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import flux.app
from functional.kit import Kit


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of this test: `workflow.run()` makes its database there."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    flux.app.close_all()


@pytest.fixture
def kit(home: Path) -> Iterator[Kit]:
    """Flux on virtual time."""
    kit = Kit(home)
    yield kit
    kit.close()


@pytest.fixture(params=[False, True], ids=["live", "replayed"])
def both(home: Path, request: pytest.FixtureRequest) -> Iterator[Kit]:
    """The same, as it is and with the body replayed after every step: nothing may differ."""
    kit = Kit(home, replay_each_step=request.param)
    yield kit
    kit.close()
