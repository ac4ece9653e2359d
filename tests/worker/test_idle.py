"""A server that has nothing to do asks its database next to nothing, and writes its heartbeat only."""

import contextlib
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import pytest

from e2e.command import HEAD, environment, wait_for

SECONDS = 7.0
UNCOUNTED = ("BEGIN", "COMMIT", "PRAGMA", "--")  # Of a trace: what begins a transaction, and what a trigger did.


@contextlib.contextmanager
def counted(directory: Path, *words: str):
    """A `flux dev` whose statements are written down; gives its address and the file."""
    (directory / "hello.py").write_text(f"{HEAD}\n@workflow\nasync def hello(ctx):\n    return ctx.input\n", "utf-8")
    statements = directory / "statements"
    command = [sys.executable, str(Path(__file__).with_name("counted.py")), str(statements), "dev", "hello.py", *words]
    with subprocess.Popen(command, cwd=directory, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        try:
            address = next(word for line in process.stderr for word in line.split() if word.startswith("http://"))
            wait_for(lambda: httpx2.get(f"{address}/healthz").status_code == 200)
            yield address, statements
        finally:
            process.terminate()
            process.communicate(timeout=20)


def queries(statements: Path) -> list[str]:
    lines = statements.read_text("utf-8").splitlines()
    return [line for line in lines if not line.startswith(UNCOUNTED) or " " not in line]


def commits(database: Path, seconds: float, meanwhile=lambda: None) -> int:
    """How often something was written in this time."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        seen, count, end = connection.execute("PRAGMA data_version").fetchone(), 0, time.monotonic() + seconds
        while time.monotonic() < end:
            meanwhile()
            time.sleep(0.02)
            now = connection.execute("PRAGMA data_version").fetchone()
            count, seen = count + (now != seen), now
    return count


@pytest.mark.slow
def test_an_idle_server_makes_under_two_queries_a_second_and_writes_its_heartbeat_only(tmp_path):
    with counted(tmp_path, "--port", "0", "--no-reload") as (address, statements):
        time.sleep(0.5)
        before = len(queries(statements))
        written = commits(tmp_path / ".flux" / "flux.db", SECONDS)
        asked = queries(statements)[before:]
        assert len(asked) < 2 * SECONDS, asked
        assert written <= 3  # The heartbeat comes every third of a lease of 10 s.

        def start():
            httpx2.post(f"{address}/api/workflows/hello/executions", json={"input": 1})

        before = len(queries(statements))
        assert commits(tmp_path / ".flux" / "flux.db", 1, start) > 3  # The control: one that works.
        assert len(queries(statements)) - before > 2
