"""Pauses and who answers them, in processes of their own: no answer is lost, and none is taken that is not due."""

import collections
import json
import random
import signal
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from crash.processes import PATIENCE_SECONDS, SOURCE, child
from flux import ExecutionContext, ExecutionState, app, pause, workflow
from flux.domain.events import ExecutionEventType as Type
from flux.errors import ExecutionConflictError, ExecutionContextNotFoundError, InvalidValueError
from flux.store.sqlite import SqliteStore
from flux.tasks import wait_for_signal

TESTS = str(Path(__file__).parents[1])
PAUSES, CLICKERS, KILLS = 200, 2, 20


@pytest.mark.slow
def test_answers_of_two_processes_come_in_once_and_in_order_though_the_one_that_asks_is_killed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        asking = stack.enter_context(child("clicker.py", tmp_path, "ask", str(PAUSES)))
        clickers = [stack.enter_context(child("clicker.py", tmp_path, "click", f"c{n}")) for n in range(CLICKERS)]
        kills = 0
        while kills < KILLS:
            asking.say(str(random.uniform(0.02, 0.2)))
            code = int(asking.line() or "")
            if code == 0:
                break
            kills += code == -signal.SIGKILL
        asking.say(str(PATIENCE_SECONDS - 5))
        assert int(asking.line() or "") == 0, "it does not come to an end"
        for clicker in clickers:
            assert clicker.end() == 0

    with closing(SqliteStore(tmp_path / ".flux" / "flux.db")) as store:
        events, inbox = store.events("chain"), store.inbox("chain")
    acknowledged = (tmp_path / "acks").read_text().split()
    received = [event.value for event in events if event.type is Type.WORKFLOW_RESUMED]
    print(f"{len(acknowledged)} answers, {kills} kills")
    assert sorted(received) == sorted(acknowledged)
    assert len(received) == PAUSES
    assert inbox == []
    assert events[-1].value == received
    for n in range(CLICKERS):
        own = [int(each.partition("-")[2]) for each in received if each.startswith(f"c{n}-")]
        assert own == list(range(len(own)))


def test_a_pause_of_thirty_days_is_answered_by_another_process(tmp_path: Path) -> None:
    def day(action: str) -> Any:
        with child("clicker.py", tmp_path, "month", action, PYTHONPATH=f"{SOURCE}:{TESTS}") as process:
            answer = json.loads(process.line("[") or "[]")
            assert process.end() == 0
            return answer

    assert day("pause") == ["PAUSED", None]
    assert day("resume") == ["COMPLETED", ["before", "yes", "after", 30 * 86_400]]
    assert (tmp_path / "ledger").read_text().split() == ["before", "after"]
    with closing(SqliteStore(tmp_path / "flux.db")) as store:
        counts = collections.Counter(event.type for event in store.events("patient"))
    assert counts[Type.WORKFLOW_RESUMED] == counts[Type.WORKFLOW_COMPLETED] == 1


# -- what is refused


@workflow
async def asking(ctx: ExecutionContext[Any]) -> Any:
    first = await pause("first")
    return [first, await pause("second")]


@workflow
async def waiting(ctx: ExecutionContext[Any]) -> Any:
    return await wait_for_signal("go")


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def stored(execution_id: str) -> Any:
    """All that is known of an execution."""
    store = app.current().store
    events = [(e.seq, e.type, e.data, e.detail_data, e.time_us) for e in store.events(execution_id)]
    return store.get(execution_id), events, store.inbox(execution_id), store.pauses(execution_id)


REFUSED = {
    "no open pause": (waiting, "waits", {}, ExecutionConflictError, "no open pause"),
    "another name": (asking, "asks", {"name": "second"}, ExecutionConflictError, "no open pause named 'second'"),
    "another workflow": (waiting, "asks", {}, ExecutionConflictError, "belongs to"),
    "finished": (asking, "done", {}, ExecutionConflictError, "COMPLETED"),
    "cancelled": (asking, "cancelled", {}, ExecutionConflictError, "CANCELLED"),
    "unknown": (asking, "nobody", {}, ExecutionContextNotFoundError, "nobody"),
    "an object": (asking, "asks", {"input": [object()]}, InvalidValueError, r"\[0\]"),
    "a generator": (asking, "asks", {"input": iter("ab")}, InvalidValueError, "iterator"),
    "half a character": (asking, "asks", {"input": {"text": "\ud800"}}, InvalidValueError, "surrogate"),
    "too deep": (asking, "asks", {"input": nested(100_000)}, InvalidValueError, "deep"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_resume_that_nothing_waits_for_or_that_cannot_be_recorded_changes_nothing(workdir: Path, case: str) -> None:
    asking.run(1, execution_id="asks")
    waiting.run(1, execution_id="waits")
    for each in ("done", "cancelled"):
        asking.run(1, execution_id=each)
    for _ in range(2):
        asking.resume("done", "yes")
    asking.cancel("cancelled")
    wanted, execution_id, options, error, says = REFUSED[case]
    before = stored(execution_id)

    with pytest.raises(error, match=says):
        wanted.resume(execution_id, **options)

    assert stored(execution_id) == before


def test_a_second_answer_to_the_same_pause_is_refused_also_before_the_first_is_delivered(workdir: Path) -> None:
    asking.run(1, execution_id="asks")
    sent = app.current().send_resume("asks", "yes")
    before = stored("asks")

    with pytest.raises(ExecutionConflictError, match="no open pause"):
        asking.resume("asks", "no")

    assert sent.state is ExecutionState.PAUSED
    assert stored("asks") == before
    assert asking.run(1, execution_id="asks").is_paused  # At the second pause, which nobody has answered yet.
    with pytest.raises(ExecutionConflictError, match="no open pause named 'first'"):
        asking.resume("asks", "no", name="first")
    assert asking.resume("asks", "no").output == ["yes", "no"]


@pytest.mark.parametrize("value", [None, "", "\0", {}, "x" * 10_000_000, float("inf")], ids=lambda v: str(v)[:5])
def test_control_an_answer_that_can_be_recorded_comes_in_as_it_is(workdir: Path, value: Any) -> None:
    asking.run(1, execution_id="asks")
    before = stored("asks")

    asking.resume("asks", value)

    assert stored("asks") != before
    assert asking.resume("asks", "end").output == [value, "end"]
