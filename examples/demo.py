"""The main job on real input, killed half-way: run it with `make demo`.

It counts the standard library with `library_census.py` in an empty folder, kills the process with SIGKILL when half of
the files are measured, continues it with the same command, and shows from the history and from a side log that no
finished task ran twice.
"""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

CENSUS = Path(__file__).resolve().parent / "library_census.py"
ID = "census"
PATIENCE_SECONDS = 120


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flux-demo-") as folder:
        work = Path(folder)
        total = sum("site-packages" not in path.parts for path in Path(sysconfig.get_path("stdlib")).rglob("*.py"))
        order = json.dumps({"report": "census-report", "side_log": str(work / "side.log")})
        run = ["run", str(CENSUS), order, "--id", ID, "--json"]

        say(f"$ flux run examples/library_census.py … --id {ID}      ({total:,} files)")
        killed = start(work, run)
        wait_for_lines(work / "side.log", total // 2, killed)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        finished = finished_files(work)
        say(f"killed with SIGKILL: {len(finished):,} files are finished in the history, process {killed.pid} is dead\n")

        say("$ the same command again")
        continued = start(work, run)
        continued.wait(PATIENCE_SECONDS)
        if continued.returncode != 4:
            sys.exit(f"the census did not pause: exit code {continued.returncode}")
        prove(work, killed.pid, continued.pid, finished)

        say(f"$ flux executions resume {ID} yes")
        flux(work, "executions", "resume", ID, "yes")
        say("\n$ head -28 census-report/census.md")
        say("\n".join((work / "census-report/census.md").read_text("utf-8").splitlines()[:28]))
        say(f"\n$ flux executions show {ID}")
        flux(work, "executions", "show", ID)
    say(f"\ndemo done in {time.monotonic() - began:.1f} s: killed, continued, resumed; nothing lost, nothing repeated")


def prove(work: Path, first: int, second: int, finished: set[str]) -> None:
    """Compare who measured what, by the side log, with what was finished when the process died."""
    runs: dict[int, list[str]] = {first: [], second: []}
    for line in (work / "side.log").read_text("utf-8").splitlines():
        pid, path = line.split(" ", 1)
        runs[int(pid)].append(path)
    repeated = finished & set(runs[second])
    interrupted = set(runs[first]) & set(runs[second])
    everything = finished_files(work)
    say(f"side log: process {first} began {len(runs[first]):,} files, process {second} began {len(runs[second]):,}")
    say(f"          {len(interrupted)} were interrupted in mid-file by the kill, and measured again")
    say(f"history:  {len(everything):,} files are finished now")
    if repeated or any(len(paths) != len(set(paths)) for paths in runs.values()):
        sys.exit(f"finished files were measured again: {sorted(repeated)[:5]}")
    if everything != set(runs[first]) | set(runs[second]):
        sys.exit("the history and the side log do not agree")
    say("          of the finished ones, 0 were measured twice\n")


def finished_files(work: Path) -> set[str]:
    """The files whose measurement is recorded in the history."""
    shown = flux_output(work, "executions", "show", ID, "--json")
    started = {e["source_id"]: e["value"] for e in shown["events"] if e["type"] == "TASK_STARTED"}
    completed = {e["source_id"] for e in shown["events"] if e["type"] == "TASK_COMPLETED" and e["name"] == "measure"}
    return {started[call]["source"]["path"] for call in completed}


def wait_for_lines(log: Path, count: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not log.exists() or log.read_bytes().count(b"\n") < count:
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit("the census ended before it could be killed")
        time.sleep(0.02)


def start(work: Path, arguments: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "flux", *arguments], cwd=work, stdout=subprocess.DEVNULL, env=environment()
    )


def flux(work: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "flux", *arguments], cwd=work, env=environment(), check=True)


def flux_output(work: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "flux", *arguments]
    answer = subprocess.run(command, cwd=work, env=environment(), check=True, stdout=subprocess.PIPE)
    shown: dict[str, Any] = json.loads(answer.stdout)
    return shown


def environment() -> dict[str, str]:
    """The settings of whoever runs the demo are not the demo's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
