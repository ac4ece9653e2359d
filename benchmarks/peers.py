"""`make bench-peers`: the same workloads on DBOS and on Flux, in turn, in one run."""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import histories, report
from benchmarks.executions import executions_per_second, seconds_of_one
from benchmarks.measuring import (
    ROOT,
    Row,
    WrongResultError,
    child_environment,
    database,
    divide,
    interleave,
    machine,
    warm,
)
from benchmarks.tasks import parallel, sequential, tasks_per_second

BUILD = ROOT / "build"
PYTHON = BUILD / "peers" / "bin" / "python"
SIDE = Path(__file__).with_name("dbos_side.py")
VERSION = "import importlib.metadata; print(importlib.metadata.version('dbos'))"
ONE_AT_A_TIME = 50

# What each is, and how many times DBOS's rate it must reach.
WORKLOADS = {
    "W1": ("sequential tasks", 6.0),
    "W2": ("parallel tasks", 25.0),
    "W3": ("one-task executions, 100 at a time", 25.0),
}


class Peer:
    """DBOS in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def measure(self, workload: str, count: int) -> float:
        """A rate, or a time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{workload} {count}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise WrongResultError(f"DBOS ended in {workload}: see above")
        return float(json.loads(answer))


def install() -> str:
    """Make the peer's environment when it is missing; returns the version of DBOS."""
    if not PYTHON.exists():
        print("Making an environment for DBOS in build/peers", file=sys.stderr)
        venv.create(PYTHON.parent.parent, with_pip=True, clear=True)
    version = subprocess.run([PYTHON, "-c", VERSION], capture_output=True, text=True, check=False)
    if version.returncode:
        command = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "dbos"]
        subprocess.run(command, check=True)
        version = subprocess.run([PYTHON, "-c", VERSION], capture_output=True, text=True, check=True)
    return version.stdout.strip()


@contextmanager
def dbos(folder: Path) -> Iterator[Peer]:
    """DBOS with a database in a folder, as long as this lasts."""
    process = subprocess.Popen(
        [PYTHON, SIDE],
        cwd=folder,
        env={**child_environment(), "PYTHONPATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Peer(process)
        finally:
            process.kill()


def measure(folder: Path, *, is_short: bool) -> list[Row]:
    """Every workload on both, in turn."""
    count, continued = (200, 1_000) if is_short else (1_000, 10_000)
    ours: dict[str, Callable[[], float]] = {
        "W1": lambda: tasks_per_second(sequential, count),
        "W2": lambda: tasks_per_second(parallel, count),
        "W3": lambda: executions_per_second(count),
        "W3l": seconds_of_one,
        "W4": lambda: histories.measured(path, continued)[0],
    }
    theirs = {**dict.fromkeys(WORKLOADS, count), "W3l": ONE_AT_A_TIME, "W4": continued}
    with database(folder) as path, dbos(folder) as peer:
        warm(path, ours["W1"])
        sides: dict[str, Callable[[], float]] = {}
        for name, side in ours.items():
            side()
            peer.measure(name, ONE_AT_A_TIME)
            sides[f"Flux {name}"] = side
            sides[f"DBOS {name}"] = lambda name=name: peer.measure(name, theirs[name])  # type: ignore[misc]
        found = interleave(2 if is_short else 5, sides)
    return [*_rates(found, count), *_times(found, continued)]


def _rates(found: Mapping[str, list[float]], count: int) -> list[Row]:
    return [
        Row(
            workload=name,
            what=f"{count:,} {what}",
            unit="/s",
            figures=found[f"Flux {name}"],
            beside="DBOS",
            besides=found[f"DBOS {name}"],
            ratios=divide(found[f"Flux {name}"], found[f"DBOS {name}"]),
            must=must,
        )
        for name, (what, must) in WORKLOADS.items()
    ]


def _times(found: Mapping[str, list[float]], continued: int) -> list[Row]:
    shown = {"W3l": "one one-task execution at a time", "W4": f"continue after {continued:,} tasks"}
    return [
        Row(
            workload=name,
            what=what,
            unit="ms",
            figures=[each * 1000 for each in found[f"Flux {name}"]],
            beside="DBOS",
            besides=[each * 1000 for each in found[f"DBOS {name}"]],
            ratios=divide(found[f"Flux {name}"], found[f"DBOS {name}"]),
            at_most=True,
        )
        for name, what in shown.items()
    ]


def main() -> int:
    """Measure both, and show the table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.peers", description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rounds of smaller workloads")
    is_short = parser.parse_args().short
    BUILD.mkdir(exist_ok=True)
    version, began = install(), time.monotonic()
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="bench-") as folder:
        about: dict[str, Any] = {**machine(Path(folder)), "dbos": version, "short": is_short}
        try:
            rows = measure(Path(folder), is_short=is_short)
        except WrongResultError as error:
            print(f"A result is wrong: {error}", file=sys.stderr)
            return 1
    print(f"{report.table(rows, about)}\n\n{report.caption(about)} DBOS {version}, SQLite, as shipped.")
    target = BUILD / "peers.json"
    target.write_text(json.dumps(report.document(rows, about), indent=2), "utf-8")
    print(f"\n{time.monotonic() - began:.0f} s; every round is in {target.relative_to(ROOT)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    logging.getLogger("flux").setLevel(logging.ERROR)  # It warns of long histories, which are meant here.
    sys.exit(main())
