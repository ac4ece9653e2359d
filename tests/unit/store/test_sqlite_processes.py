"""One SQLite file between real processes and threads."""

import os
import signal
import threading

import pytest

from flux.domain.execution import ExecutionState
from flux.errors import StoreError
from flux.ports import AppendResult
from flux.store import database
from flux.store.file_lock import FileLock
from flux.store.sqlite import SqliteStore

OWN = """
import sys
from pathlib import Path
from flux.ports import Append, NewExecution
from flux.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]))
store.register_worker("bob", lease_expires_at=10**18)
new = NewExecution(workflow="greet", version="1", created_at=1000, worker="bob")
store.append([Append(execution_id="x", fence=1, expected_seq=0, events=[], create=new)])
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_killed_process_is_rescued_at_once_and_a_living_one_is_not(path, spawn):
    child = spawn(OWN, path)
    store = SqliteStore(path)

    assert store.rescue(now=2000) == 0  # The control: alive, and its lease runs for ages.
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert store.rescue(now=2000) == 1
    row = store.get("x")
    assert (row.state, row.fence, row.wake_at) == (ExecutionState.SCHEDULED, 1, None)
    assert list((path.parent / "workers").iterdir()) == []
    assert store.rescue(now=2000) == 0
    store.close()


def test_a_stopped_process_is_rescued_when_its_lease_expires(path, spawn):
    child = spawn(OWN, path)
    child.send_signal(signal.SIGSTOP)
    store = SqliteStore(path)

    assert store.rescue(now=10**18 - 1) == 0
    assert store.rescue(now=10**18) == 1
    store.close()


def test_a_killed_worker_may_return_under_the_same_id(path, spawn):
    child = spawn(OWN, path)
    child.send_signal(signal.SIGKILL)
    child.wait()
    store = SqliteStore(path)
    store.register_worker("bob", lease_expires_at=10**18)

    assert store.get("x").state is ExecutionState.SCHEDULED
    store.close()


def test_try_append_gives_up_at_once_while_another_process_writes(store, path, append):
    lock = FileLock(path.with_name("flux.db.lock"))
    lock.try_acquire()

    assert store.try_append([append("x")]) is None
    lock.close()
    assert store.try_append([append("x")]) == [AppendResult.STORED]


def test_try_append_gives_up_at_once_while_another_thread_writes(store, append):
    answers = []
    with store._database.exclusive():
        thread = threading.Thread(target=lambda: answers.append(store.try_append([append("x")])))
        thread.start()
        thread.join()

    assert answers == [None]


def test_a_writer_that_hangs_is_an_error_after_some_patience(store, path, append, monkeypatch):
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 0.01)
    lock = FileLock(path.with_name("flux.db.lock"))
    lock.try_acquire()

    with pytest.raises(StoreError, match=r"(?s)somebody else is writing.*fuser"):
        store.append([append("x")])
    lock.close()
    assert store.append([append("x")]) == [AppendResult.STORED]


def in_child(work) -> str:
    """Run `work` in a forked child and return what it answers."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = str(work())
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent compares it.
            answer = f"{type(error).__name__}: {error}"
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return answer


def test_a_store_is_of_no_use_in_a_forked_child(store, append):
    store.append([append("x")])

    for use in (lambda: store.append([append("x", after=1)]), lambda: store.get("x"), store.news, store.reopen):
        assert "before this process was forked" in in_child(use)
    assert store.append([append("x", after=1)]) == [AppendResult.STORED]


def test_a_child_forked_while_a_thread_writes_does_not_hang(store, append):
    gathered = store._gathered
    with gathered._gathering, gathered._committing, store._database.exclusive():
        assert in_child(lambda: store.append([append("x")])).startswith("StoreError")


def test_closing_in_a_forked_child_leaves_the_parents_store_alone(store, path, append):
    store.append([append("x")])

    assert in_child(store.close) == "None"
    other = SqliteStore(path)
    assert other.rescue(now=2000) == 0  # Its proof of life is still held.
    assert other.get("x").worker == "ada"
    other.close()
    assert store.append([append("x", after=1)]) == [AppendResult.STORED]


def test_a_child_can_open_a_store_of_its_own(store, path, append):
    store.append([append("x")])

    assert in_child(lambda: SqliteStore(path).get("x").execution_id) == "x"


def test_readers_are_shared_out_between_threads_and_used_again(store, append):
    store.append([append("x")])
    held, finish = threading.Barrier(9), threading.Barrier(9)

    def read() -> None:
        with store._database.read() as cursor:
            cursor.execute("SELECT count(*) FROM events").fetchone()
            held.wait()
            finish.wait()

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    held.wait()
    assert len(store._database._readers) == 0
    store.reopen()
    finish.wait()
    for thread in threads:
        thread.join()

    assert len(store._database._readers) == 0  # Those of before the reopening were closed, not kept.
    store.get("x")
    store.get("x")
    assert len(store._database._readers) == 1


def test_one_file_takes_the_writes_of_many_threads_and_stores(store, path, append):
    stores = [store, store, SqliteStore(path), SqliteStore(path)]
    for n in range(4):
        store.append([append(f"x{n}")])

    def work(n: int) -> None:
        for after in range(1, 40):
            assert stores[n].append([append(f"x{n}", after=after)]) == [AppendResult.STORED]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [store.get(f"x{n}").last_seq for n in range(4)] == [40] * 4
    stores[2].close()
    stores[3].close()


def test_a_write_killed_at_any_moment_is_whole_or_absent(path, spawn):
    script = """
import sys
from pathlib import Path
from flux.domain.events import ExecutionEvent, ExecutionEventType
from flux.ports import Append, NewExecution
from flux.store.sqlite import SqliteStore
store, seq = SqliteStore(Path(sys.argv[1])), 0
new = NewExecution(workflow="greet", version="1", created_at=1000, worker="bob")
print("ready", flush=True)
while True:
    kind = ExecutionEventType.TASK_STARTED
    events = [ExecutionEvent("x", seq + n, kind, "1", "t", b"1" * 3000, None, time_us=1) for n in (1, 2, 3)]
    store.append([Append(execution_id="x", fence=1, expected_seq=seq, events=events, create=None if seq else new)])
    seq += 3
    print(seq, flush=True)
"""
    child = spawn(script, path)
    answers = [child.stdout.readline() for _ in range(60)]
    child.send_signal(signal.SIGKILL)
    acknowledged = int((answers + child.stdout.readlines())[-1])

    store = SqliteStore(path)
    row = store.get("x")
    assert row.last_seq in {acknowledged, acknowledged + 3}
    assert [event.seq for event in store.events("x")] == list(range(1, row.last_seq + 1))
    store.close()
