"""`flux db` looks after a database that is in use, damaged, of another version or of another program."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from e2e.command import HEAD, environment, run, start, wait_for, without_rights
from flux.store.migrate import migration_scripts

COMMANDS = [("info",), ("backup", "copy.db"), ("check",), ("compact",), ("migrate",)]
SOURCE = """
@task
async def big(size):
    return "x" * size

@task
async def hold():
    pathlib.Path("holding").touch()
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.02)

@workflow
async def work(ctx):
    if ctx.input == "hold":
        await hold()
    if ctx.input == "pause":
        await pause("p")
    return len(await big(ctx.input if isinstance(ctx.input, int) else 3))
"""


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Path:
    """A directory whose database has been used; tests copy it."""
    directory = tmp_path_factory.mktemp("used")
    (directory / "work.py").write_text(HEAD + SOURCE)
    run(directory, "run", "work.py", "1", "--id", "small")
    run(directory, "run", "work.py", "400000", "--id", "large")
    run(directory, "run", "work.py", "pause", "--id", "paused")
    return directory


@pytest.fixture
def project(used: Path, tmp_path: Path) -> Path:
    shutil.copytree(used, tmp_path / "project")
    return tmp_path / "project"


def database(directory: Path) -> Path:
    return directory / ".flux" / "flux.db"


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        for statement in statements:
            connection.execute(statement)


def answer(directory: Path, *words: str, code: int = 0):
    result = run(directory, *words, "--json")
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout)


def problems(directory: Path, code: int = 1) -> list[tuple[str | None, str]]:
    found = answer(directory, "db", "check", code=code)["problems"]
    return [(each["execution_id"], each["text"]) for each in found]


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# -- looking


def test_info_counts_what_is_there_and_names_the_oldest_unfinished(project):
    found = answer(project, "db", "info")
    shown = run(project, "db", "info").stdout

    assert found["executions"] == {"COMPLETED": 2, "PAUSED": 1}
    assert found["oldest_unfinished"]["execution_id"] == "paused"
    assert found["schema"] == found["known_schema"] == len(migration_scripts())
    assert found["outputs_bytes"] > 400_000 and found["size_bytes"] + found["wal_bytes"] > 4096
    assert "2 completed, 1 paused" in shown and "paused (work, PAUSED)" in shown


@pytest.mark.parametrize("words", COMMANDS)
def test_where_no_database_is_none_is_made(tmp_path, words):
    refused = run(tmp_path, "db", *words)

    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (3, "", 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("kind", ["text", "empty", "foreign", "newer"])
def test_what_is_no_database_of_this_flux_is_refused_and_stays_as_it_is(tmp_path, words, kind):
    path = database(tmp_path)
    path.parent.mkdir()
    path.write_bytes(b"no database " * 1000 if kind == "text" else b"")
    if kind == "foreign":
        change(path, "CREATE TABLE songs (name TEXT)", "PRAGMA user_version = 4")
    if kind == "newer":
        change(path, "CREATE TABLE executions (name TEXT)", "PRAGMA user_version = 99")
    before = path.read_bytes()
    refused = run(tmp_path, "db", *words)

    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert ("newer Flux" if kind == "newer" else "name another") in refused.stderr
    assert path.read_bytes() == before
    assert not (tmp_path / "copy.db").exists()


def test_a_folder_that_may_only_be_read_is_looked_at_and_not_changed(project):
    before = files(project)
    (project / ".flux").chmod(0o555)
    for path in (project / ".flux").iterdir():
        if path.is_file():
            path.chmod(0o444)
    try:
        results = {
            words[0]: run_behind(project, without_rights(), "db", *words) for words in COMMANDS if words[0] != "backup"
        }
    finally:
        (project / ".flux").chmod(0o755)

    assert [results[name].returncode for name in ("info", "check")] == [0, 0], results
    assert results["compact"].returncode == 1 and "writable for this user" in results["compact"].stderr
    assert results["migrate"].returncode == 1 and "writable for this user" in results["migrate"].stderr
    assert files(project) == before


def run_behind(directory: Path, before: list[str], *words: str):
    command = [*before, sys.executable, "-m", "flux", *words]
    return subprocess.run(
        command, cwd=directory, env=environment(), capture_output=True, text=True, timeout=20, check=False
    )


# -- backups


def test_a_backup_is_whole_with_its_large_values_and_goes_on(project):
    made = answer(project, "db", "backup", "copies/monday.db")
    again = answer(project, "db", "backup", "copies/tuesday.db")
    restored = project / "restored"
    (restored / ".flux").mkdir(parents=True)
    shutil.copy(project / "copies" / "monday.db", database(restored))
    shutil.copytree(project / "copies" / "outputs", restored / ".flux" / "outputs")
    resumed = run(restored, "executions", "resume", "paused")

    assert resumed.returncode == 0, resumed.stderr
    assert made["problems"] == again["problems"] == []
    assert sorted(path.name for path in (project / "copies").iterdir()) == ["monday.db", "outputs", "tuesday.db"]
    assert made["wal_bytes"] == 0 and made["outputs_bytes"] > 400_000
    assert problems(restored, 0) == []
    assert answer(restored, "executions", "show", "large")["output"] == 400_000
    assert answer(project, "--database", "copies/monday.db", "db", "info")["executions"] == {
        "COMPLETED": 2,
        "PAUSED": 1,
    }


def test_a_backup_replaces_nothing_and_leaves_nothing_half(project):
    (project / "taken.db").write_text("mine")
    (project / "link.db").symlink_to("nowhere")
    before = files(project)
    codes = [run(project, "db", "backup", name).returncode for name in ("taken.db", "link.db", ".flux/flux.db")]
    into_file = run(project, "db", "backup", "taken.db/copy.db")

    assert codes == [2, 2, 2]
    assert into_file.returncode == 1 and "cannot be written" in into_file.stderr
    assert {name: data for name, data in files(project).items() if "-shm" not in name} == {
        name: data for name, data in before.items() if "-shm" not in name
    }


def test_a_backup_on_a_full_disk_says_so_and_leaves_nothing(project):
    limited = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh"]  # Its blocks have 512 bytes.
    result = run_behind(project, limited, "db", "backup", "copies/full.db")

    assert result.returncode == 1 and "Nothing is there" in result.stderr
    assert [path for path in (project / "copies").rglob("*") if path.is_file()] == []


def test_a_backup_of_what_is_damaged_is_kept_and_says_so(project):
    change(database(project), "UPDATE events SET data = x'00' WHERE seq = 2")
    found = answer(project, "db", "backup", "copy.db", code=1)

    assert {each["execution_id"] for each in found["problems"]} == {"small", "large", "paused"}
    assert (project / "copy.db").exists()


# -- checking


def test_a_sound_database_is_found_sound(project):
    assert problems(project, 0) == []


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE events SET name = 'other' WHERE execution = 1 AND seq = 2", "event 2 is not what was written"),
        ("DELETE FROM events WHERE execution = 1 AND seq = 2", "event 2 is not what was written"),
        (
            "DELETE FROM events WHERE execution = 1 AND seq = (SELECT max(seq) FROM events WHERE execution = 1)",
            "missing",
        ),
        ("UPDATE executions SET last_seq = 2 WHERE number = 1", "stand behind the last one"),
        ("UPDATE executions SET state = 'DANCING' WHERE number = 1", "does not exist"),
    ],
)
def test_what_is_not_what_was_written_is_found_in_its_execution_alone(project, statement, what):
    change(database(project), statement)
    found = problems(project)

    assert {execution_id for execution_id, _ in found} - {None} == {"small"}
    assert any(what in text for _, text in found)


def test_events_of_nobody_are_found(project):
    change(database(project), "PRAGMA foreign_keys = 0", "DELETE FROM executions WHERE number = 1")

    assert any("rows of events belong to nothing" in text for _, text in problems(project))


def test_a_large_value_that_is_gone_or_changed_is_found(project):
    (value,) = [path for path in (project / ".flux" / "outputs").glob("*/*") if path.is_file()]
    data = value.read_bytes()
    value.write_bytes(data[:-1] + b"?")
    changed = problems(project)
    value.unlink()
    gone = problems(project)

    assert {each[0] for each in changed + gone} == {"large"}
    assert "is not what was written" in changed[0][1] and "is missing" in gone[0][1]


def test_damaged_pages_are_found(project):
    path = database(project)
    change(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'events'").fetchone()
    data[(root - 1) * 4096 : (root - 1) * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)
    result = run(project, "db", "check")

    assert result.returncode == 1
    assert "damage" in result.stdout + result.stderr or "SQLite" in result.stdout


# -- compacting and migrating


def test_compacting_gives_space_back_and_changes_nothing_else(project):
    change(
        database(project),
        "CREATE TABLE bulk (data BLOB)",
        "INSERT INTO bulk VALUES (zeroblob(3000000))",
        "DROP TABLE bulk",
    )
    assert answer(project, "db", "info")["free_bytes"] > 2_900_000
    found = answer(project, "db", "compact")

    assert found["before"]["size_bytes"] - found["after"]["size_bytes"] > 2_900_000
    assert found["after"]["wal_bytes"] == 0
    assert answer(project, "db", "info")["free_bytes"] == 0
    assert problems(project, 0) == []


def test_compacting_waits_for_no_dead_process_and_refuses_beside_a_living_one(project):
    process = start(project, "run", "work.py", "hold", "--id", "held")
    try:
        wait_for((project / "holding").exists)
        refused = run(project, "db", "compact")
        backed_up = run(project, "db", "backup", "hot.db")
        checked = run(project, "db", "check")
        looked = answer(project, "db", "info")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()

    assert refused.returncode == 1 and "stop them first" in refused.stderr
    assert (backed_up.returncode, checked.returncode, looked["executions"]["RUNNING"]) == (0, 0, 1)
    assert run(project, "db", "compact").returncode == 0
    (project / "go").touch()
    assert run(project, "run", "work.py", "--id", "held").returncode == 0


def test_migrating_says_from_where_to_where(tmp_path):
    path = database(tmp_path)
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"{migration_scripts()[0]}; PRAGMA user_version = 1;")
    looked = answer(tmp_path, "db", "info")
    assert problems(tmp_path, 0) == []
    assert run(tmp_path, "db", "backup", "old.db").returncode == 0
    latest = len(migration_scripts())
    moved, again = answer(tmp_path, "db", "migrate"), answer(tmp_path, "db", "migrate")

    assert (looked["schema"], looked["known_schema"]) == (1, latest)
    assert [(each["from"], each["to"]) for each in (moved, again)] == [(1, latest), (latest, latest)]
    assert answer(tmp_path, "--database", "old.db", "db", "info")["schema"] == 1
    assert not os.path.lexists(tmp_path / "old.db-wal")
