"""What an append promises, on every store."""

from dataclasses import replace

import pytest

from flux.domain.events import ExecutionEvent
from flux.domain.execution import ExecutionState
from flux.ports import AppendResult, Pause

STORED, STALE, EXISTS = AppendResult.STORED, AppendResult.STALE, AppendResult.EXISTS
NEWS, REFUSED = AppendResult.NEWS, AppendResult.REFUSED


def facts(event: ExecutionEvent) -> tuple[object, ...]:
    return tuple(
        getattr(event, name)
        for name in ("execution_id", "seq", "type", "call_id", "name", "data", "detail_data", "time_us")
    )


def test_every_field_of_an_event_is_kept(driver, open_store):
    append = driver.birth("x", events=0)
    append.events = [
        *driver.events("x", 0, 1, data=None, detail_data=b"{}", call_id="", name="grüße\n"),
        *driver.events("x", 1, 1, data=b"", detail_data=b"\0\xff"),
        *driver.events("x", 2, 1, data=b"\0" * 300_000),
    ]

    assert driver.send(append) is STORED
    assert [facts(event) for event in open_store().events("x")] == [facts(event) for event in append.events]


def test_events_after_a_seq_are_read_alone(driver):
    driver.send(driver.birth("x", events=5))

    assert [event.seq for event in driver.store.events("x", after=3)] == [4, 5]
    assert driver.store.events("x", after=5) == []
    assert driver.store.events("unknown") == []


def test_an_execution_born_to_a_worker_runs_under_fence_one(driver):
    driver.send(driver.birth("x"))

    row = driver.store.get("x")
    assert (row.state, row.worker, row.fence, row.last_seq) == (ExecutionState.RUNNING, "ada", 1, 1)
    assert (row.created_at, row.started_at, row.finished_at) == (1000, 1000, None)


def test_an_execution_born_to_nobody_waits_for_a_claim(driver):
    driver.send(driver.birth("x", worker=None))

    row = driver.store.get("x")
    assert (row.state, row.worker, row.fence, row.last_seq) == (ExecutionState.SCHEDULED, None, 0, 1)
    assert row.started_at is None
    assert driver.seqs("x") == [1]


@pytest.mark.parametrize("state", [ExecutionState.COMPLETED, ExecutionState.FAILED, ExecutionState.CANCELLED])
def test_a_finished_execution_is_immutable(driver, state):
    driver.send(driver.birth("x"))
    assert driver.send(driver.step("x", 1, events=2, state=state)) is STORED

    row = driver.store.get("x")
    assert (row.state, row.worker, row.finished_at) == (state, None, 1003)
    assert driver.send(driver.step("x", 3)) is STALE
    assert driver.store.claim("x", worker="ada", version="1", now=9999) is None
    assert not driver.store.release("x", fence=1)
    assert driver.store.get("x") == row


def test_an_execution_can_begin_and_finish_in_one_append(driver):
    driver.send(driver.birth("x", events=3, state=ExecutionState.COMPLETED))

    row = driver.store.get("x")
    assert (row.state, row.worker, row.fence, row.finished_at) == (ExecutionState.COMPLETED, None, 1, 1003)
    assert driver.seqs("x") == [1, 2, 3]


@pytest.mark.parametrize(("fence", "after"), [(0, 1), (2, 1), (1, 0), (1, 2)])
def test_another_fence_or_seq_is_stale_and_stores_nothing(driver, fence, after):
    driver.send(driver.birth("x"))
    other = driver.step("x", after, fence=fence, events=2)
    for event in other.events:
        event.name = "other"

    assert driver.send(other) is STALE
    assert driver.seqs("x") == [1]
    assert driver.send(driver.step("x", 1)) is STORED  # The control: the right fence and seq pass.


def test_an_unknown_execution_is_stale(driver):
    assert driver.send(driver.step("nowhere", 0)) is STALE


def test_a_stale_append_does_not_disturb_its_neighbours(driver):
    driver.store.append([driver.birth("a"), driver.birth("b")])

    assert driver.store.append([driver.step("a", 1), driver.step("a", 7), driver.step("b", 1)]) == [
        STORED,
        STALE,
        STORED,
    ]
    assert (driver.seqs("a"), driver.seqs("b")) == ([1, 2], [1, 2])


def test_appends_of_one_execution_follow_each_other_in_a_batch(driver):
    batch = [driver.birth("x"), driver.step("x", 1), driver.step("x", 2, state=ExecutionState.COMPLETED)]

    assert driver.store.append(batch) == [STORED] * 3
    assert driver.store.append(batch) == [STORED] * 3  # As after a lost answer.
    assert driver.seqs("x") == [1, 2, 3]


@pytest.mark.parametrize("state", [ExecutionState.RUNNING, ExecutionState.PAUSED, ExecutionState.COMPLETED])
def test_a_repeated_append_is_stored_once(driver, open_store, state):
    driver.send(driver.birth("x"))
    append = driver.step("x", 1, events=2, state=state)
    driver.send(append)
    row = driver.store.get("x")

    assert driver.send(append) is STORED
    assert open_store().append([append]) == [STORED]
    assert driver.store.get("x") == row
    assert driver.seqs("x") == [1, 2, 3]


def test_a_repeat_that_differs_in_one_byte_is_stale(driver):
    driver.send(driver.birth("x"))
    driver.send(driver.step("x", 1))
    other = driver.step("x", 1)
    other.events[0].data = b'"valuf"'

    assert driver.send(other) is STALE


def test_a_repeat_is_recognised_after_another_worker_went_on(driver):
    driver.send(driver.birth("x"))
    parked = driver.step("x", 1, state=ExecutionState.SCHEDULED)
    driver.send(parked)
    claim = driver.store.claim("x", worker="ada", version="1", now=2000)
    driver.send(driver.step("x", 2, fence=claim.row.fence))

    assert driver.send(parked) is STORED
    assert driver.send(driver.step("x", 3, fence=1)) is STALE


def test_parking_without_events_may_be_repeated(driver):
    driver.send(driver.birth("x"))
    park = driver.step("x", 1, events=0, state=ExecutionState.SCHEDULED, wake_at=5000)

    assert [driver.send(park), driver.send(park)] == [STORED, STORED]
    assert driver.store.get("x").wake_at == 5000


def test_an_id_is_taken_once(driver):
    driver.send(driver.birth("x"))

    assert driver.send(driver.birth("x", workflow="other")) is EXISTS
    assert driver.send(driver.birth("x", worker="bob")) is EXISTS
    assert driver.send(driver.birth("x", events=2)) is EXISTS
    assert driver.send(driver.birth("x", created_at=1001)) is EXISTS
    assert driver.send(driver.birth("x")) is STORED  # Our own, repeated: its answer was lost.
    assert driver.store.get("x").workflow == "greet"
    assert driver.seqs("x") == [1]


def test_a_repeated_creation_is_recognised_after_it_went_on(driver):
    driver.send(driver.birth("x"))
    driver.send(driver.step("x", 1, state=ExecutionState.COMPLETED))

    assert driver.send(driver.birth("x")) is STORED
    assert driver.store.get("x").state is ExecutionState.COMPLETED


def test_what_cannot_be_stored_is_refused_without_its_neighbours(driver):
    driver.store.append([driver.birth("a"), driver.birth("b"), driver.birth("c")])
    bad = driver.step("b", 1)
    bad.events[0].name = "\ud800"  # Half a character: no encoding holds it.

    assert driver.store.append([driver.step("a", 1), bad, driver.step("c", 1)]) == [STORED, REFUSED, STORED]
    assert [driver.seqs(id_) for id_ in "abc"] == [[1, 2], [1], [1, 2]]
    assert driver.send(driver.step("b", 1)) is STORED


def test_a_creation_that_cannot_be_stored_leaves_its_id_free(driver):
    bad = driver.birth("x")
    bad.events[0].time_us = 2**64

    assert driver.store.append([bad, driver.birth("y")]) == [REFUSED, STORED]
    assert driver.store.get("x") is None
    assert driver.send(driver.birth("x")) is STORED
    assert driver.store.append([driver.step("x", 1), driver.step("y", 1)]) == [STORED, STORED]


def test_a_gap_in_the_seqs_is_refused(driver):
    driver.send(driver.birth("x"))
    gap = driver.step("x", 1)
    gap.events = driver.events("x", 2, 1)

    assert driver.send(gap) is REFUSED
    assert driver.seqs("x") == [1]


def test_an_impossible_row_is_refused(driver):
    driver.send(driver.birth("x"))

    assert driver.send(driver.step("x", 1, state=ExecutionState.PAUSED, wake_at=5000)) is REFUSED
    assert driver.send(driver.step("x", 1, events=0, state=ExecutionState.COMPLETED)) is REFUSED
    assert driver.store.get("x").state is ExecutionState.RUNNING


def test_an_execution_is_not_parked_over_a_message(driver):
    driver.send(driver.birth("x", opened=[Pause("1", "approve")]))
    driver.store.resume("x", data=b"1", now=1500)
    (message,) = driver.store.inbox("x")
    park = driver.step("x", 1, state=ExecutionState.PAUSED)

    assert driver.send(park) is NEWS
    assert driver.seqs("x") == [1]
    park.consumed = [message.id]
    assert driver.send(park) is STORED
    assert driver.store.inbox("x") == []


def test_a_blocked_execution_is_parked_over_a_message(driver):
    """Its owner cannot read the message; whoever claims it after the block can."""
    driver.send(driver.birth("x", opened=[Pause("1", "approve")]))
    driver.store.resume("x", data=b"1", now=1500)
    blocked = {"blocked_reason": "diverged", "blocked_version": "1"}

    assert driver.send(driver.step("x", 1, events=0, state=ExecutionState.SCHEDULED, **blocked)) is STORED
    assert len(driver.store.inbox("x")) == 1


def test_try_append_stores_when_nobody_else_writes(driver):
    assert driver.store.try_append([driver.birth("x")]) == [STORED]


def test_an_empty_batch_is_harmless(driver):
    assert driver.store.append([]) == []


def test_what_was_stored_is_there_after_reopening(driver):
    driver.send(driver.birth("x"))
    driver.store.reopen()

    assert driver.send(driver.step("x", 1)) is STORED
    assert driver.seqs("x") == [1, 2]


def test_a_large_batch_is_one_append(driver):
    """A batch has no limit of its own: 2,000 appends and 4,000 events are one transaction."""
    births = [driver.birth(f"x{n}", events=2) for n in range(2000)]

    assert driver.store.append(births) == [STORED] * 2000
    assert driver.seqs("x1999") == [1, 2]


def test_attributes_are_recorded_with_the_creation_and_a_repeat_changes_none(driver, open_store):
    birth = driver.birth("e", state=ExecutionState.SCHEDULED, worker=None)
    birth.create = replace(birth.create, attributes={"customer": "7", "country": "NL"})
    repeat = driver.birth("e", state=ExecutionState.SCHEDULED, worker=None, created_at=2000)
    repeat.create = replace(repeat.create, attributes={"customer": "8", "more": "x"})
    driver.send(birth)
    driver.send(birth)
    driver.send(driver.birth("plain", state=ExecutionState.SCHEDULED, worker=None))

    assert driver.send(repeat) is AppendResult.EXISTS
    another = open_store()
    attributes_of = getattr(another, "catalogue", another).attributes
    assert attributes_of(["e", "plain", "unknown"]) == {"e": {"customer": "7", "country": "NL"}}
