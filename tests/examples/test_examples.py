"""Each example runs by itself, in an empty directory, and does what it says."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LONG = {"demo.py", "library_census.py"}  # `make demo` runs these.

TWO_IN_VAIN = 2 * "'TASK_RETRY_FAILED', 'TASK_RETRY_STARTED', "
ALBUMS = ["TASK_STARTED album 1", "TASK_STARTED album 2", "TASK_STARTED album 3", "TASK_FAILED album 3"]
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
    "signals.py": ["a clock goes to Bob for 30", "['Ann', 'Bob', 'Eve']"],
    "children.py": ["boat.small fog.small goat.small gull.small hut.small", *ALBUMS, "TASK_COMPLETED index 4"],
    "tasks_in_tasks.py": [
        "45 letters",
        "fetched: example.org/ example.org/about example.org/news",
        "calls: 1 1/1 1/1:1 1/2:1",
    ],
    "secret_requests.py": ["in the history: False"],
    "output_storage.py": [
        "stock_stock-1",
        "{'items': [('tea', 30), ('cup', 30)], 'total': 60}",
        "['dict', 'OutputStorageReference']",
    ],
    "saga.py": ["FAILED the car company does not answer", "cancelled the hotel in Venice [trip-to-Venice]"],
    "order.py": ["shipped: box 1", "refunded: there is no gin left"],
    "subscription.py": [],  # How many months it is depends on the machine.
}
REFUSED_KEY = "the result of 'leak' holds a secret that it requested, at value['the key is']"
COMMANDS = [
    (["run", "hello.py", "World"], 0, "Hello, World!\n"),
    (["run", "pipeline.py", "3, 1, x, 2"], 0, "6\n"),
    (["run", "parallel_and_map.py", '["lisbon", "oslo", "rome"]', "--json"], 0, '"warmest": "rome"'),
    (["run", "retries.py", "tea"], 0, "12 at 4.5; there are not 13 of tea\n"),
    (["run", "approval.py", '{"who": "Ann", "amount": 250}', "--id", "trip"], 4, ""),
    (["executions", "resume", "trip", "yes"], 0, "paid 250 to Ann\n"),
    (["run", "signals.py", '{"thing": "a clock", "open_for": "PT0.1S"}', "--id", "lot"], 0, "nobody wants a clock\n"),
    (["run", "children.py:library", '["sea", "empty"]', "--id", "photos"], 0, "boat.small gull.small\n"),
    (["run", "tasks_in_tasks.py", "example.org"], 0, "45\n"),
    (["run", "secret_requests.py", "pay 5 to Ann"], 0, REFUSED_KEY),
    (["run", "output_storage.py", '["tea", "cup"]', "--id", "stock"], 0, '"reference_id": "stock_stock"'),
    (["run", "saga.py", '{"city": "Oslo"}', "--id", "tour"], 0, "the car in Oslo"),
    (["run", "saga.py", '{"city": "Venice"}', "--id", "no-cars"], 1, ""),
    (["run", "order.py:order", '{"items": {"gin": 1}, "total": 40}'], 0, "there is no gin left"),
]


def run(directory: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")}
    environment["FLUX_SECRET_SIGNING_KEY"] = "correct-horse-battery"
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
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


def test_a_subscription_has_a_short_history_however_long_it_lives(workdir: Path):
    done = run(workdir, str(EXAMPLES / "subscription.py"))

    left, history = done.stdout.splitlines()
    months, events, first = map(int, re.findall(r"\d+", f"{left} {history}"))
    assert left == f"Ann left after {months} months: moved away"
    assert events < 12 * 6 < first <= months * 6


@pytest.mark.slow
def test_the_commands_of_the_examples_do_what_they_say(workdir: Path):
    for arguments, code, printed in COMMANDS:
        paths = [str(EXAMPLES / each) if each.partition(":")[0].endswith(".py") else each for each in arguments]
        done = run(workdir, "-m", "flux", *paths)

        assert done.returncode == code, done.stderr
        assert printed in done.stdout


@pytest.mark.slow
def test_an_order_that_was_interrupted_goes_on_when_the_warehouse_signals(workdir: Path):
    order = '{"items": {"tea": 2, "cup": 1}, "total": 40}'
    command = ["-m", "flux", "run", str(EXAMPLES / "order.py:order"), order, "--id", "order-1"]
    with subprocess.Popen([sys.executable, *command], cwd=workdir, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("reserve cup" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130

    done = run(workdir, "-m", "flux", "executions", "signal", "order-1", "packed", "box 7")

    assert (done.returncode, done.stdout) == (0, "shipped: box 7\n")


def test_every_short_example_is_run_here_and_is_short():
    examples = {path.name: path.read_text("utf-8") for path in EXAMPLES.glob("*.py") if path.name not in LONG}

    assert set(examples) == set(PRINTED)
    assert all(text.count("\n") < 125 and '__name__ == "__main__"' in text for text in examples.values())


def test_every_example_is_in_the_list_of_examples():
    listed = re.findall(r"^\| \[(\w+\.py)\]\(\1\) \| .+ \|$", (EXAMPLES / "README.md").read_text("utf-8"), re.MULTILINE)

    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))
