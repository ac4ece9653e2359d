"""Processes of pool.py, each started again whenever it has died, as a supervisor does."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from crash.processes import child

PATIENCE_SECONDS = 60
DEATHS_AT_MOST = 20  # What dies for ever is a finding, not a test without an end.


def schedule(directory: Path, *wanted: str) -> None:
    """Record executions: each text is WORKFLOW COUNT INPUT."""
    with child("pool.py", directory) as maker:
        for each in wanted:
            maker.say(f"{PATIENCE_SECONDS} sound schedule {each}")
            assert maker.line() == "0"


def supervise(directory: Path, build: str = "sound", slots: int = 12) -> list[int]:
    """Work until nothing is left to do; returns the exit codes of those that died."""
    deaths: list[int] = []
    with child("pool.py", directory) as maker:
        while len(deaths) < DEATHS_AT_MOST:
            maker.say(f"{PATIENCE_SECONDS} {build} work {slots}")
            code = int(maker.line() or 0)
            if code == 0:
                break
            deaths.append(code)
    return deaths


@contextmanager
def working(
    directory: Path, lanes: int = 2, build: str = "sound", slots: int = 12
) -> Iterator[list[Future[list[int]]]]:
    """Several at once, beside the block; left when all have come to their end."""
    with ThreadPoolExecutor(lanes) as threads:
        yield [threads.submit(supervise, directory, build, slots) for _ in range(lanes)]


def work(directory: Path, lanes: int = 2, build: str = "sound", slots: int = 12) -> list[int]:
    """Several at once; the exit codes of all that died."""
    with working(directory, lanes, build, slots) as running:
        return [code for each in running for code in each.result()]
