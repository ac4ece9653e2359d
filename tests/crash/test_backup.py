"""A backup that is made while processes work holds all that was acknowledged before it began, and goes on."""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from crash.checker import Checker, Violation
from crash.supervised import schedule, work, working
from flux.cli import upkeep
from flux.store.sqlite import SqliteStore

BACKUPS = 100
CONTINUED = 4
EXECUTIONS = 80
LASTING = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def by_interface(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
        live.backup(copy)


def by_vacuum(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as live:
        live.execute("VACUUM INTO ?", (str(target),))


def by_flux(source: Path, target: Path) -> None:
    assert upkeep.backup(source, target) == []


def by_copy(source: Path, target: Path) -> None:
    """BROKEN: what is in the log is left behind."""
    shutil.copy(source, target)


WAYS = (by_interface, by_vacuum, by_flux)


def backup(directory: Path, number: int, how: Callable[[Path, Path], None]) -> Path:
    """Make one, in a directory of its own beside what was acknowledged before it began."""
    folder = directory / f"backup-{number}"
    (folder / ".flux").mkdir(parents=True)
    if (directory / "acks").exists():
        text = (directory / "acks").read_text()
        (folder / "acks").write_text(text[: text.rfind("\n") + 1])
    how(directory / ".flux" / "flux.db", folder / ".flux" / "flux.db")
    return folder


def ids() -> list[str]:
    return [f"healthy-{n}-[10,0.05]" for n in range(EXECUTIONS)] + [f"lasting-{n}-0.05" for n in range(LASTING)]


@contextmanager
def load(directory: Path) -> Iterator[None]:
    """Processes that work as long as the block takes, and then come to their end."""
    schedule(directory, f"lasting {LASTING} 0.05", f"healthy {EXECUTIONS} [10,0.05]")
    with working(directory) as running:
        try:
            yield
            assert not any(each.done() for each in running), "there was no load in the end"
        finally:
            enough(directory)


def enough(directory: Path) -> None:
    (directory / "enough").touch()


def test_each_of_a_hundred_backups_under_load_is_whole_and_its_executions_go_on(tmp_path):
    folders: list[Path] = []
    with load(tmp_path):
        for number in range(BACKUPS):
            folders.append(backup(tmp_path, number, WAYS[number % len(WAYS)]))
            time.sleep(0.01)

    acknowledged = []
    for folder in folders:
        checker = Checker(folder)
        checker.look(ids())
        acknowledged.append(sum(map(len, checker.histories.values())))
    assert acknowledged == sorted(acknowledged)
    assert len(set(acknowledged)) > BACKUPS / 5  # However slow the machine is.
    for folder in folders[:: BACKUPS // CONTINUED]:
        enough(folder)
        assert work(folder) == []
        with closing(SqliteStore(folder / ".flux" / "flux.db")) as store:
            assert {row.state for row in store.list(limit=1000)} == {"COMPLETED"}


def test_control_a_copy_of_the_file_alone_is_found_to_lack_what_was_acknowledged(tmp_path):
    with load(tmp_path):
        while not (tmp_path / "acks").exists():
            time.sleep(0.01)
        folders = [backup(tmp_path, number, by_copy) for number in range(20)]

    found = 0
    for folder in folders:
        with suppress(sqlite3.DatabaseError):
            try:
                Checker(folder).look(ids())
            except Violation:
                found += 1
    assert found > 10
