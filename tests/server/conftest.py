"""What the tests of the server may ask for."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flux
import flux.app
from flux.app import App
from flux.settings import Settings
from server import workflows
from server.hostile import Harmed, connected, raw, read_all
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


@pytest.fixture
def harmed(tmp_path: Path) -> Iterator[Harmed]:
    made = Harmed(tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def server(tmp_path):
    """A server as a process of its own: its id, and its port."""
    (tmp_path / "flows.py").write_text(
        "from flux import ExecutionContext, workflow\n\n\n@workflow\n"
        "async def doubling(ctx: ExecutionContext[object]) -> object:\n    return ctx.input\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "flux", "server", "flows.py", "--port", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(flux.__file__).parents[1])},
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    port = int(re.search(r":(\d+)", process.stderr.readline())[1])
    lines = ("Content-Type: application/json", "Content-Length: 2", "Connection: close")
    with connected(port, raw("POST", "/api/workflows/doubling/executions", *lines, body=b"{}")) as client:
        assert read_all(client).startswith(b"HTTP/1.1 201 ")  # What it loads at first does not count.
    yield process.pid, port
    process.terminate()
    process.wait(10)
    process.stderr.close()
