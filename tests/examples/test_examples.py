"""Each example runs by itself, in an empty directory, and does what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LONG = {"demo.py", "library_census.py"}  # `make demo` runs these.

TWO_IN_VAIN = 2 * "'TASK_RETRY_FAILED', 'TASK_RETRY_STARTED', "
PRINTED = {
    "hello.py": ["Hello, World!"],
    "pipeline.py": ["6", "1 WORKFLOW_STARTED add_up", "2 TASK_STARTED pipeline", "9 TASK_COMPLETED pipeline"],
    "parallel_and_map.py": ["Report(warmest='oslo', letters=16, first='Oslo answers first')"],
    "retries.py": [
        "gave back 13 tea",
        "12 at 4.5; there are not 13 of tea",
        f"['TASK_STARTED', {TWO_IN_VAIN}'TASK_RETRY_COMPLETED', 'TASK_COMPLETED']",
    ],
    "approval.py": ["PAUSED", "COMPLETED paid 250 to Ann"],
}
COMMANDS = [
    (["run", "hello.py", "World"], 0, "Hello, World!\n"),
    (["run", "pipeline.py", "3, 1, x, 2"], 0, "6\n"),
    (["run", "parallel_and_map.py", '["lisbon", "oslo", "rome"]', "--json"], 0, '"warmest": "rome"'),
    (["run", "approval.py", '{"who": "Ann", "amount": 250}', "--id", "trip"], 4, ""),
    (["executions", "resume", "trip", "yes"], 0, "paid 250 to Ann\n"),
]


def run(directory: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
    return subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs_and_prints_what_it_should(name: str, workdir: Path):
    done = run(workdir, str(EXAMPLES / name))

    assert (done.returncode, done.stderr) == (0, "")
    assert set(PRINTED[name]) <= set(done.stdout.splitlines())


def test_an_example_that_is_run_again_gives_the_same_and_runs_nothing(workdir: Path):
    first, again = (run(workdir, str(EXAMPLES / "hello.py")) for _ in range(2))

    assert first.stdout == again.stdout == "Hello, World!\n"


def test_the_commands_of_the_examples_do_what_they_say(workdir: Path):
    for arguments, code, printed in COMMANDS:
        paths = [str(EXAMPLES / each) if each.endswith(".py") else each for each in arguments]
        done = run(workdir, "-m", "flux", *paths)

        assert done.returncode == code, done.stderr
        assert printed in done.stdout


def test_every_short_example_is_run_here_and_is_short():
    examples = {path.name: path.read_text("utf-8") for path in EXAMPLES.glob("*.py") if path.name not in LONG}

    assert set(examples) == set(PRINTED)
    assert all(text.count("\n") < 60 and '__name__ == "__main__"' in text for text in examples.values())
