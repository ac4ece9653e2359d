"""A SQLite store in a folder of the test, and processes of its own beside it."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import flux.errors
from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.ports import Append, NewExecution
from flux.store.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".flux" / "flux.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """A store whose worker "ada" is registered."""
    with_worker = SqliteStore(path)
    with_worker.register_worker("ada", lease_expires_at=10_000)
    yield with_worker
    with_worker.close()


@pytest.fixture
def append() -> Callable[..., Append]:
    """Builds the append that creates an execution, or the one that follows event `after`."""

    def build(execution_id: str, *, after: int | None = None, data: bytes = b"1", worker: str = "ada") -> Append:
        seq = (after or 0) + 1
        new = NewExecution(workflow="greet", version="1", created_at=1000, worker=worker)
        return Append(
            execution_id=execution_id,
            fence=1,
            expected_seq=seq - 1,
            events=[
                ExecutionEvent(execution_id, seq, ExecutionEventType.TASK_STARTED, "1", "t", data, None, time_us=1000)
            ],
            create=new if after is None else None,
        )

    return build


@pytest.fixture
def spawn() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Runs a script in another Python, up to its first line of output; it goes on until its input closes."""
    children = []

    def start(script: str, *arguments: object) -> "subprocess.Popen[str]":
        source = Path(flux.errors.__file__).parents[1]
        child = subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": str(source)},
        )
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()
