"""`flux doctor` tells what is wrong, also where nothing else works, and changes nothing."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import flux
from e2e.command import HEAD, environment, run, start, wait_for, without_rights
from flux.store.file_lock import FileLock

SOURCE = """
@task
async def work():
    pathlib.Path("working").touch()
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.02)

@workflow
async def working(ctx):
    if ctx.input:
        await work()
    return 1
"""


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Path:
    """A directory whose database has been used; tests copy it."""
    directory = tmp_path_factory.mktemp("used")
    (directory / "work.py").write_text(HEAD + SOURCE)
    variables = {"XDG_CONFIG_HOME": str(directory / "config")}
    run(directory, "run", "work.py", "--id", "done-1", **variables)
    run(directory, "secrets", "set", "K", stdin="correct-horse-battery-staple", **variables)
    return directory


@pytest.fixture
def project(used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(used, tmp_path / "project")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "project" / "config"))
    return tmp_path / "project"


def database(directory: Path) -> Path:
    return directory / ".flux" / "flux.db"


def checked(directory: Path, code: int, **variables: str) -> dict[str, tuple[str, str]]:
    """The checks by name; the exit code must fit."""
    result = run(directory, "doctor", "--json", **variables)
    found = json.loads(result.stdout)

    assert (result.returncode, result.stderr) == (code, "")
    assert (found["status"] == "problem") is (code == 1)
    return {each["name"]: (each["status"], f"{each['text']}: {each['advice']}") for each in found["checks"]}


def files(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_where_nothing_is_yet_all_is_well_and_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    checks = checked(tmp_path, 0)

    assert f"flux {flux.__version__}, Python 3." in checks["versions"][1]
    assert f"SQLite {sqlite3.sqlite_version}" in checks["sqlite"][1]
    assert "there is none yet" in checks["database"][1]
    assert "the first secret makes one" in checks["secrets"][1]
    assert "commits/s" in checks["disk speed"][1]
    assert checks["settings"][1] == "the defaults: "
    assert list(tmp_path.iterdir()) == []


def test_a_sound_database_is_described_and_stays_as_it_is(project):
    before = files(project)
    result = run(project, "doctor")
    checks = checked(project, 0)

    assert {status for status, _ in checks.values()} <= {
        "ok",
        "warning",
    }  # The machine may be full or slow.
    assert "sound, schema" in checks["database"][1]
    assert checks["executions"][1] == "1 completed: "
    assert checks["workers"][1] == "0 alive, 0 dead: "
    assert "1 key in" in checks["secrets"][1]
    assert "1 in the database, 0 in the environment" in checks["secrets"][1]
    assert len(result.stdout.splitlines()) == len(checks)
    assert "correct-horse" not in result.stdout
    assert files(project) == before


def test_before_a_mended_sqlite_it_is_said_what_protects_the_database(tmp_path):
    _, text = checked(tmp_path, 0)["sqlite"]

    assert ("the file lock that every process of Flux takes" in text) is (sqlite3.sqlite_version_info < (3, 51, 3))


def test_settings_are_named_with_their_places(project):
    (project / "pyproject.toml").write_text("[tool.flux]\nlease_seconds = 20\ncancel_grace_seconds = 1\n")
    (project / "flux.toml").write_text("cancel_grace_seconds = 2\nunload_after_seconds = 3\n")
    checks = checked(project, 0, FLUX_UNLOAD_AFTER_SECONDS="4")
    by_option = run(project, "doctor", "--database", "other.db").stdout

    assert checks["settings"][1] == (
        "lease_seconds = 20.0 (pyproject.toml), cancel_grace_seconds = 2.0 (flux.toml), "
        "unload_after_seconds = 4.0 (FLUX_UNLOAD_AFTER_SECONDS): "
    )
    assert "other.db (--database)" in by_option


def test_a_setting_that_does_not_fit_is_a_problem(project):
    assert "lease_seconds is 'soon'" in checked(project, 1, FLUX_LEASE_SECONDS="soon")["settings"][1]


# -- what is broken


def test_a_file_that_is_no_database_is_a_problem(project):
    database(project).write_bytes(b"no database " * 1000)
    status, text = checked(project, 1)["database"]

    assert status == "problem"
    assert "file is not a database" in text
    assert "restore a backup" in text


def test_damage_inside_is_found(project):
    data = bytearray(database(project).read_bytes())
    data[4096 * 2 : 4096 * 2 + 200] = b"\xff" * 200
    database(project).write_bytes(data)
    before = files(project)

    assert "is damaged: " in checked(project, 1)["database"][1]
    assert files(project) == before


def test_a_folder_in_its_place_is_a_problem(project):
    shutil.rmtree(project / ".flux")
    database(project).mkdir(parents=True)

    assert "see that it is a file" in checked(project, 1)["database"][1]


def test_a_newer_schema_is_a_problem(project):
    with sqlite3.connect(database(project)) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()

    assert "has schema 999" in checked(project, 1)["database"][1]


def test_an_older_schema_is_none(project):
    with sqlite3.connect(database(project)) as connection:
        connection.execute("PRAGMA user_version = 1")
    connection.close()

    assert "which the next command brings up to date" in checked(project, 0)["database"][1]


@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_folder_that_this_user_cannot_use_is_a_problem(project, mode):
    command = [*without_rights(), sys.executable, "-m", "flux", "doctor"]
    (project / ".flux").chmod(mode)
    result = subprocess.run(
        command, cwd=project, env=environment(), capture_output=True, text=True, timeout=20, check=False
    )
    (project / ".flux").chmod(0o700)

    assert (result.returncode, result.stderr) == (1, "")
    assert "problem  access" in result.stdout
    assert str(project / ".flux") in result.stdout


# -- locks and workers


@pytest.mark.slow
def test_who_holds_the_lock_is_named(project):
    lock = FileLock(database(project).with_name("flux.db.lock"))
    lock.try_acquire()
    status, text = checked(project, 1)["lock"]
    lock.close()

    assert status == "problem"
    assert "has been held for 1 s" in text
    assert f"by process {os.getpid()} (" in text or not Path("/proc/locks").exists()
    assert checked(project, 0)["lock"][0] == "ok"


@pytest.mark.slow
def test_workers_alive_and_dead_are_counted_with_what_they_left(project):
    process = start(project, "run", "work.py", "true", "--id", "work-1")
    wait_for((project / "working").exists)
    alive = checked(project, 0)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    before = files(project)
    dead = checked(project, 0)

    assert alive["workers"] == ("ok", "1 alive, 0 dead: ")
    assert alive["executions"][1] == "1 completed, 1 running: "
    assert dead["workers"][0] == "warning"
    assert "0 alive, 1 dead, which left 1 execution interrupted: continue each with" in dead["workers"][1]
    assert {name: data for name, data in files(project).items() if not name.endswith("-shm")} == {
        name: data for name, data in before.items() if not name.endswith("-shm")
    }


def test_blocked_executions_are_warned_of(project):
    with sqlite3.connect(database(project)) as connection:
        connection.execute(
            "INSERT INTO executions (execution_id, namespace, workflow, version, location, start_digest, state, fence, "
            "last_seq, blocked_reason, created_at) "
            "VALUES ('b', 'default', 'w', '1', '', x'', 'SCHEDULED', 0, 0, 'why', 0)"
        )
    connection.close()
    status, text = checked(project, 0)["executions"]

    assert (status, text.partition(":")[0]) == ("warning", "1 completed, 1 scheduled; 1 blocked")


# -- secrets


def test_a_key_that_others_can_read_is_a_problem(project):
    (project / "config" / "flux" / "secret.keys").chmod(0o644)

    assert "can be read by others" in checked(project, 1)["secrets"][1]


def test_a_lost_key_is_a_problem_and_none_is_made_in_its_place(project):
    path = project / "config" / "flux" / "secret.keys"
    path.unlink()

    assert "the secret 'K' is encrypted with the key" in checked(project, 1)["secrets"][1]
    assert not path.exists()


def test_keys_beside_the_database_are_warned_of(project):
    path = project / ".flux" / "secret.keys"
    (project / "config" / "flux" / "secret.keys").rename(path)

    assert "beside the database" in checked(project, 0, FLUX_SECRET_KEY_FILE=str(path))["secrets"][1]
