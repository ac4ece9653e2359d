"""`make bench`: every workload in a process of its own, then the table."""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks import report, trend
from benchmarks.measuring import ROOT, Row, Scale, WrongResultError, child_environment, machine, sync_us

# Module and function of each group: a process imports no other.
GROUPS = {
    "W1": "tasks.one_after_another",
    "W2": "tasks.all_at_once",
    "W3": "executions.many_at_once",
    "W4": "histories.continued",
    "W5": "waiting.paused",
    "W6": "startup.cold",
    "W7": "sizes.bytes_a_task",
    "W9": "sizes.large_results",
    "W10": "answers.answered",
    "off": "tasks.without_syncs",
    "trend": "trend.costs",
}
BUILD = ROOT / "build"
PAGE = ROOT / "docs" / "performance.md"


def measure(group: str, *, is_short: bool) -> list[Row]:
    """Measure a group in this process."""
    module, function = GROUPS[group].split(".")
    act: Callable[[Scale], list[Row]] = getattr(import_module(f"benchmarks.{module}"), function)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="bench-") as folder:
        return act(Scale(is_short, Path(folder)))


def measure_apart(group: str, *, is_short: bool) -> list[Row]:
    """Measure a group in a process of its own: what one leaves in memory, no other pays for.

    Raises:
        WrongResultError: It did, or the process failed.
    """
    command = [sys.executable, "-m", "benchmarks", "--here", group, *(["--short"] if is_short else [])]
    done = subprocess.run(command, cwd=ROOT, env=child_environment(), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise WrongResultError(f"{group} failed, see above: no figure is shown")
    return [Row(**row) for row in json.loads(done.stdout)]


def main() -> int:
    """Measure what the arguments name, and show it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", choices=[[], *GROUPS], help="all by default")
    parser.add_argument("--short", action="store_true", help="under a minute, for a look")
    parser.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    parser.add_argument("--here", action="store_true", help="in this process, and print JSON")
    chosen = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    try:
        if chosen.here:
            rows = [row for group in chosen.groups for row in measure(group, is_short=chosen.short)]
            print(json.dumps([asdict(row) for row in rows]))
            return 0
        show(chosen.groups or list(GROUPS), is_short=chosen.short, is_written=chosen.write)
    except WrongResultError as error:
        print(f"A result is wrong: {error}", file=sys.stderr)
        return 1
    return 0


def show(groups: list[str], *, is_short: bool, is_written: bool) -> None:
    """Measure groups, print the table and keep it."""
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="bench-") as folder:
        about = {**machine(Path(folder)), "short": is_short}
    began, rows = time.monotonic(), []
    for group in groups:
        print(f"{group} ...", file=sys.stderr, flush=True)
        rows += measure_apart(group, is_short=is_short)
    with tempfile.TemporaryDirectory(dir=BUILD, prefix="bench-") as folder:
        about["sync_us_after"] = round(sync_us(Path(folder)))
    text = f"{report.table(rows, about)}\n\n{report.caption(about)}"
    print(text)
    target = BUILD / "benchmarks.json"
    target.write_text(json.dumps(report.document(rows, about), indent=2), "utf-8")
    print(f"\n{time.monotonic() - began:.0f} s; every round is in {target.relative_to(ROOT)}", file=sys.stderr)
    draw(rows)
    if is_written:
        report.write_into(PAGE, text)


def draw(rows: list[Row]) -> None:
    """Plot the trend, if it was measured and there is matplotlib."""
    try:
        drawn = trend.plot(rows, BUILD)
    except ImportError:
        print("There is no plot: install matplotlib", file=sys.stderr)
        return
    if drawn:
        print(f"Drawn: {' and '.join(str(path.relative_to(ROOT)) for path in drawn)}", file=sys.stderr)


if __name__ == "__main__":
    logging.getLogger("flux").setLevel(logging.ERROR)  # It warns of long histories, which are meant here.
    sys.exit(main())
