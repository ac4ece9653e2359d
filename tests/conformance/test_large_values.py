"""Values of any size, on every store."""

import pytest

from flux.domain.execution import ExecutionState
from flux.ports import AppendResult, Pause

STORED = AppendResult.STORED
SIZES = [256 * 1024 - 1, 256 * 1024, 256 * 1024 + 1, 1 << 20, 10 << 20]


@pytest.mark.parametrize("size", SIZES)
def test_a_value_of_any_size_is_read_back(driver, open_store, size):
    value, detail = b"j1" + b"x" * (size - 2), b"j1" + b"d" * (size - 2)
    birth, step = driver.birth("x"), driver.step("x", 1, state=ExecutionState.COMPLETED)
    step.events = driver.events("x", 1, 1, data=value, detail_data=detail)

    assert driver.store.append([birth, step]) == [STORED, STORED]
    assert [event.data for event in step.events] == [value]  # Those of the caller are as they were.
    (event,) = open_store().events("x", after=1)
    assert (event.data, event.detail_data) == (value, detail)


def test_a_repeated_append_of_a_large_value_is_recognised(driver):
    """Its answer was lost."""
    birth, step = driver.birth("x"), driver.step("x", 1)
    birth.events[0].data = b"j1" + b"b" * (1 << 20)
    step.events[0].data = b"j1" + b"s" * (1 << 20)

    assert [driver.send(birth), driver.send(birth)] == [STORED, STORED]
    assert [driver.send(step), driver.send(step)] == [STORED, STORED]
    step.events[0].data = b"j1" + b"t" * (1 << 20)
    assert driver.send(step) is AppendResult.STALE
    assert [len(event.data) for event in driver.store.events("x")] == [2 + (1 << 20)] * 2


def test_a_large_value_reaches_who_claims_the_execution(driver):
    birth = driver.birth("x", worker=None)
    birth.events[0].data = b"j1" + b"x" * (1 << 20)
    driver.send(birth)

    claim = driver.store.claim("x", worker="ada", version="1", now=2000)

    assert claim.events[0].data == birth.events[0].data


def test_a_large_answer_to_a_pause_is_read_back(driver):
    driver.send(driver.birth("x", opened=[Pause("1", "p")]))
    answer = b"j1" + b"x" * (1 << 20)

    assert driver.store.resume("x", data=answer, now=2000) == Pause("1", "p")
    assert [message.data for message in driver.store.inbox("x")] == [answer]


def test_what_cannot_be_stored_is_refused_without_large_neighbours(driver):
    driver.store.append([driver.birth("a"), driver.birth("b")])
    good, bad = driver.step("a", 1), driver.step("b", 1)
    good.events[0].data = bad.events[0].data = b"j1" + b"x" * (1 << 20)
    bad.events[0].name = "\ud800"

    assert driver.store.append([good, bad]) == [STORED, AppendResult.REFUSED]
    assert [driver.seqs(id_) for id_ in "ab"] == [[1, 2], [1]]
