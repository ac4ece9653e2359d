"""One SQLite file as this process holds it: a writer, readers, and the locks under which they may act."""

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flux.errors import CorruptedDatabaseError, StoreError
from flux.files import sync
from flux.settings import Durability
from flux.store.file_lock import FileLock
from flux.store.migrate import migrate
from flux.store.rows import RESTORE

PATIENCE_SECONDS = 5.0
_CHUNK = 1 << 20
_PRAGMAS: dict[str, str | int] = {
    "busy_timeout": int(PATIENCE_SECONDS * 1000),  # First: the others may have to wait.
    "journal_mode": "wal",
    "synchronous": 2,  # FULL: each commit is on disk before it is answered.
    "fullfsync": 1,  # macOS alone distinguishes "handed to the drive" from "on the platter".
    "foreign_keys": 1,
    "trusted_schema": 0,
    "cell_size_check": 1,
    "wal_autocheckpoint": 1000,  # Checkpoints run inside our commits, where we hold the file lock.
}
# NORMAL: the system has each commit before it is answered, and syncs it before a checkpoint, so that power that is cut
# takes the last ones and damages nothing.  https://www.sqlite.org/pragma.html#pragma_synchronous
_PROCESS_PRAGMAS: dict[str, str | int] = {"synchronous": 1}
_READER_PRAGMAS: dict[str, str | int] = {
    "busy_timeout": int(PATIENCE_SECONDS * 1000),
    "query_only": 1,
    "trusted_schema": 0,
    "cell_size_check": 1,
}
_ADVICE = {
    sqlite3.SQLITE_FULL: "The disk is full: free space, and work goes on",
    sqlite3.SQLITE_IOERR: "The disk failed: look at the system log, and check the file system before going on",
    sqlite3.SQLITE_BUSY: "Another program holds the database: close it (`fuser` names it)",
    sqlite3.SQLITE_READONLY: "Make the file and its directory writable for this user",
    sqlite3.SQLITE_CANTOPEN: "See that the file exists and that its directory is writable for this user",
}


class Database:
    """The connections of one process to one file, safe from any thread.

    SQLite before 3.51.3 can corrupt a WAL when two connections write and checkpoint at once.  So every write
    transaction, and every opening and closing (either may checkpoint), happens under a mutex of this process and a
    file lock between processes.  Readers are used by one thread at a time and kept for the next.
    """

    def __init__(self, path: Path, *, durability: Durability = Durability.FULL) -> None:
        self.path = path.absolute()
        self._pragmas = _PRAGMAS if durability is Durability.FULL else _PRAGMAS | _PROCESS_PRAGMAS
        self._owner = _process
        self._closed = False
        self._mutex = threading.Lock()
        self._watching = threading.Lock()
        self._generation = 0  # Counts openings: a reader of an earlier one is not used again.
        self._readers: deque[tuple[int, sqlite3.Connection]] = deque()
        self._writer: sqlite3.Connection | None = None
        self._cursor: sqlite3.Cursor | None = None  # Of the writer; one does for all transactions.
        self._transaction = _Transaction(self)
        self._watcher: sqlite3.Connection | None = None
        self._is_doubtful = False  # Whether the WAL may hold what a failed sync left in the cache of the system alone.
        self._lock = _make_lock(self.path)
        try:
            with self.exclusive():
                self._writer = self._open_writer("rwc")
                self._watcher = self._open_reader()
                self._sync_wal()  # Whoever wrote it last may have been killed before it did.
        except BaseException:
            self._lock.close()
            raise

    @property
    def is_ours(self) -> bool:
        """Whether this process opened it; a forked child did not."""
        return _process == self._owner

    def acquire(self) -> None:
        """Take the right to write, which `release` gives back.

        Raises:
            StoreError: Another thread or process has kept it too long.
        """
        if not self._take(PATIENCE_SECONDS):
            raise StoreError(
                f"{self.path} could not be written to for {PATIENCE_SECONDS:.0f} s: somebody else is writing and does "
                f"not come to an end, as on a stalled disk or in a stopped process. `fuser {self.path}.lock` names the "
                "processes; continue or end the one that hangs"
            )

    def try_acquire(self) -> bool:
        """Take the right to write if it is free at this moment."""
        return self._take(0)

    def release(self) -> None:
        """Let others write."""
        self._lock.release()
        self._mutex.release()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the right to write."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def transaction(self) -> "_Transaction":
        """A write transaction, durable on exit; the caller holds the right to write.

        After any error the connection is not used again: what a failed fsync left in it is unknown.
        """
        return self._transaction

    def begin(self) -> sqlite3.Cursor:
        """Begin a write transaction; `transaction` calls it.

        IMMEDIATE, because a transaction that begins by reading fails at once when another has written meanwhile.
        """
        if self._writer is None:
            self._writer = self._open_writer("rw")
        cursor = self._cursor
        if cursor is None:
            cursor = self._cursor = self._writer.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        if self._is_doubtful:
            self._sync_wal(rewrite=True)
            self._is_doubtful = False
        return cursor

    def failed(self, error: BaseException) -> None:
        """Drop the connection on which a transaction failed; `transaction` calls it.

        Raises:
            StoreError: It was the database that failed.
        """
        self._is_doubtful = self._is_doubtful or isinstance(error, sqlite3.Error)
        self._drop_writer()
        if isinstance(error, sqlite3.Error):
            raise self._explain(error) from error

    @contextmanager
    def write(self) -> Iterator[sqlite3.Cursor]:
        """A write transaction, from taking the right to write to giving it back."""
        with self.exclusive(), self.transaction() as cursor:
            yield cursor

    @contextmanager
    def read(self) -> Iterator[sqlite3.Cursor]:
        """A cursor that cannot write, for this thread alone.  Not to be asked for inside a write transaction."""
        generation, reader = self._borrow_reader()
        cursor = reader.cursor()
        try:
            yield cursor
        except sqlite3.Error as error:
            generation = -1
            raise self._explain(error) from error
        finally:
            cursor.close()  # What is left of a query would hold the next reader to an old state.
            if generation == self._generation:
                self._readers.append((generation, reader))
            else:
                self._close_late(reader)

    def version(self) -> int:
        """A number that differs from the last answer whenever any connection has committed."""
        self.check_open()
        if self._watcher is None:
            self.reopen()  # It could not be, after an error; by now it may.
        with self._watching:
            if self._watcher is None:
                raise StoreError(f"{self.path} is not open since an error: reopen the store")
            try:
                answer: int = self._watcher.execute("PRAGMA data_version").fetchone()[0]
            except sqlite3.Error as error:
                raise self._explain(error) from error
        return (self._generation << 32) + answer  # SQLite counts anew for each connection.

    def reopen(self) -> None:
        """Drop every connection and open the file anew; it must still be there."""
        with self.exclusive():
            self._drop_all()
            self._writer = self._open_writer("rw")
            if self._is_doubtful:
                with self.transaction():
                    pass  # It is settled before anybody reads.
            self._watcher = self._open_reader()

    def close(self) -> None:
        """Close every connection and free the lock; in a forked child, where they are the parent's, do nothing."""
        if self._closed or not self.is_ours:
            return
        with self.exclusive():
            self._closed = True
            self._drop_all()
        self._lock.close()

    def check_open(self) -> None:
        """Raises: StoreError: It was closed, or opened before this process was forked."""
        if _process == self._owner and not self._closed:
            return
        if not self.is_ours:
            raise StoreError(
                f"{self.path} was opened before this process was forked, and SQLite cannot be carried across a fork: "
                "open a store of its own in the child, or start the child with `spawn`"
            )
        raise StoreError(f"{self.path} was closed by this process: open a new store")

    def _take(self, seconds: float) -> bool:
        self.check_open()  # Before the mutex, which a fork may have left locked for ever.
        if not self._mutex.acquire(timeout=seconds):
            return False
        taken = False
        try:
            self.check_open()
            taken = self._lock.acquire(seconds=seconds)
        except OSError as error:
            raise StoreError(f"{self.path}.lock cannot be locked: {error}. See that its disk works") from error
        finally:
            if not taken:
                self._mutex.release()
        return taken

    def _sync_wal(self, *, rewrite: bool = False) -> None:
        """Have on disk what SQLite reads from the WAL as committed, before it counts.

        Args:
            rewrite: Write the same bytes once more. After a failed sync the system may take them for written, and a
                later sync for nothing to do.  No one else may write meanwhile.
        """
        try:
            with self.path.with_name(f"{self.path.name}-wal").open("r+b") as wal:
                while rewrite and (chunk := wal.read(_CHUNK)):
                    wal.seek(-len(chunk), os.SEEK_CUR)
                    wal.write(chunk)
                wal.flush()
                sync(wal.fileno())
        except FileNotFoundError:
            return
        except OSError as error:
            raise StoreError(f"{self.path}-wal cannot be written: {error}. {_ADVICE[sqlite3.SQLITE_IOERR]}") from error

    def _open_writer(self, mode: str) -> sqlite3.Connection:
        writer = self._connect(mode, self._pragmas)
        try:
            migrate(writer, self.path)
        except sqlite3.Error as error:
            writer.close()
            raise self._explain(error) from error
        except BaseException:
            writer.close()
            raise
        return writer

    def _open_reader(self) -> sqlite3.Connection:
        return self._connect("rw", _READER_PRAGMAS)  # "ro" could not take part in the WAL.

    def _connect(self, mode: str, pragmas: dict[str, str | int]) -> sqlite3.Connection:
        connection = None
        try:
            connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode={mode}", uri=True, isolation_level=None, check_same_thread=False
            )
            for name, wanted in pragmas.items():
                connection.execute(f"PRAGMA {name} = {wanted}")
                answer = connection.execute(f"PRAGMA {name}").fetchone()
                if answer != (wanted,):
                    raise StoreError(
                        f"{self.path} answers {answer} to PRAGMA {name} = {wanted}, without which nothing would be "
                        "safe: is it on a network file system? Put it on a local disk"
                    )
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, sqlite3.Error):
                raise self._explain(error) from error
            raise
        return connection

    def _borrow_reader(self) -> tuple[int, sqlite3.Connection]:
        self.check_open()
        try:
            return self._readers.pop()
        except IndexError:
            with self.exclusive():
                return self._generation, self._open_reader()

    def _close_late(self, reader: sqlite3.Connection) -> None:
        """Close a reader that was in use when the others were dropped, when our own lock may be closed already."""
        lock = FileLock(_lock_path(self.path))
        lock.acquire(seconds=PATIENCE_SECONDS)
        reader.close()
        lock.close()

    def _drop_writer(self) -> None:
        writer, self._writer, self._cursor = self._writer, None, None
        if writer is not None:
            with suppress(sqlite3.Error):
                writer.close()  # Rolls back.

    def _drop_all(self) -> None:
        self._generation += 1
        with self._watching:
            watcher, self._watcher = self._watcher, None
        while self._readers:
            _, reader = self._readers.pop()
            reader.close()
        if watcher is not None:
            watcher.close()
        self._drop_writer()

    def _explain(self, error: sqlite3.Error) -> StoreError:
        return explained(self.path, error)


def explained(path: Path, error: sqlite3.Error) -> StoreError:
    """What an error of SQLite means for a database, and what to do about it."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}:  # The last: tables, columns.
        return CorruptedDatabaseError(f"{path} is damaged: {error}. {RESTORE}")
    advice = _ADVICE.get(code, "Whether it was stored is unknown: reopen the store, then send it again")
    return StoreError(f"{path} cannot be used: {error}. {advice}")


class _Transaction:
    """A write transaction of a database, as a context; the one who has the right to write uses it, so one is enough."""

    __slots__ = ("_cursor", "_database")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cursor: sqlite3.Cursor | None = None

    def __enter__(self) -> sqlite3.Cursor:
        try:
            cursor = self._cursor = self._database.begin()
        except BaseException as error:
            self._database.failed(error)
            raise
        return cursor

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        cursor, self._cursor = self._cursor, None
        if error is None and cursor is not None:
            try:
                cursor.execute("COMMIT")
            except BaseException as failure:
                self._database.failed(failure)
                raise
        elif error is not None:
            self._database.failed(error)


_process = os.getpid()  # Kept, because asking costs a system call, and every transaction wants to know.


def _forked() -> None:
    global _process  # noqa: PLW0603 - of this process.
    _process = os.getpid()


os.register_at_fork(after_in_child=_forked)


def _make_lock(path: Path) -> FileLock:
    directory = path.parent
    try:
        if not directory.exists():
            directory.mkdir(parents=True, exist_ok=True)
            (directory / ".gitignore").write_text("*\n")  # Only in a folder of our own making.
        return FileLock(_lock_path(path))
    except OSError as error:
        raise StoreError(
            f"the database cannot be kept in {directory}: {error}. Make that directory writable for this user, or put "
            "the database elsewhere"
        ) from error


def _lock_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
