"""What is wrong in a database, found by reading all of it; this module is for `flux db check` and for backups."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flux.errors import StoreError
from flux.store.migrate import migration_scripts, schema_of
from flux.store.overflow import Overflow
from flux.store.rows import RESTORE, cached_result, execution_row, history, message
from flux.store.statements import SQL

_MOST = 20  # Of what SQLite finds in the pages of the file.


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and in which execution, if it is in one."""

    text: str
    execution_id: str | None = None


def problems(path: Path, connection: sqlite3.Connection) -> Iterator[Problem]:
    """Check pages, indexes, references and checksums, and that each history and each large value is whole.

    Args:
        path: Of the database; large values are in `outputs` beside it.
        connection: In autocommit, so that no log has to wait until all is read.
    """
    try:
        for (found,) in connection.execute(f"PRAGMA integrity_check({_MOST})").fetchall():
            if found != "ok":
                yield Problem(f"SQLite finds: {found}")
        orphans = [table for table, *_ in connection.execute("PRAGMA foreign_key_check")]
        for table in sorted(set(orphans)):
            yield Problem(f"{orphans.count(table)} rows of {table} belong to nothing that is there")
        if schema_of(connection, path) == len(migration_scripts()):
            yield from _executions(path, connection)
            yield from _cached(path, connection)
    except sqlite3.Error as error:
        yield Problem(f"SQLite cannot read on: {error}")


def _executions(path: Path, connection: sqlite3.Connection) -> Iterator[Problem]:
    overflow = Overflow(path)
    for (execution_id,) in connection.execute("SELECT execution_id FROM executions ORDER BY number").fetchall():
        connection.execute("BEGIN")  # Its row and its events as of one moment.
        try:
            _read(path, connection, overflow, execution_id)
        except (StoreError, sqlite3.Error) as error:
            yield Problem(str(error).removesuffix(RESTORE).strip(), execution_id)
        finally:
            connection.execute("ROLLBACK")


def _read(path: Path, connection: sqlite3.Connection, overflow: Overflow, execution_id: str) -> None:
    """Read an execution with its history, its large values and its inbox.

    Raises:
        StoreError: One of them is not what was written.
    """
    cursor = connection.execute(SQL["find_execution"], (execution_id,))
    record = cursor.fetchone()
    if record is None:
        return
    row = execution_row(path, [name for name, *_ in cursor.description], record)
    records = cursor.execute(SQL["read_events"], (row.number, row.first_seq - 1, row.last_seq)).fetchall()
    for event in history(path, row, row.first_seq - 1, records):
        for data in (event.data, event.detail_data):
            if data is not None:
                overflow.restore(execution_id, data)
    further = "SELECT count(*) FROM events WHERE execution = ? AND seq > ?"
    if count := cursor.execute(further, (row.number, row.last_seq)).fetchone()[0]:
        raise StoreError(f"{path} is damaged: in execution {execution_id}, {count} events stand behind the last one.")
    for each in cursor.execute(SQL["list_messages"], (execution_id,)).fetchall():
        message(path, execution_id, each)


def _cached(path: Path, connection: sqlite3.Connection) -> Iterator[Problem]:
    for key, *record in connection.execute("SELECT key, data, expires_at, checksum FROM cached_results"):
        try:
            cached_result(path, key, record)
        except StoreError as error:
            yield Problem(str(error).removesuffix(RESTORE).strip())
