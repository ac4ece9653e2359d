"""Every test here has an app of its own, which keeps what tasks say; the test decides when it is stored."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flux.app import App
from flux.engine import launcher
from flux.settings import Settings


@pytest.fixture
def make_app(workdir: Path) -> Iterator[Callable[..., App]]:
    """Makes apps; the last one runs the workflows of the test."""
    apps: list[App] = []
    found = launcher._find

    def make(name: str = "flux", **settings: Any) -> App:
        app = App(Settings(database=workdir / f"{name}.db", **settings))
        apps.append(app)
        launcher.install(lambda: app)
        return app

    yield make
    launcher.install(found)  # type: ignore[arg-type]
    for app in apps:
        app.close()


@pytest.fixture
def app(make_app: Callable[..., App]) -> App:
    return make_app(keep_output=True)
