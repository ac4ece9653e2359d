"""What every test may ask for."""

from pathlib import Path

import pytest


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory of the test's own: what is made in it, no other test sees."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
