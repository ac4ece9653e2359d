"""What the store says and does when the disk, the file or the caller fails it."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

import flux.errors
from flux.errors import CorruptedDatabaseError, NewerDatabaseError, StoreError
from flux.ports import AppendResult
from flux.settings import Durability
from flux.store import database
from flux.store.sqlite import SqliteStore

STORED, REFUSED = AppendResult.STORED, AppendResult.REFUSED


def tamper(path: Path, change: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)


@pytest.mark.parametrize(
    "change",
    [
        "data = x'32'",
        "data = NULL",
        "detail_data = x''",
        "name = 'u'",
        "name = CAST(x'ff' AS TEXT)",
        "call_id = '2'",
        "type = 'TASK_FAILED'",
        "fence = 2",
        "time_us = time_us + 1",
        "checksum = checksum + 1",
        "seq = 7",
    ],
)
def test_a_changed_event_is_never_served(store, path, append, change):
    store.append([append("x"), append("x", after=1), append("y")])
    assert len(store.events("x")) == 2  # The control.
    tamper(path, f"UPDATE events SET {change} WHERE execution = 1 AND seq = 2")

    with pytest.raises(CorruptedDatabaseError, match=rf"(?s){path}.*execution x.*event 2.*restore a backup"):
        store.events("x")
    assert len(store.events("y")) == 1


def test_a_missing_event_is_noticed(store, path, append):
    store.append([append("x"), append("x", after=1), append("x", after=2)])
    tamper(path, "DELETE FROM events WHERE seq = 3")

    with pytest.raises(CorruptedDatabaseError, match="event 3 of 3 is missing"):
        store.events("x")
    tamper(path, "DELETE FROM events WHERE seq = 1")
    with pytest.raises(CorruptedDatabaseError, match="event 1"):
        store.events("x")


def test_an_event_that_strayed_into_another_history_is_noticed(store, path, append):
    store.append([append("x"), append("y")])
    tamper(path, "DELETE FROM events WHERE execution = 2")
    tamper(path, "UPDATE events SET execution = 2 WHERE execution = 1")

    with pytest.raises(CorruptedDatabaseError, match="execution y"):
        store.events("y")


def test_an_intact_event_of_an_unknown_type_names_a_newer_flux(store, append):
    class Future:
        _value_ = "TASK_TELEPORTED"

    newer = append("x")
    newer.events[0].type = Future
    store.append([newer])

    with pytest.raises(NewerDatabaseError, match="TASK_TELEPORTED"):
        store.events("x")


def test_a_damaged_history_is_not_claimed_and_does_not_stop_its_neighbours(store, path, append):
    store.append([append("x"), append("y")])
    store.release("x", fence=1)
    store.release("y", fence=1)
    tamper(path, "UPDATE events SET data = x'32' WHERE execution = 1")

    with pytest.raises(CorruptedDatabaseError):
        store.claim("x", worker="ada", version="1", now=2000)
    assert store.get("x").fence == 1
    claims = store.claim_ready(worker="ada", workflows={"greet": "1"}, now=2000, limit=10)
    assert [claim.row.execution_id for claim in claims] == ["y"]
    assert "execution x" in store.get("x").blocked_reason
    assert store.claim_ready(worker="ada", workflows={"greet": "1"}, now=2000, limit=10) == []


def test_a_file_that_is_no_database_is_named(path):
    path.parent.mkdir()
    path.write_bytes(b"not a database at all " * 1000)

    with pytest.raises(CorruptedDatabaseError, match=rf"(?s){path}.*restore a backup"):
        SqliteStore(path)


def test_a_damaged_page_is_named(path, append):
    store = SqliteStore(path)
    store.append([append(f"x{n}", data=b"1" * 500) for n in range(200)])
    store.close()
    with path.open("r+b") as file:
        pages = path.stat().st_size // 4096
        for page in range(pages // 2, pages):  # The schema is in the first ones.
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)

    damaged = SqliteStore(path)
    with pytest.raises(CorruptedDatabaseError, match=str(path)):
        damaged.events("x100")
    damaged.close()


def test_a_full_disk_stores_nothing_and_work_goes_on_when_there_is_space(store, path, append):
    store.append([append("x")])
    pages = store._database._writer.execute("PRAGMA page_count").fetchone()[0]
    store._database._writer.execute(f"PRAGMA max_page_count = {pages}")
    big = [append("y"), append("x", after=1, data=b"1" * 100_000)]

    with pytest.raises(StoreError, match=rf"(?s){path}.*full.*free space"):
        store.append(big)
    assert len(store.events("x")) == 1
    assert store.get("y") is None
    store.reopen()  # A new connection knows no such limit.
    assert store.append(big) == [STORED, STORED]


def test_a_connection_that_failed_is_not_used_again(store, append):
    store.append([append("x")])
    failed = store._database._writer
    failed.execute("PRAGMA max_page_count = 1")
    with pytest.raises(StoreError):
        store.append([append("x", after=1, data=b"1" * 100_000)])

    assert store.append([append("x", after=1)]) == [STORED]
    assert store._database._writer is not failed


def test_a_value_too_big_for_the_database_is_refused_alone(store, append):
    store.append([append("x"), append("y")])
    store._database._writer.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 50_000)
    batch = [append("x", after=1, data=b"1" * 60_000), append("y", after=1), append("z")]

    assert store.append(batch) == [REFUSED, STORED, STORED]
    assert (len(store.events("x")), len(store.events("y")), len(store.events("z"))) == (1, 2, 1)


def test_a_database_that_another_program_holds_is_an_error_after_some_patience(store, path, append, monkeypatch):
    store.append([append("x")])
    store._database._writer.execute("PRAGMA busy_timeout = 1")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"(?s)locked.*close it"):
            store.append([append("x", after=1)])
        other.execute("ROLLBACK")

    assert store.append([append("x", after=1)]) == [STORED]


def test_a_write_transaction_owns_the_database_before_its_first_read(store, path):
    """Else a foreign write after the read would fail it at once, whatever the busy timeout."""
    foreign = "UPDATE workers SET lease_expires_at = 7"
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        with store._database.write() as cursor:
            cursor.execute("SELECT count(*) FROM executions").fetchone()
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute(foreign)
        other.execute(foreign)  # The control: nothing else held it back.


def test_a_pragma_that_is_not_answered_is_an_error(path, monkeypatch):
    monkeypatch.setitem(database._PRAGMAS, "synchronous", 7)

    with pytest.raises(StoreError, match="local disk"):
        SqliteStore(path)


def test_the_pragmas_hold(store):
    writer = store._database._writer
    answers = {name: writer.execute(f"PRAGMA {name}").fetchone()[0] for name in database._PRAGMAS}

    assert answers == database._PRAGMAS
    assert (answers["journal_mode"], answers["synchronous"], answers["foreign_keys"]) == ("wal", 2, 1)


def test_commits_that_survive_a_process_alone_are_left_to_the_system(tmp_path):
    with closing(SqliteStore(tmp_path / "flux.db", durability=Durability.PROCESS)) as store:
        writer = store._database._writer
        answers = {name: writer.execute(f"PRAGMA {name}").fetchone()[0] for name in database._PRAGMAS}

    assert answers == database._PRAGMAS | {"synchronous": 1}


def test_threads_that_append_while_another_writes_share_one_commit(store, append):
    statements = []
    store._database._writer.set_trace_callback(statements.append)
    with ThreadPoolExecutor(9) as pool:
        with store._database.exclusive():
            answers = [pool.submit(store.append, [append(f"x{n}")]) for n in range(9)]
            deadline = time.monotonic() + 3  # Whoever waits for the right to write gives up after five seconds.
            while len(store._gathered._waiting) < 8 and time.monotonic() < deadline:  # The ninth has gone ahead.
                time.sleep(0.001)
        results = [answer.result() for answer in answers]

    assert results == [[AppendResult.STORED]] * 9
    assert statements.count("COMMIT") == 2


def test_readers_cannot_write(store):
    with pytest.raises(StoreError, match="readonly"), store._database.read() as cursor:
        cursor.execute("DELETE FROM events")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(StoreError, match=rf"(?s){tmp_path}/file/.flux.*writable"):
        SqliteStore(tmp_path / "file" / ".flux" / "flux.db")


def test_a_read_only_folder_is_named():
    """In a process without root's rights, for which no folder is read-only."""
    script = """
import os, sys
from pathlib import Path
from flux.errors import StoreError
from flux.store.sqlite import SqliteStore
if os.geteuid() == 0:
    os.setuid(65534)
try:
    SqliteStore(Path(sys.argv[1]) / "flux.db")
except StoreError as error:
    print(error)
"""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o555)
    source = Path(flux.errors.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-c", script, folder],
        check=False,
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
    )
    shutil.rmtree(folder)

    assert f"cannot be kept in {folder}" in run.stdout, run.stderr
    assert "writable" in run.stdout


def test_reopening_a_database_that_is_gone_makes_no_new_one(store, path, append):
    store.append([append("x")])
    for file in path.parent.glob("flux.db*"):
        file.unlink()

    with pytest.raises(StoreError, match="unable to open"):
        store.reopen()
    with pytest.raises(StoreError, match="reopen"):
        store.news()
    assert not path.exists()


def test_a_closed_store_says_so(path, append):
    store = SqliteStore(path)
    store.close()
    store.close()

    for use in (lambda: store.append([append("x")]), lambda: store.get("x"), store.news, store.reopen):
        with pytest.raises(StoreError, match="closed"):
            use()


def test_closing_leaves_no_wal_and_no_descriptor(path, append):
    before = set(os.listdir("/proc/self/fd"))
    store = SqliteStore(path)
    store.register_worker("ada", lease_expires_at=10_000)
    store.append([append("x")])
    store.get("x")
    store.news()
    store.close()

    assert set(os.listdir("/proc/self/fd")) == before
    assert sorted(file.name for file in path.parent.iterdir()) == [".gitignore", "flux.db", "flux.db.lock", "workers"]
    assert list((path.parent / "workers").iterdir()) == []
