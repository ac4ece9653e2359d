"""What the tests of the server may ask for."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flux
from server.security.hostile import Harmed, connected, raw, read_all


@pytest.fixture
def harmed(tmp_path):
    made = Harmed(tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def server(tmp_path):
    """A server as a process of its own: its id, and its port."""
    (tmp_path / "flows.py").write_text(
        "from flux import ExecutionContext, workflow\n\n\n@workflow\n"
        "async def twofold(ctx: ExecutionContext[object]) -> object:\n    return ctx.input\n"
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
    with connected(port, raw("POST", "/api/workflows/twofold/executions", *lines, body=b"{}")) as client:
        assert read_all(client).startswith(b"HTTP/1.1 202 ")  # What it loads at first does not count.
    yield process.pid, port
    process.terminate()
    process.wait(10)
    process.stderr.close()
