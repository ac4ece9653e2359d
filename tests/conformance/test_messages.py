"""Pauses, resumes and news, on every store."""

import threading
from dataclasses import replace

import pytest

from flux.domain.execution import ExecutionState
from flux.ports import NOW, AppendResult, MessageKind, Parent, Pause

FIRST, SECOND = Pause("1", "approve"), Pause("2", "sign")


@pytest.fixture
def paused(driver):
    """Execution x, paused at FIRST and SECOND."""
    driver.send(driver.birth("x", opened=[FIRST, SECOND]))
    driver.send(driver.step("x", 1, state=ExecutionState.PAUSED))
    return driver.store


def test_open_pauses_are_listed_oldest_first(paused):
    assert paused.pauses("x") == [FIRST, SECOND]
    assert paused.pauses("unknown") == []


def test_a_resume_wakes_a_paused_execution_and_waits_in_its_inbox(paused):
    assert paused.resume("x", data=b'"yes"', now=3000) == FIRST

    assert paused.get("x").state is ExecutionState.SCHEDULED
    assert paused.claim("x", worker="ada", version="1", now=3000) is not None
    (message,) = paused.inbox("x")
    assert (message.kind, message.call_id, message.name) == (MessageKind.RESUME, "1", "approve")
    assert message.data == b'"yes"'


def test_a_pause_is_resumed_once(paused):
    assert paused.resume("x", data=b"1", now=3000, name="approve") == FIRST
    assert paused.resume("x", data=b"2", now=3000, name="approve") is None
    assert paused.pauses("x") == [SECOND]
    assert len(paused.inbox("x")) == 1


def test_resumes_are_bound_oldest_first_and_kept_in_order(paused):
    bound = [paused.resume("x", data=data, now=3000) for data in (b"1", b"2", b"3")]

    assert bound == [FIRST, SECOND, None]
    assert [(message.call_id, message.data) for message in paused.inbox("x")] == [("1", b"1"), ("2", b"2")]


def test_a_resume_by_name_takes_that_pause(paused):
    assert paused.resume("x", data=b"1", now=3000, name="sign") == SECOND
    assert paused.resume("x", data=b"1", now=3000, name="unknown") is None
    assert paused.resume("unknown", data=b"1", now=3000) is None


def test_a_repeat_of_a_client_changes_nothing(paused, driver):
    assert paused.resume("x", data=b"1", now=3000, client_id="click") == FIRST
    assert paused.resume("x", data=b"2", now=3001, client_id="click") == FIRST
    (message,) = paused.inbox("x")
    assert message.data == b"1"

    taken = paused.claim("x", worker="ada", version="1", now=3000)
    driver.send(
        driver.step("x", 2, fence=taken.row.fence, consumed=[message.id], closed=["1"], state=ExecutionState.PAUSED)
    )
    assert paused.resume("x", data=b"1", now=3000, client_id="click") == FIRST  # Consumed, and still known.
    assert paused.get("x").state is ExecutionState.PAUSED
    assert paused.resume("x", data=b"1", now=3000, client_id="another") == SECOND  # The control.


def test_many_simultaneous_resumes_bind_one(driver, open_store):
    driver.send(driver.birth("x", opened=[FIRST]))
    driver.send(driver.step("x", 1, state=ExecutionState.PAUSED))
    stores, answers = [driver.store, driver.store, open_store(), open_store()], []
    start = threading.Barrier(4)

    def click(n: int) -> None:
        start.wait()
        answers.append(stores[n].resume("x", data=b"1", now=3000, client_id=str(n)))

    threads = [threading.Thread(target=click, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(answers, key=str) == sorted([FIRST, None, None, None], key=str)
    assert len(driver.store.inbox("x")) == 1


def test_a_closed_pause_is_gone(driver):
    driver.send(driver.birth("x", opened=[FIRST, SECOND]))
    driver.send(driver.step("x", 1, closed=["1"]))

    assert driver.store.pauses("x") == [SECOND]


def test_a_finished_execution_cannot_be_resumed(driver):
    driver.send(driver.birth("x", opened=[FIRST]))
    driver.send(driver.step("x", 1, state=ExecutionState.CANCELLED))

    assert driver.store.pauses("x") == []
    assert driver.store.resume("x", data=b"1", now=3000) is None


def test_a_resume_leaves_a_running_execution_with_its_owner(driver):
    driver.send(driver.birth("x", opened=[FIRST]))
    driver.store.resume("x", data=b"1", now=3000)

    assert driver.store.get("x").state is ExecutionState.RUNNING
    assert driver.send(driver.step("x", 1)) is AppendResult.STORED


def test_a_resume_wakes_a_sleeping_execution(driver):
    driver.send(driver.birth("x", opened=[FIRST]))
    driver.send(driver.step("x", 1, state=ExecutionState.SCHEDULED, wake_at=10**9))
    driver.store.resume("x", data=b"1", now=3000)

    assert driver.store.claim("x", worker="ada", version="1", now=3000) is not None


def test_a_resume_does_not_unblock(driver):
    driver.send(driver.birth("x", opened=[FIRST]))
    blocked = {"blocked_reason": "diverged", "blocked_version": "1"}
    driver.send(driver.step("x", 1, state=ExecutionState.SCHEDULED, **blocked))
    driver.store.resume("x", data=b"1", now=3000)

    assert driver.store.claim("x", worker="ada", version="1", now=3000) is None
    assert driver.store.claim("x", worker="ada", version="2", now=3000) is not None


def test_no_wake_up_is_lost_between_parking_and_resuming(driver, open_store):
    """Whichever comes first: either parking is refused, or the resume finds the execution parked and wakes it."""
    other = open_store()
    for round_ in range(40):
        id_ = f"x{round_}"
        driver.send(driver.birth(id_, opened=[FIRST]))
        resumer = threading.Thread(target=other.resume, args=(id_,), kwargs={"data": b"1", "now": 3000})
        resumer.start()
        answer = driver.send(driver.step(id_, 1, state=ExecutionState.PAUSED))
        resumer.join()

        row = driver.store.get(id_)
        assert (answer, row.state) in {
            (AppendResult.NEWS, ExecutionState.RUNNING),
            (AppendResult.STORED, ExecutionState.SCHEDULED),
        }


def test_news_differ_after_any_write_of_anybody(driver, open_store):
    other, seen = open_store(), [driver.store.news()]

    def differs() -> bool:
        seen.append(driver.store.news())
        return seen[-1] not in seen[:-1]

    assert not differs()  # The control: nothing was written.
    driver.send(driver.birth("x", opened=[FIRST]))
    assert differs()
    other.resume("x", data=b"1", now=3000)
    assert differs()
    driver.store.reopen()
    other.resume("x", data=b"1", now=3000, name="none")
    driver.send(driver.step("x", 1))
    assert differs()


def test_the_newest_executions_are_listed_first(driver):
    for id_, workflow in (("a", "greet"), ("b", "other"), ("c", "greet")):
        driver.send(driver.birth(id_, workflow=workflow))
    driver.send(driver.step("a", 1, state=ExecutionState.COMPLETED))

    def ids(**wanted):
        return [row.execution_id for row in driver.store.list(**wanted)]

    assert ids() == ["c", "b", "a"]
    assert ids(limit=1) == ["c"]
    assert ids(workflow="greet") == ["c", "a"]
    assert ids(workflow="greet", state=ExecutionState.RUNNING) == ["c"]
    assert driver.store.list(state=ExecutionState.COMPLETED) == [driver.store.get("a")]


def test_an_append_that_ends_children_asks_those_that_are_not_finished_and_wakes_them(driver):
    driver.send(driver.birth("parent"))
    children = {"asleep": ExecutionState.SCHEDULED, "paused": ExecutionState.PAUSED, "over": ExecutionState.COMPLETED}
    for execution_id, state in {**children, "stranger": ExecutionState.PAUSED}.items():
        birth = driver.birth(execution_id)
        if execution_id != "stranger":
            birth.create = replace(birth.create, parent=Parent("parent", "1"))
        driver.send(birth)
        wake_at = 9_000_000 if state is ExecutionState.SCHEDULED else None
        driver.send(driver.step(execution_id, 1, state=state, wake_at=wake_at))
    new = driver.birth("new", worker=None)
    new.create = replace(new.create, parent=Parent("parent", "2"))
    told = [message.id for message in driver.store.inbox("parent")]

    ended = {"state": ExecutionState.CANCELLED, "consumed": told, "children": [new], "ends_children": True}
    assert driver.send(driver.step("parent", 1, **ended)) is AppendResult.STORED

    for execution_id in ("asleep", "paused", "new"):
        (message,) = driver.store.inbox(execution_id)
        assert (message.kind, message.name, message.is_at_once) == (MessageKind.CANCEL, NOW, True)
        assert driver.store.claim(execution_id, worker="ada", version="1", now=2000) is not None
    assert driver.store.inbox("over") == driver.store.inbox("stranger") == []
    assert driver.store.get("stranger").state is ExecutionState.PAUSED


def test_an_append_that_does_not_end_children_asks_none(driver):
    child = driver.birth("child")
    child.create = replace(child.create, parent=Parent("parent", "1"))
    driver.send(driver.birth("parent"))
    driver.send(child)

    assert driver.send(driver.step("parent", 1, state=ExecutionState.CANCELLED)) is AppendResult.STORED

    assert driver.store.inbox("child") == []
