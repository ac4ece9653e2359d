"""Answers to pauses come at any moment: none is lost, none is taken twice, and what waits for nothing takes none."""

import asyncio
import collections
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crash.test_races import PACES
from crash.turns import Pace, Process
from flux import pause, task, workflow
from flux.errors import ExecutionConflictError
from flux.serde import encode
from flux.store import database
from flux.store.sqlite import _SQL
from flux.tasks import sleep
from flux.testing.virtual_time import VirtualTime

RACES = 10_000  # Of an answer with the recording of its pause.
PAUSES = 20  # In each execution.


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails here, so nothing need be flushed to the disk."""
    monkeypatch.setitem(database._PRAGMAS, "synchronous", 0)


@task
async def act(what: Any) -> Any:
    await asyncio.sleep(0.1)
    return what


@workflow
async def one_after_the_other(ctx: Any) -> Any:
    return [await pause("approval") for _ in range(PAUSES)]


@workflow
async def with_work_between(ctx: Any) -> Any:
    return [await act(await pause("approval")) for _ in range(PAUSES)]


@workflow
async def beside_a_task(ctx: Any) -> Any:
    """Parked when the task has ended, if there is no answer by then."""
    return [(await asyncio.gather(pause("approval"), act("beside")))[0] for _ in range(PAUSES)]


@workflow
async def beside_timers(ctx: Any) -> Any:
    """Two who ask, and a task and a timer that take turns."""
    answers = []

    async def ask(_: int) -> None:
        for _ in range(PAUSES // 2):
            answers.append(await pause("approval"))

    async def work() -> None:
        for number in range(PAUSES):
            await (act(number) if number % 2 else sleep(0.5))

    await asyncio.gather(ask(1), work(), ask(2))
    return answers


class Clicker:
    """Somebody who answers some turns after the last answer, and remembers what was accepted.

    Half of them tell the process; it must find out about the others, as if another process had been asked.
    """

    def __init__(self, process: Process, execution_id: str, rng: random.Random) -> None:
        self._process, self._id, self._rng = process, execution_id, rng
        self._longest, self._tells = rng.choice([1, 6, 12, 25]), rng.choice([True, False])
        self._left = 0
        self.accepted: list[int] = []
        self.refused = 0

    def turn(self) -> None:
        """Right before each turn of the loop."""
        if self._left:
            self._left -= 1
        else:
            self.click()

    def click(self) -> None:
        value = len(self.accepted)
        if self._send(value):
            self.accepted.append(value)
            self._left = self._rng.randrange(self._longest)
        else:
            self.refused += 1

    def _send(self, value: int) -> bool:
        if not self._tells:
            store, now = self._process.store, self._process.time.now()
            return store.resume(self._id, data=encode(value), now=now) is not None
        try:
            self._process.app.send_resume(self._id, value)
        except ExecutionConflictError:
            return False
        return True


async def finished(process: Process, wanted: Any, execution_id: str, clicker: Clicker) -> Any:
    """Run it to its end; who is paused for long is answered, until there has been time enough."""
    running = asyncio.ensure_future(process.finish(wanted, execution_id))
    for _ in range(1000):
        await asyncio.wait([running], timeout=0.3)
        if running.done():
            return running.result()
        clicker.click()
    row = process.store.get(execution_id)
    raise AssertionError(f"after {len(clicker.accepted)} answers it is {row.state} with {process.store.inbox('x')}")


def check(process: Process, execution_id: str, output: Any, clicker: Clicker) -> None:
    """Every answer that was accepted came in, once and in order."""
    types = collections.Counter(str(event.type) for event in process.store.events(execution_id))
    assert output == clicker.accepted == list(range(PAUSES))
    assert types["WORKFLOW_RESUMED"] == types["TASK_RESUMED"] == PAUSES
    assert process.store.inbox(execution_id) == process.store.pauses(execution_id) == []


def races(folder: Path, wanted: Any, pace: Pace, seed: int, executions: int) -> Iterator[Clicker]:
    process = Process(folder, VirtualTime(), pace)
    try:
        for number in range(executions):
            execution_id = f"{number}"
            clicker = Clicker(process, execution_id, random.Random(f"{seed} {number} {wanted.name}"))
            process.schedule(wanted, execution_id, None)
            process.loop.plan = [(turn, clicker.turn) for turn in range(1, 5_000)]
            context = process.loop.complete(finished(process, wanted, execution_id, clicker))
            check(process, execution_id, context.output, clicker)
            yield clicker
    finally:
        process.close()


def race(folder: Path, wanted: Any, at_least: int) -> tuple[int, int]:
    """How many answers were accepted, and how many attempts were refused."""
    accepted = refused = 0
    for seed, pace in enumerate(PACES * 10):
        for clicker in races(folder / str(seed), wanted, pace, seed, executions=4):
            accepted += len(clicker.accepted)
            refused += clicker.refused
        shutil.rmtree(folder / str(seed))
        if accepted >= at_least:
            return accepted, refused
    raise AssertionError(f"only {accepted} races")


WANTED = [one_after_the_other, with_work_between, beside_a_task, beside_timers]


@pytest.mark.slow
@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.name)
def test_no_answer_is_lost_that_races_with_the_recording_of_its_pause(tmp_path: Path, wanted: Any) -> None:
    accepted, refused = race(tmp_path, wanted, RACES // len(WANTED) + 1)

    print(f"{accepted} answers came in, {refused} attempts met no open pause")
    assert refused > accepted / 10


def fall_asleep_over_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """BROKEN: an execution is parked although an answer waits in its inbox."""
    careless = _SQL["park_execution"].replace("data IS NOT NULL", "data IS NOT NULL AND 0")
    assert careless != _SQL["park_execution"]
    monkeypatch.setitem(_SQL, "park_execution", careless)


def bind_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """BROKEN: a pause may be answered although it was."""
    monkeypatch.setitem(_SQL, "bind_pause", _SQL["bind_pause"].replace("AND pauses.resumed_at IS NULL", ""))


@pytest.mark.parametrize("broken", [fall_asleep_over_answers, bind_twice])
def test_the_check_finds_a_build_that_loses_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    broken(monkeypatch)

    with pytest.raises(AssertionError):
        race(tmp_path, beside_a_task, 1000)
