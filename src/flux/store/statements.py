"""The SQL statements of the SQLite store, by the names of their files."""

from pathlib import Path

SQL = {file.stem: file.read_text("utf-8") for file in (Path(__file__).parent / "sqlite").glob("*_*.sql")}
