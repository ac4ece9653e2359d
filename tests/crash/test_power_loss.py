"""Power is cut at any moment: nothing that was acknowledged is lost, and every execution goes on."""

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import flux.app
from crash.disk_trace import Disk, Operation, record
from crash.power_victim import story
from flux.app import App
from flux.settings import Settings

STATES, CONTINUED, CONTROL_STATES = 5_000, 200, 300
SECONDS = 300

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="power loss is simulated from a trace: install strace"),
    pytest.mark.slow,
    pytest.mark.timeout(SECONDS),
]


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> list[Operation]:
    """All that a run with the settings of Flux did to its disk."""
    return record("power_victim.py", tmp_path_factory.mktemp("traced"), "full")


@pytest.fixture(scope="module")
def operations_of_process(tmp_path_factory: pytest.TempPathFactory) -> list[Operation]:
    """The same of a run whose commits are to survive the process alone."""
    return record("power_victim.py", tmp_path_factory.mktemp("traced"), "process")


def states(operations: list[Operation], count: int, seed: int) -> "list[Disk]":
    """Disks as they could be after a power cut, after any number of operations."""
    chance = random.Random(seed)
    cuts = sorted(chance.randrange(1, len(operations) + 1) for _ in range(count))
    disks = []
    for cut in cuts:
        disk = Disk()
        for operation in operations[:cut]:
            disk.do(operation)
        disk.lose_power(chance)
        disks.append(disk)
    return disks


def stored_seq(directory: Path) -> int:
    """How far the history reaches in a database, which must be sound; 0 if there is none."""
    database = directory / "flux.db"
    if not database.exists():
        return 0
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # The disk of the test itself is not under test.
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'executions'").fetchone() is None:
            return 0
        found = connection.execute("SELECT last_seq FROM executions WHERE execution_id = 'x'").fetchone()
        return found[0] if found else 0


def lost(disk: Disk, directory: Path) -> bool:
    """Whether the disk holds less than was acknowledged."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    disk.put_into(directory)
    return stored_seq(directory) < max(disk.acks, default=0)


def test_no_acknowledged_event_is_lost(operations: list[Operation], tmp_path: Path) -> None:
    assert sum(operation.kind == "ack" for operation in operations) > 20
    assert sum(operation.kind == "sync" and operation.path.endswith("flux.db") for operation in operations) > 2
    where = tmp_path / "disk"

    assert [i for i, disk in enumerate(states(operations, STATES, seed=7)) if lost(disk, where)] == []


@pytest.mark.parametrize("traced", ["operations", "operations_of_process"])
def test_the_execution_is_finished_from_whatever_the_disk_holds(
    traced: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for i, disk in enumerate(states(request.getfixturevalue(traced), CONTINUED, seed=8)):
        directory = tmp_path / str(i)
        directory.mkdir()
        disk.put_into(directory)
        app = App(Settings(database=directory / "flux.db"))
        try:
            context = app.run(story.definition, 20, "x")
            if context.is_paused:
                assert not {-2} & set(disk.acks)
                context = app.resume(story.definition, "x", "fine", None)
            assert context.has_succeeded
            assert context.output[-2:] == ["fine", "20" * 300]
        finally:
            app.close()
        shutil.rmtree(directory)
    flux.app.close_all()


def test_control_what_survives_a_process_alone_may_be_lost_and_what_is_left_is_sound(
    operations_of_process: list[Operation], tmp_path: Path
) -> None:
    disks = states(operations_of_process, CONTROL_STATES, seed=7)

    assert any([lost(disk, tmp_path / "disk") for disk in disks])  # noqa: C419 - so that each is looked at.
