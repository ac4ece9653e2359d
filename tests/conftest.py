"""What every test may ask for."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's configuration folder, for this test run alone: keys of secrets are made there on first use."""
    folder = tmp_path_factory.mktemp("configuration")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder))
        yield folder


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory of the test's own: what is made in it, no other test sees."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def logging_as_found() -> Iterator[None]:
    """A test that leaves the log muted makes another one fail, far from it; it is told of here."""
    ours = logging.getLogger("flux")

    def state() -> tuple[int, int, bool, bool]:
        return logging.root.manager.disable, ours.level, ours.disabled, ours.propagate

    before = state()
    yield
    assert state() == before, "this test left the log of flux changed"
