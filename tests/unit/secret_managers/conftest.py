"""A database, a configuration folder and an environment of the test's own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flux.clock import SystemClock
from flux.secret_managers import SecretManager
from flux.store.sqlite import SqliteStore


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    store = SqliteStore(tmp_path / "data" / "flux.db")
    yield store
    store.close()


@pytest.fixture
def open_manager(store: SqliteStore, environment: dict[str, str]) -> Callable[[], SecretManager]:
    """A manager as another process would have it: it knows no key yet."""
    return lambda: SecretManager(store, SystemClock(), environment=environment)


@pytest.fixture
def manager(open_manager: Callable[[], SecretManager]) -> SecretManager:
    return open_manager()
