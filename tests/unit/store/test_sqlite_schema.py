"""The schema, its migrations, and the plans of the statements."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import flux.store.sqlite
from flux.errors import NewerDatabaseError, StoreError
from flux.store import migrate
from flux.store.sqlite import SqliteStore

FOLDER = Path(flux.store.sqlite.__file__).with_suffix("")
STATEMENTS = {file.stem: file.read_text() for file in sorted(FOLDER.glob("*_*.sql"))}
SCANS = {
    "count_executions",
    "count_states",
    "list_executions",
    "list_workers",
    "measure_queue",
    "release_orphans",
    "search_executions",
    "show_workers",
}


def schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name").fetchall()


def test_the_migrations_reach_the_schema(store, path):
    with closing(sqlite3.connect(path)) as migrated, closing(sqlite3.connect(":memory:")) as written:
        written.executescript((FOLDER / "schema.sql").read_text())

        assert schema(migrated) == schema(written)


def test_every_statement_says_why_and_is_used():
    sources = "".join(file.read_text() for file in FOLDER.parent.glob("*.py"))
    for name, statement in STATEMENTS.items():
        assert statement.startswith("-- "), name
        assert f'"{name}"' in sources, name


def plan(name: str) -> list[str]:
    statement = re.sub(r"--.*", "", STATEMENTS[name])
    named = dict.fromkeys(re.findall(r":(\w+)", statement))
    values = named or (None,) * statement.count("?")
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript((FOLDER / "schema.sql").read_text())
        return [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]


@pytest.mark.parametrize("name", sorted(set(STATEMENTS) - SCANS))
def test_no_statement_scans_a_table(name):
    assert [step for step in plan(name) if re.match(r"SCAN (executions|events|pauses|inbox|workers)", step)] == []


def test_a_scan_would_be_seen():
    """The control of the test above."""
    assert plan("list_executions")[:1] == ["SCAN executions"]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("advance_execution", "SEARCH executions USING INTEGER PRIMARY KEY (rowid=?)"),
        ("park_execution", "SEARCH inbox USING INDEX inbox_waiting (execution=?)"),
        ("read_events", "SEARCH events USING PRIMARY KEY (execution=? AND seq>? AND seq<?)"),
        ("find_due", "SEARCH executions USING INDEX executions_due (workflow=? AND wake_at=?)"),
        ("find_due", "SEARCH executions USING INDEX executions_due (workflow=? AND wake_at<?)"),
        ("release_worker", "SEARCH executions USING INDEX executions_owned (worker=?)"),
        ("release_orphans", "SCAN executions USING INDEX executions_owned"),
    ],
)
def test_a_statement_uses_its_index(name, step):
    assert step in plan(name)


def test_a_newer_database_is_refused_and_left_alone(path):
    SqliteStore(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")

    with pytest.raises(NewerDatabaseError, match="newer Flux"):
        SqliteStore(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (99,)


def test_each_migration_is_applied_once_and_whole(path, monkeypatch):
    SqliteStore(path).close()
    scripts = [*migrate.migration_scripts(), "CREATE TABLE second (n INTEGER) STRICT", "CREATE TABLE; nonsense"]
    monkeypatch.setattr(migrate, "migration_scripts", lambda: scripts)

    with pytest.raises(StoreError, match="syntax error"):
        SqliteStore(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(scripts) - 1,)
        assert connection.execute("SELECT count(*) FROM second").fetchone() == (0,)

    scripts[-1] = "CREATE TABLE third (n INTEGER) STRICT"
    SqliteStore(path).close()
    SqliteStore(path).close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(scripts),)


def test_what_a_database_from_before_labels_knows_has_none(path):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as old:
        old.executescript("".join(migrate.migration_scripts()[:4]))
        old.execute("INSERT INTO workers (worker, lease_expires_at, process) VALUES ('ada', 5, 'host:1')")
        old.execute("INSERT INTO workflows (name, version, location, description) VALUES ('greet', '1', '', '')")
        old.execute("PRAGMA user_version = 4")
        old.commit()
    store = SqliteStore(path)

    assert [(worker.process, worker.labels) for worker in store.catalogue.workers()] == [("host:1", {})]
    assert [(workflow.name, workflow.labels) for workflow in store.catalogue.workflows()] == [("greet", {})]
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        "state = 'RUNNIN'",
        "worker = NULL",
        "state = 'PAUSED'",
        "state = 'COMPLETED', worker = NULL",
        "finished_at = 5",
        "wake_at = 5",
        "blocked_reason = 'why'",
        "started_at = NULL",
        "fence = 0",
        "last_seq = -1",
        "last_seq = 'text'",
    ],
)
def test_the_schema_refuses_impossible_rows(store, path, append, change):
    store.append([append("x")])
    with closing(sqlite3.connect(path)) as connection:
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(f"UPDATE executions SET {change}")
        connection.execute("UPDATE executions SET last_seq = 2")  # The control: a possible row passes.
        connection.rollback()


def test_the_folder_of_its_own_is_kept_out_of_version_control(store, path):
    assert (path.parent / ".gitignore").read_text() == "*\n"


def test_no_gitignore_is_put_into_a_folder_of_the_user(tmp_path):
    SqliteStore(tmp_path / "flux.db").close()

    assert not (tmp_path / ".gitignore").exists()
