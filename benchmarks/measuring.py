"""Rounds, yardsticks and rows: how everything here is measured."""

import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import flux.app

ROOT = Path(__file__).resolve().parent.parent
COMMITS = 1000
CHECKPOINT_BYTES = 1000 * (4096 + 24)  # SQLite writes the WAL back after so many pages, and begins it again.
FAST_SYNC_US = 30.0  # A disk that syncs sooner than this does not sync: a comparison with it says nothing.


class WrongResultError(Exception):
    """A workload did not do what it is measured for: its figure would mean nothing."""


def require(is_right: object, what: str) -> None:
    """Refuse to measure what went wrong.

    Raises:
        WrongResultError: It is not right.
    """
    if not is_right:
        raise WrongResultError(what)


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Args:
        is_short: For a look, or for a machine of CI: fewer rounds, and smaller sizes where they take long.
        folder: Of the databases, on the disk that is measured.
    """

    is_short: bool
    folder: Path

    @property
    def rounds(self) -> int:
        """How often each side is measured."""
        return 3 if self.is_short else 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Args:
        workload: Its short name.
        what: It is, and of how many.
        unit: Of the figures.
        figures: One for each round.
        beside: What the yardstick is; empty where there is none.
        besides: The yardstick's figures, in the same unit or in its own.
        ratios: One for each round; without a yardstick none, and the figures themselves are judged.
        must: The limit; None for what is only shown.
        aim: A limit to be proud of.
        at_most: Whether less is better.
        needs_disk: Whether it compares with commits, which means nothing on a disk that does not sync.
        size: Of the execution, in tasks, in a row of the trend.
    """

    workload: str
    what: str
    unit: str
    figures: list[float]
    beside: str = ""
    besides: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    must: float | None = None
    aim: float | None = None
    at_most: bool = False
    needs_disk: bool = False
    size: int | None = None

    @property
    def judged(self) -> float:
        """The figure that is held against the limits."""
        return median(self.ratios or self.figures)

    def reaches(self, limit: float) -> bool:
        """Whether the median is within a limit."""
        return self.judged <= limit if self.at_most else self.judged >= limit


class Plain:
    """C: single-row commits of plain sqlite3, FULL, in a file whose WAL was warmed past a checkpoint."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        for pragma in ("journal_mode = WAL", "synchronous = FULL"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.execute("CREATE TABLE facts (id INTEGER PRIMARY KEY, value BLOB)")
        while not is_warm(path):
            self._commit(100)

    def rate(self) -> float:
        """Commits a second."""
        return COMMITS / seconds(lambda: self._commit(COMMITS))

    def _commit(self, count: int) -> None:
        for _ in range(count):
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("INSERT INTO facts (value) VALUES (?)", (b"x" * 150,))
            self._database.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._database.close()


@contextmanager
def plain_commits(folder: Path) -> Iterator[Plain]:
    """C, as long as this lasts."""
    plain = Plain(folder / "plain.db")
    try:
        yield plain
    finally:
        plain.close()


@contextmanager
def database(folder: Path, name: str = "flux.db") -> Iterator[Path]:
    """A database of Flux for this process, closed at the end."""
    path, before = folder / name, os.environ.get("FLUX_DATABASE")
    os.environ["FLUX_DATABASE"] = str(path)
    try:
        yield path
    finally:
        flux.app.close_all()
        if before is None:
            del os.environ["FLUX_DATABASE"]
        else:
            os.environ["FLUX_DATABASE"] = before


def warm(path: Path, run: Callable[[], Any]) -> None:
    """Run something until the WAL of a database has been written back once: a fresh one grows at every commit."""
    run()
    while not is_warm(path):
        run()


def is_warm(path: Path) -> bool:
    """Whether the WAL of a database is as long as it gets."""
    wal = path.with_name(f"{path.name}-wal")
    return wal.exists() and wal.stat().st_size >= CHECKPOINT_BYTES


def seconds(act: Callable[[], Any]) -> float:
    """How long something takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def interleave(rounds: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Measure all sides in every round, each round in the other direction, so that a drift meets all alike."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sides if number % 2 == 0 else reversed(list(sides)):
            figures[name].append(sides[name]())
    return figures


def divide(numerators: list[float], denominators: list[float]) -> list[float]:
    """The ratios of the rounds."""
    return [one / other for one, other in zip(numerators, denominators, strict=True)]


def sync_us(folder: Path) -> float:
    """How long the disk takes to write and sync 4 KiB at the end of a file, in the median."""
    path = folder / "sync"
    with path.open("wb", buffering=0) as file:

        def append() -> None:
            file.write(b"x" * 4096)
            getattr(os, "fdatasync", os.fsync)(file.fileno())

        taken = median(seconds(append) for _ in range(200))
    path.unlink()
    return taken * 1e6


def machine(folder: Path) -> dict[str, Any]:
    """What was measured on, and with which settings."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - the git of whoever runs this.
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "processors": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "flux": flux.__version__,
        "commit": described.stdout.strip(),
        "synchronous": "FULL",
        "sync_us": round(sync_us(folder)),
    }


def child_environment() -> dict[str, str]:
    """For processes that are measured: without settings of Flux, and with leave to keep bytecode, as installed ones."""
    dropped = {"PYTHONDONTWRITEBYTECODE"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped and not name.startswith("FLUX_")}
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def resident_bytes() -> int:
    """The memory of this process."""
    if sys.platform == "linux":
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    shown = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(os.getpid())],  # noqa: S607 - every Unix has it there.
        capture_output=True,
        text=True,
        check=True,
    )
    return int(shown.stdout) * 1024
