"""A read sees everything that was committed before it began, whatever other threads have read on its connection."""

from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.ports import Append, NewExecution
from flux.store.sqlite import SqliteStore


def birth(execution_id: str) -> Append:
    event = ExecutionEvent(execution_id, 1, ExecutionEventType.WORKFLOW_SCHEDULED, "", "w", None, None, time_us=1)
    create = NewExecution(workflow="w", version="1", created_at=1)
    return Append(execution_id=execution_id, fence=0, expected_seq=0, events=[event], create=create)


def test_a_read_that_was_not_exhausted_does_not_hold_back_what_the_next_one_sees(tmp_path):
    store = SqliteStore(tmp_path / "flux.db")
    store.append([birth("a"), birth("b")])
    with store._database.read() as kept:  # As in another thread, whose function has not returned yet.
        kept.execute("SELECT execution_id FROM executions").fetchone()
    store.append([birth("c")])

    assert store.get("c") is not None
    store.close()
    del kept
