"""A full disk stops the work, and loses nothing: what was acknowledged is stored, and the run goes on when it can."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from crash.checker import Checker, Violation
from crash.processes import Child, child

# Of the user's rights, and of those that an unprivileged user may give himself.
WAYS_IN = [(("-m",), ("-m",)), (("-rm",), ("-U", "-m", "--preserve-credentials"))]


@dataclass
class Disk:
    """A place where a process can fill the disk.

    Args:
        kind: How `filler.py` is to fill it.
        directory: Where the process runs.
        seen: The same directory, as this process sees it.
        prefix: How to start a process there.
    """

    kind: str
    directory: Path
    seen: Path
    prefix: tuple[str, ...] = ()

    def start(self, build: str, then: str, **env: str):
        return child("filler.py", self.directory, self.kind, build, then, prefix=self.prefix, **env)

    @property
    def is_full(self) -> bool:
        return (self.seen / ".flux" / "filler").exists()

    def make_room(self) -> None:
        (self.seen / ".flux" / "filler").unlink(missing_ok=True)


@contextmanager
def small_disk(directory: Path) -> Iterator[Disk]:
    """A file system of 1 MB that only the processes of this test see; it is gone when its holder is."""
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        pytest.skip("this machine has no unshare and nsenter")
    (directory / ".flux").mkdir()
    mount = f"mount -t tmpfs -o size=1m tmpfs '{directory}/.flux' && echo mounted && exec cat"
    reasons = []
    for unshare, nsenter in WAYS_IN:
        holder = subprocess.Popen(
            ["unshare", *unshare, "sh", "-c", mount],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            if holder.stdout.readline() == "mounted\n":
                inside = ("sh", "-c", f"cd '{directory}' && exec \"$@\"", "sh")
                enter = ("nsenter", "-t", str(holder.pid), *nsenter, *inside)
                yield Disk("tmpfs", directory, Path(f"/proc/{holder.pid}/root/{directory}"), enter)
                return
            reasons.append(holder.stderr.read().strip())
        finally:
            holder.kill()
            holder.communicate()
    pytest.skip(f"this machine lets nobody mount a disk of their own: {'; '.join(reasons)}")


@contextmanager
def limited_files(directory: Path) -> Iterator[Disk]:
    yield Disk("limit", directory, directory)


@pytest.fixture(params=[small_disk, limited_files], ids=["small-disk", "limited-files"])
def disk(tmp_path, request) -> Iterator[Disk]:
    with request.param(tmp_path) as disk:
        yield disk


def run(process: Child) -> str:
    result = process.line("result")
    assert process.end() == 0
    assert result
    return result


def effects(file: Path) -> list[str]:
    return [line.split()[1] for line in file.read_text().splitlines()]


def test_while_the_disk_is_full_nothing_acts_and_the_run_goes_on_when_there_is_room(disk):
    with disk.start("sound", "room") as process:
        assert run(process) == "result COMPLETED 40000 3"

    assert effects(disk.seen / "ledger-when-full") == ["0", "1", "2", "3", "4"]
    assert effects(disk.seen / "ledger") == [str(n) for n in range(8)]
    Checker(disk.seen).look(["eight"])


def test_a_process_that_is_killed_while_the_disk_is_full_has_acknowledged_only_what_is_stored(disk):
    checker = Checker(disk.seen)

    with disk.start("sound", "dies") as process:
        assert process.end() == -9
    assert disk.is_full == (disk.kind == "tmpfs")
    checker.look(["eight"])
    disk.make_room()
    with disk.start("sound", "room") as process:
        assert run(process) == "result COMPLETED 40000 0"

    checker.look(["eight"])
    assert effects(disk.seen / "ledger") == ["0", "1", "2", "3", "4", "4", "5", "6", "7"]


def test_a_build_that_acknowledges_what_it_could_not_write_is_found(disk):
    with disk.start("careless", "room") as process:
        process.end()

    with pytest.raises(Violation, match=r"is lost|which is not stored|took effect"):
        Checker(disk.seen).look(["eight"])


def test_an_open_pause_makes_a_full_disk_no_error(disk):
    with disk.start("sound", "paused") as process:
        assert run(process).startswith("result PAUSED")

    Checker(disk.seen).look(["eight"])


def test_a_process_that_lost_patience_works_again_when_there_is_room(disk):
    with disk.start("sound", "gives-up", FLUX_STORE_PATIENCE_SECONDS="0.3") as process:
        assert process.line("result") == "result COMPLETED"
        assert run(process).startswith("result COMPLETED 40000")

    checker = Checker(disk.seen)
    checker.interruptions["eight", "4"] += 1  # Its outcome could not be stored, and was shown to nobody.
    checker.look(["eight", "another"])
