"""The database as it lies there; this module is for looking at one that may be damaged, and for changing nothing."""

import sqlite3
from contextlib import closing
from pathlib import Path


def connect(path: Path, *, seconds: float = 1.0) -> "closing[sqlite3.Connection]":
    """A connection that makes and changes no file; to be used in a `with`.

    Args:
        path: Of the database.
        seconds: How long others who hold it are waited for.

    Raises:
        sqlite3.Error: It cannot be opened; what else is wrong shows when it is read.
    """
    # Without a write-ahead log the file is all there is, and must be read as such: SQLite would make an empty log.
    wal = path.with_name(f"{path.name}-wal")
    mode = "ro" if wal.exists() and wal.stat().st_size else "ro&immutable=1"
    return closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=seconds))
