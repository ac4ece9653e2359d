"""The upkeep of a database: to look at it, to copy, to check, to compact and to migrate it; `flux db` prints it."""

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from flux import files
from flux.cli.details import iso
from flux.cli.integrity import Problem, problems
from flux.cli.output import CommandError, Exit, command
from flux.cli.reading import connect
from flux.errors import StoreError
from flux.store.database import PATIENCE_SECONDS, Database, explained
from flux.store.file_lock import FileLock, is_held
from flux.store.migrate import migration_scripts, schema_of

_OLDEST = """
SELECT execution_id, workflow, state, created_at FROM executions
WHERE state IN ('SCHEDULED', 'RUNNING', 'PAUSED') ORDER BY number LIMIT 1
"""


@contextmanager
def opened(path: Path, *, query_only: bool = True) -> Iterator[sqlite3.Connection]:
    """A connection of Flux's kind, without migrating anything: opened and closed under the lock of the file.

    Raises:
        CommandError: There is no database, or it is another program's.
        StoreError: It cannot be used.
    """
    if not path.exists():
        raise CommandError(f"there is no database {path}: name another, as in --database PATH", Exit.NOT_FOUND)
    try:
        with _connected(path, query_only=query_only) as connection:
            if not connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'executions'").fetchone()[0]:
                raise CommandError(f"{path} is no database of Flux: name another, as in --database PATH", Exit.FAILED)
            schema_of(connection, path)
            yield connection
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_NOTADB:
            raise CommandError(f"{path} is no database: name another, as in --database PATH", Exit.FAILED) from None
        raise explained(path, error) from error


@contextmanager
def _connected(path: Path, *, query_only: bool) -> Iterator[sqlite3.Connection]:
    try:
        lock = FileLock(path.with_name(f"{path.name}.lock"))
    except OSError as error:
        if not query_only:
            raise StoreError(f"{path} cannot be written to: {error}. Make its folder writable for this user") from error
        with connect(path) as reader:  # Only looked at, where nothing may be written.
            reader.isolation_level = None
            yield reader
        return
    connection: sqlite3.Connection | None = None
    try:
        with _held(lock, path):
            connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
            connection.execute(f"PRAGMA busy_timeout = {int(PATIENCE_SECONDS * 1000)}")
            connection.execute(f"PRAGMA query_only = {int(query_only)}")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # Opens the log, too.
        yield connection
    finally:
        if connection is not None:
            with suppress(CommandError), _held(lock, path):
                connection.close()
        lock.close()


@contextmanager
def _held(lock: FileLock, path: Path) -> Iterator[None]:
    if not lock.acquire(seconds=PATIENCE_SECONDS):
        raise CommandError(
            f"{path} has been locked for {PATIENCE_SECONDS:.0f} s by somebody who writes and does not come to an end: "
            f"{command('doctor')} names the process",
            Exit.FAILED,
        )
    try:
        yield
    finally:
        lock.release()


def sizes(path: Path) -> dict[str, int]:
    """The bytes of the file, of its log, and of the large values beside it."""
    wal = path.with_name(f"{path.name}-wal")
    return {
        "size_bytes": path.stat().st_size,
        "wal_bytes": wal.stat().st_size if wal.exists() else 0,
        "outputs_bytes": sum(file.stat().st_size for file in _outputs(path)),
    }


def _outputs(path: Path) -> list[Path]:
    """The files of large values; those that somebody is writing have no name yet."""
    return [each for each in (path.parent / "outputs").glob("*/*") if each.is_file() and each.name[0] != "."]


def info(path: Path) -> dict[str, Any]:
    """What is in a database."""
    with opened(path) as connection:
        connection.execute("BEGIN")  # One state of it.
        schema, (free,) = schema_of(connection, path), connection.execute("PRAGMA freelist_count").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        (events,) = connection.execute("SELECT count(*) FROM events").fetchone()
        (inbox,) = connection.execute("SELECT count(*) FROM inbox WHERE data IS NOT NULL").fetchone()
        states = connection.execute("SELECT state, count(*) FROM executions GROUP BY state ORDER BY state").fetchall()
        oldest = connection.execute(_OLDEST).fetchone()
        connection.execute("ROLLBACK")
    shown = None
    if oldest is not None:
        shown = dict(zip(("execution_id", "workflow", "state", "created_at"), oldest, strict=True))
        shown["created_at"] = iso(oldest[3])
    return {
        "path": str(path),
        **sizes(path),
        "free_bytes": free * page_bytes,
        "schema": schema,
        "known_schema": len(migration_scripts()),
        "executions": dict(states),
        "events": events,
        "inbox": inbox,
        "oldest_unfinished": shown,
    }


def check(path: Path) -> list[Problem]:
    """Everything that is wrong in a database."""
    with opened(path) as connection:
        return list(problems(path, connection))


def backup(path: Path, target: Path) -> list[Problem]:
    """Copy a database while others use it; the copy is there whole or not at all, and is checked.

    Its large values go into `outputs` beside it, where it finds them.  Those never change, and several copies may
    share them.

    Returns:
        What is wrong in the copy: it is kept, since that is wrong in the database, too.

    Raises:
        CommandError: The target exists, or cannot be written.
    """
    if os.path.lexists(target):
        raise _taken(target)
    new = target.with_name(f".new-{secrets.token_hex(8)}")
    try:
        with opened(path) as source:
            files.make_folder(target.parent.absolute())
            os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, path.stat().st_mode & 0o777))
            found = _copy(path, source, new)
        _name(new, target)
    except OSError as error:
        raise CommandError(
            f"the backup cannot be written to {target}: {error}. Nothing is there: see that its folder can be written "
            "to and has space, and back up again",
            Exit.FAILED,
        ) from error
    finally:
        for left in (new, Path(f"{new}-journal"), Path(f"{new}-wal"), Path(f"{new}-shm")):
            with suppress(OSError):
                left.unlink()
    return found


def _name(new: Path, target: Path) -> None:
    try:
        os.link(new, target)  # Unlike a renaming, it replaces nothing.
    except FileExistsError:
        raise _taken(target) from None
    files.sync_folder(target.parent)


def _taken(target: Path) -> CommandError:
    return CommandError(f"{target} exists, and a backup overwrites nothing: name another file", Exit.USAGE)


def _copy(path: Path, source: sqlite3.Connection, new: Path) -> list[Problem]:
    with closing(sqlite3.connect(new, isolation_level=None)) as copy:
        try:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # One file, without a log beside it.
        except sqlite3.Error as error:
            raise OSError(str(error)) from error
        for value in _outputs(path):  # After the copy: what that refers to was there before.
            kept = new.parent / "outputs" / value.parent.name / value.name
            if not (kept.is_file() and kept.stat().st_size == value.stat().st_size):
                files.write(kept, files.read(value))
        found = list(problems(new, copy))
    with new.open("rb") as written:
        files.sync(written.fileno())
    return found


def compact(path: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Give the space of what was deleted back to the disk; returns the sizes before and after.

    Nobody can write meanwhile.  The lease of a process that runs executions would run out, and what it runs would be
    taken from it: so there may be none.

    Raises:
        CommandError: A process runs executions here.
    """
    with opened(path, query_only=False) as connection:
        before, lock = sizes(path), FileLock(path.with_name(f"{path.name}.lock"))
        try:
            with _held(lock, path):  # Whoever wants to begin must write first.
                workers = [name for (name,) in connection.execute("SELECT worker FROM workers")]
                alive = [each for each in workers if is_held(path.parent / "workers" / f"{each}.lock")]
                if alive:
                    raise CommandError(
                        f"{len(alive)} {'process uses' if len(alive) == 1 else 'processes use'} {path}, and could not "
                        "write while it is compacted, so that the leases of what they run would run out: stop them "
                        f"first ({command('workers', 'list')} names them)",
                        Exit.FAILED,
                    )
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            lock.close()
    return before, sizes(path)


def migrate(path: Path) -> tuple[int, int]:
    """Bring a database to the schema of this Flux; returns the numbers before and after."""
    with opened(path) as connection:
        before = schema_of(connection, path)
    Database(path).close()
    return before, len(migration_scripts())
