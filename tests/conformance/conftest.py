"""The stores that the behavioural suite runs on, and a driver that speaks of executions instead of rows."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.ports import Append, AppendResult, NewExecution, Store
from flux.store.memory import Memory, MemoryStore
from flux.store.sqlite import SqliteStore

Opener = Callable[[], Store]


@pytest.fixture(params=["sqlite", "memory"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the test's database: a second call stands for a second process."""
    opened: list[Store] = []
    memory = Memory()

    def opener() -> Store:
        is_sqlite = request.param == "sqlite"
        opened.append(SqliteStore(tmp_path / "flux" / "flux.db") if is_sqlite else MemoryStore(memory))
        return opened[-1]

    yield opener
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Opener) -> Store:
    return open_store()


class Driver:
    """Builds appends with little ceremony."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def events(self, execution_id: str, after: int, count: int, **fields: Any) -> list[ExecutionEvent]:
        """The events after `after`; event n happens at 1000 + n."""
        facts = {"call_id": "1", "name": "task", "data": b'"value"', "detail_data": None} | fields
        kind = ExecutionEventType.TASK_STARTED
        return [
            ExecutionEvent(execution_id, seq, kind, time_us=1000 + seq, **facts)
            for seq in range(after + 1, after + count + 1)
        ]

    def birth(self, execution_id: str, *, worker: str | None = "ada", events: int = 1, **options: Any) -> Append:
        """The append that creates an execution of workflow "greet", version "1"."""
        workflow, created_at = options.pop("workflow", "greet"), options.pop("created_at", 1000)
        return Append(
            execution_id=execution_id,
            fence=0 if worker is None else 1,
            expected_seq=0,
            events=self.events(execution_id, 0, events),
            create=NewExecution(workflow=workflow, version="1", created_at=created_at, worker=worker),
            **options,
        )

    def step(self, execution_id: str, after: int, *, fence: int = 1, events: int = 1, **options: Any) -> Append:
        """An append that follows event `after`."""
        return Append(
            execution_id=execution_id,
            fence=fence,
            expected_seq=after,
            events=self.events(execution_id, after, events),
            **options,
        )

    def send(self, append: Append) -> AppendResult:
        """Store one append and return its answer."""
        (result,) = self.store.append([append])
        return result

    def seqs(self, execution_id: str) -> list[int]:
        """The seqs of the stored history."""
        return [event.seq for event in self.store.events(execution_id)]


@pytest.fixture
def driver(store: Store) -> Driver:
    """A driver of the store, whose worker "ada" is registered."""
    store.register_worker("ada", lease_expires_at=10_000_000)
    return Driver(store)
