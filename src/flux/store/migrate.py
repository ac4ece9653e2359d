"""Bring a database to the schema of this version: numbered scripts, each applied once, in order."""

import sqlite3
from pathlib import Path

from flux.errors import NewerDatabaseError

MIGRATIONS = Path(__file__).parent / "sqlite" / "migrations"


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Apply the migrations that this database has not seen.  The caller holds the file lock.

    `PRAGMA user_version` holds the number of the last one.  It is set in the transaction of the script itself, so
    a process that is killed in between leaves the database as it was before that script.

    Raises:
        NewerDatabaseError: The database has seen migrations that this Flux does not know.
    """
    scripts = migration_scripts()
    version = schema_of(connection, path)
    for number, script in enumerate(scripts[version:], start=version + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def schema_of(connection: sqlite3.Connection, path: Path) -> int:
    """The number of the last migration that this database has seen.

    Raises:
        NewerDatabaseError: This Flux does not know it.
    """
    scripts = migration_scripts()
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(scripts):
        raise NewerDatabaseError(
            f"{path} has schema {version} and this Flux knows up to {len(scripts)}: it was written by a newer Flux, "
            "whose facts this one would not understand. Run that version, or a later one, or use another file"
        )
    return version


def migration_scripts() -> list[str]:
    """The scripts in order; the n-th brings a database to version n."""
    return [script.read_text("utf-8") for script in sorted(MIGRATIONS.glob("*.sql"))]
