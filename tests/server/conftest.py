"""One server for the tests of a module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import flux.app
from flux.app import App
from flux.settings import Settings
from server import workflows
from server.kit import Served


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder: Path = tmp_path_factory.mktemp("server")
    app = App(Settings(database=folder / "flux.db"))
    yield app
    app.close()
    flux.app.close_all()


@pytest.fixture(scope="module", params=[True, False], ids=["with-code", "without-code"])
def served(app: App, request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server that has the workflows loaded, and one that knows them from what the worker has published."""
    with Served(app, workflows.ALL, has_code=request.param) as served:
        yield served
