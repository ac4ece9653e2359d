"""Large values in files beside the database: small database, checked files, nothing lost in a crash."""

import os
import shutil
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import flux.errors
from flux.errors import CorruptedDatabaseError, StoreError
from flux.ports import Append, AppendResult
from flux.store.overflow import OVERFLOW_BYTES, Overflow
from flux.store.sqlite import SqliteStore

Builder = Callable[..., Append]
LARGE = b"j1" + b"x" * (1 << 20)
SOURCE = str(Path(flux.errors.__file__).parents[1])


def values(path: Path) -> list[Path]:
    """The files of all values of a database."""
    return sorted(file for file in (path.parent / "outputs").rglob("*") if file.is_file())


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.parent.glob("flux.db*"))


@pytest.mark.parametrize("megabytes", [1, 10])
def test_the_database_stays_small(store: SqliteStore, path: Path, append: Builder, megabytes: int) -> None:
    data = b"j1" + bytes([65]) * (megabytes << 20)
    before = size(path)
    for i in range(5):
        assert store.append([append(f"x{i}", data=data)]) == [AppendResult.STORED]

    assert size(path) - before < 200_000  # Most of it the log: a few pages a commit.
    assert [file.read_bytes() == data for file in values(path)] == [True] * 5
    assert all(store.events(f"x{i}")[0].data == data for i in range(5))


def test_what_is_not_large_is_in_the_database_only(store: SqliteStore, path: Path, append: Builder) -> None:
    store.append([append("x", data=b"j1" + b"x" * (OVERFLOW_BYTES - 2))])

    assert values(path) == []
    assert not (path.parent / "outputs").exists()


def test_one_value_is_one_file_however_often_an_execution_records_it(
    store: SqliteStore, path: Path, append: Builder
) -> None:
    store.append([append("x", data=LARGE)])
    (written,) = values(path)
    inode = written.stat().st_ino
    store.append([append("x", data=LARGE)])
    store.append([append("x", after=1, data=LARGE)])

    assert values(path) == [written]
    assert written.stat().st_ino == inode
    assert [event.data == LARGE for event in store.events("x")] == [True, True]


def test_every_execution_has_a_folder_of_its_own_inside(store: SqliteStore, path: Path, append: Builder) -> None:
    """Whatever its id is; an id may be '..', and names that differ in case share a file on some disks."""
    ids = ["..", ".", "a", "A", "a.b", "a:b", "-rf", "x" * 200]
    outside = {file for file in path.parents[1].rglob("*") if "outputs" not in file.parts}
    for id_ in ids:
        store.append([append(id_, data=LARGE)])

    folders = list((path.parent / "outputs").iterdir())
    assert len({folder.name.casefold() for folder in folders}) == len(ids)
    assert all(len(list(folder.iterdir())) == 1 for folder in folders)
    assert {file for file in path.parents[1].rglob("*") if "outputs" not in file.parts} - outside <= {
        path.with_name("flux.db-wal"),
        path.with_name("flux.db-shm"),
    }


def test_a_folder_that_was_moved_with_its_database_is_found(
    store: SqliteStore, path: Path, append: Builder, tmp_path: Path
) -> None:
    store.append([append("x", data=LARGE)])
    store.close()
    shutil.move(path.parent, tmp_path / "elsewhere")

    moved = SqliteStore(tmp_path / "elsewhere" / "flux.db")
    assert moved.events("x")[0].data == LARGE
    moved.close()


# -- damage


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.write_bytes(LARGE[:-1]), "is not what was written"),
        (lambda file: file.write_bytes(LARGE[:-1] + b"y"), "is not what was written"),
        (lambda file: file.write_bytes(b""), "is not what was written"),
    ],
    ids=["deleted", "cut", "changed", "empty"],
)
def test_a_damaged_file_is_an_error_that_names_it_and_stops_nobody_else(
    store: SqliteStore, path: Path, append: Builder, damage: Any, what: str
) -> None:
    store.append([append("bad", data=LARGE), append("good", data=b"j1" + b"y" * (1 << 20))])
    damaged = next(file for file in values(path) if file.parent.name.startswith("bad-"))
    damage(damaged)

    with pytest.raises(CorruptedDatabaseError, match=f"{damaged} {what}: .* execution bad.*other executions"):
        store.events("bad")
    assert store.events("good")[0].data is not None
    assert {row.execution_id for row in store.list()} == {"bad", "good"}

    store.release("bad", fence=1)
    store.release("good", fence=1)
    claims = store.claim_ready(worker="ada", workflows={"greet": "1"}, now=5000, limit=5)
    blocked = store.get("bad")
    assert [claim.row.execution_id for claim in claims] == ["good"]
    assert blocked is not None
    assert str(damaged) in (blocked.blocked_reason or "")


def test_a_file_that_cannot_be_read_is_no_damage(store: SqliteStore, path: Path, append: Builder) -> None:
    store.append([append("x", data=LARGE)])
    (file,) = values(path)
    file.rename(file.with_name("kept"))
    file.mkdir()
    with pytest.raises(StoreError, match=f"{file}, which .* cannot be read") as raised:
        store.events("x")
    assert not isinstance(raised.value, CorruptedDatabaseError)

    file.rmdir()
    file.with_name("kept").rename(file)
    assert store.events("x")[0].data == LARGE


def test_a_file_that_was_cut_is_written_anew_by_the_next_append(
    store: SqliteStore, path: Path, append: Builder
) -> None:
    store.append([append("x", data=LARGE)])
    (file,) = values(path)
    file.write_bytes(b"")
    store.append([append("x", after=1, data=LARGE)])

    assert [event.data == LARGE for event in store.events("x")] == [True, True]


@pytest.mark.parametrize(
    "forged",
    [
        b"f1",
        b"f1[]",
        b"f1{}",
        b'f1{"file": 7}',
        b'f1{"file": "../flux.db"}',
        b'f1{"file": "/etc/passwd"}',
        b'f1{"file": "a-%s/../../flux.db"}' % (b"0" * 32),
        b'f1{"file": "../a-%s/%s"}' % (b"0" * 32, b"0" * 64),
        b'f1{"file": "a-%s/%s\\n"}' % (b"0" * 32, b"0" * 64),
        b'f1{"file": "..-%s/%s"}' % (b"0" * 32, b"0" * 64),
    ],
)
def test_a_marker_leads_to_no_file_but_that_of_a_value(tmp_path: Path, forged: bytes) -> None:
    with pytest.raises(CorruptedDatabaseError, match="no file of it"):
        Overflow(tmp_path / "flux.db").restore("x", forged)


def test_a_symbolic_link_in_place_of_a_value_is_not_followed(store: SqliteStore, path: Path, append: Builder) -> None:
    store.append([append("x", data=LARGE)])
    (file,) = values(path)
    file.rename(path.parent / "elsewhere")
    file.symlink_to(path.parent / "elsewhere")

    with pytest.raises(StoreError, match="cannot be read"):
        store.events("x")


# -- crashes


def test_a_file_is_durable_before_the_transaction_that_refers_to_it(
    store: SqliteStore, path: Path, append: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    fsync = os.fsync

    def syncing(descriptor: int) -> None:
        seen.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split("-")[0])
        assert store.get("x") is None
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", syncing)
    store.append([append("x", data=LARGE)])

    assert seen == [".flux", "outputs", ".new", "x"]  # Two folders that are new, the file, and its name.
    assert store.get("x") is not None


def test_a_folder_is_synced_also_when_the_file_is_there_already(
    store: SqliteStore, path: Path, append: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever wrote it may have died before that."""
    store.append([append("x", data=LARGE)])
    synced: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    store.append([append("x", after=1, data=LARGE)])

    assert synced == [str(values(path)[0].parent)]


def test_a_crash_between_file_and_commit_leaves_a_file_that_nothing_refers_to(
    store: SqliteStore, path: Path, append: Builder
) -> None:
    """And the same append, sent again, finds it."""
    script = """
    import os, sys
    from pathlib import Path
    from flux.domain.events import ExecutionEvent, ExecutionEventType
    from flux.ports import Append, NewExecution
    from flux.store.sqlite import SqliteStore

    store = SqliteStore(Path(sys.argv[1]))
    store._append = lambda appends: os._exit(9)
    event = ExecutionEvent("x", 1, ExecutionEventType.TASK_STARTED, "1", "t", b"j1" + b"x" * (1 << 20), None, time_us=1)
    new = NewExecution(workflow="greet", version="1", created_at=1000, worker="ada")
    store.append([Append(execution_id="x", fence=1, expected_seq=0, events=[event], create=new)])
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    assert subprocess.run(command, env={"PYTHONPATH": SOURCE}, check=False).returncode == 9

    assert store.get("x") is None
    assert [file.read_bytes() for file in values(path)] == [LARGE]
    assert store.append([append("x", data=LARGE)]) == [AppendResult.STORED]
    assert store.events("x")[0].data == LARGE
    assert len(values(path)) == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_an_error_and_nothing_is_appended(
    store: SqliteStore, path: Path, append: Builder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, call, full)
        for send in (store.append, store.try_append):
            with pytest.raises(
                StoreError, match=r"execution x cannot be written to .*outputs.*No space left.*disk has"
            ):
                send([append("x", data=LARGE)])

    assert (store.get("x"), values(path)) == (None, [])
    assert store.append([append("x", data=LARGE)]) == [AppendResult.STORED]


def test_files_are_written_while_others_may_write(store: SqliteStore, path: Path, append: Builder) -> None:
    """A large value on a slow disk must not keep everybody else from the database."""
    rival = SqliteStore(path)
    with rival._database.exclusive():
        assert store.try_append([append("x", data=LARGE)]) is None
        assert len(values(path)) == 1
    assert store.try_append([append("x", data=LARGE)]) == [AppendResult.STORED]
    rival.close()


def test_the_children_of_an_append_spill_too(tmp_path: Path, append: Builder) -> None:
    parent, child = append("parent"), append("child", data=LARGE)
    parent.children = [child]
    overflow = Overflow(tmp_path / "flux.db")

    (spilled,) = overflow.spill_all([parent])

    marker = spilled.children[0].events[0].data
    assert marker is not None
    assert len(marker) < 300
    assert overflow.restore("whoever reads it", marker) == LARGE
    assert child.events[0].data == LARGE


# -- memory


@pytest.mark.slow
def test_a_value_of_100_megabytes_is_held_in_memory_once(store: SqliteStore, append: Builder) -> None:
    """Writing makes no copy of it; reading makes the one that is asked for."""
    new = append("x", data=b"".join([b"j1", b"x" * (100 << 20)]))
    tracemalloc.start()
    try:
        store.append([new])
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        events = store.events("x")
        read = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert events[0].data == new.events[0].data
    assert written < 10 << 20
    assert read < 110 << 20
