"""What a crowd does at the same moment, in several processes, is done once: an answer to a pause, a start of an id."""

import collections
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from crash.processes import HERE, SOURCE, Child, child
from flux.store.sqlite import SqliteStore

PROCESSES = 4
RESUMES = 100
STARTS = 1000
THREADS = 10  # In each process, for the starts.


@contextmanager
def crowds(directory: Path, build: str, action: str, threads: int, each: int = 1) -> Iterator[list[Child]]:
    """Processes that wait for what to do."""
    with ExitStack() as stack:
        words = (build, action, str(threads), str(each))
        processes = [stack.enter_context(child("crowded.py", directory, *words)) for _ in range(PROCESSES)]
        for process in processes:
            process.line("up")
        yield processes


def at_once(processes: list[Child], *lines: str) -> tuple[collections.Counter[str], set[str]]:
    """How often which answer was given, and by which executions; the lines take turns among the processes."""
    for number, process in enumerate(processes):
        process.say(lines[number % len(lines)])
    found: list[dict[str, Any]] = [json.loads(process.line("{") or "{}") for process in processes]
    answers = sum((collections.Counter(each["answers"]) for each in found), collections.Counter[str]())
    return answers, {id_ for each in found for id_ in each["ids"]}


def ledger(directory: Path) -> list[str]:
    file = directory / "ledger"
    return file.read_text().split() if file.exists() else []


def types(directory: Path, execution_id: str) -> "collections.Counter[str]":
    with closing(SqliteStore(directory / ".flux" / "flux.db")) as store:
        events = store.events(execution_id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert store.inbox(execution_id) == []
        return collections.Counter(str(event.type) for event in events)


def executions(directory: Path) -> list[str]:
    with closing(SqliteStore(directory / ".flux" / "flux.db")) as store:
        return [row.execution_id for row in store.list(limit=10_000)]


# -- a hundred resumes


def pause_all(directory: Path, *ids: str) -> None:
    program = f"from crowded import ask\nfor id_ in {ids}: assert ask.run('x', execution_id=id_).is_paused"
    subprocess.run(
        [sys.executable, "-c", program], cwd=directory, env={"PYTHONPATH": f"{SOURCE}:{HERE}"}, check=True, timeout=30
    )


def resume_at_once(directory: Path, build: str, rounds: int) -> None:
    """A hundred identical resumes of each of some executions; one is taken, and the others are refused."""
    ids = [f"order-{number}" for number in range(rounds)]
    pause_all(directory, *ids)
    with crowds(directory, build, "resume", RESUMES // PROCESSES) as processes:
        for id_ in ids:
            answers, _ = at_once(processes, f"{id_} yes")
            assert answers == {"yes": 1, "ExecutionConflictError": RESUMES - 1}
    for id_ in ids:
        found = types(directory, id_)
        assert (found["WORKFLOW_RESUMED"], found["TASK_RESUMED"], found["WORKFLOW_COMPLETED"]) == (1, 1, 1)
    assert ledger(directory) == ["yes"] * rounds


@pytest.mark.slow
def test_of_a_hundred_identical_resumes_at_once_one_is_taken_and_the_others_are_refused(tmp_path: Path) -> None:
    resume_at_once(tmp_path, "sound", rounds=10)


def test_the_check_finds_a_build_that_lets_a_pause_be_answered_twice(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        resume_at_once(tmp_path, "bind_twice", rounds=5)


# -- a thousand starts


def start_at_once(directory: Path, build: str, rounds: int) -> None:
    """A thousand starts of one id, and all are answered by one execution; with two inputs, one of them is refused."""
    each = STARTS // PROCESSES // THREADS
    with crowds(directory, build, "start", THREADS, each) as processes:
        for number in range(rounds):
            assert at_once(processes, f"same-{number} tea") == ({"tea": STARTS}, {f"same-{number}"})
            answers, ids = at_once(processes, f"mixed-{number} tea", f"mixed-{number} gin")
            assert ids == {f"mixed-{number}"}
            (winner,) = set(answers) - {"InvalidInputError"}
            assert answers == {winner: STARTS // 2, "InvalidInputError": STARTS // 2}
    assert sorted(executions(directory)) == sorted(f"{kind}-{n}" for n in range(rounds) for kind in ("same", "mixed"))
    for execution_id in executions(directory):
        assert types(directory, execution_id)["WORKFLOW_STARTED"] == 1
    assert len(ledger(directory)) == 2 * rounds


@pytest.mark.slow
def test_a_thousand_starts_of_one_id_make_one_execution_and_another_input_is_refused(tmp_path: Path) -> None:
    start_at_once(tmp_path, "sound", rounds=3)

    with crowds(tmp_path, "sound", "start", 1) as restarted:
        assert at_once(restarted, "same-0 tea") == ({"tea": PROCESSES}, {"same-0"})
        assert at_once(restarted, "same-0 gin") == ({"InvalidInputError": PROCESSES}, set())
    assert len(ledger(tmp_path)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("build", ["forget_ids", "take_any_input"])
def test_the_check_finds_a_build_that_takes_every_start(tmp_path: Path, build: str) -> None:
    with pytest.raises(AssertionError):
        start_at_once(tmp_path, build, rounds=1)
