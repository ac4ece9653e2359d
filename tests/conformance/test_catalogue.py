"""What a server shows and finds: the promises of `catalogue.Catalogue`."""

from dataclasses import replace
from pathlib import Path

import pytest

from flux.catalogue import Line, PublishedWorkflow, Search, StoredToken
from flux.domain.execution import ExecutionState
from flux.ports import MessageKind
from flux.store.sqlite import SqliteStore

GREET = PublishedWorkflow(name="greet", version="1", location="greet.py", description="Greets.", input_schema="{}")
SERVED = {"greet": "1"}


@pytest.fixture
def store(tmp_path: Path):
    store = SqliteStore(tmp_path / "flux.db")
    yield store
    store.close()


@pytest.fixture
def catalogue(store):
    return store.catalogue


def born(driver, execution_id, *, worker=None, attributes=None, **options):
    append = driver.birth(execution_id, worker=worker, state=ExecutionState.SCHEDULED, **options)
    append.create = replace(append.create, attributes=attributes or {})
    driver.send(append)


def found(catalogue, **wanted):
    return [row.execution_id for row in catalogue.search(Search(**wanted))]


# -- workers and their workflows


def test_a_worker_serves_what_it_published_last(driver, catalogue):
    other = replace(GREET, name="part", version="2")
    catalogue.publish("ada", process="host:1", workflows=[GREET, other], now=5)
    catalogue.publish("ada", process="host:1", workflows=[replace(GREET, version="3")], now=7)
    (worker,) = catalogue.workers()

    assert (worker.worker, worker.process, list(worker.workflows), worker.running) == ("ada", "host:1", ["greet"], 0)
    assert catalogue.workflows() == [replace(GREET, version="3"), other]  # Known for as long as the database is.


def test_a_worker_is_shown_with_the_labels_that_it_published_last(driver, catalogue):
    assert [worker.labels for worker in catalogue.workers()] == [{}]  # It is registered, and has told nothing yet.
    catalogue.publish("ada", process="host:1", workflows=[GREET], labels={"gpu": "t4"}, now=5)
    catalogue.publish("ada", process="host:1", workflows=[GREET], labels={"region": "eu", "gpu": "a100"}, now=7)
    assert driver.store.heartbeat("ada", lease_expires_at=20_000)

    assert [worker.labels for worker in catalogue.workers()] == [{"gpu": "a100", "region": "eu"}]
    catalogue.publish("ada", process="host:1", workflows=[GREET], now=9)
    assert [worker.labels for worker in catalogue.workers()] == [{}]


def test_a_workflow_that_a_worker_leaves_to_others_is_known_with_its_labels_and_not_served(driver, catalogue):
    trained = replace(GREET, name="trained", labels={"gpu": "a100", "ö": "'\\\""})
    catalogue.publish("ada", process="host:1", workflows=[GREET], left=[trained], now=5)

    assert catalogue.workflows() == [GREET, trained]
    assert [worker.workflows for worker in catalogue.workers()] == [["greet"]]
    catalogue.publish("ada", process="host:1", workflows=[replace(trained, labels={})], now=7)
    assert catalogue.workflows() == [GREET, replace(trained, labels={})]


def test_a_worker_is_shown_with_what_it_runs_until_it_is_removed(driver, catalogue):
    driver.send(driver.birth("mine"))
    (worker,) = catalogue.workers()
    driver.store.remove_worker("ada")

    assert (worker.running, worker.process) == (1, "")
    assert catalogue.workers() == []


# -- what is due


def test_the_next_wake_is_the_earliest_of_what_can_be_claimed_then(driver, catalogue):
    assert catalogue.next_wake(SERVED) is None
    for execution_id, wake_at in (("late", 900), ("early", 500), ("now", None)):
        driver.send(driver.birth(execution_id))
        driver.send(driver.step(execution_id, 1, state=ExecutionState.SCHEDULED, wake_at=wake_at))

    assert catalogue.next_wake(SERVED) == 500
    assert catalogue.next_wake({"other": "1"}) is None
    assert catalogue.next_wake({"other": "1"} | SERVED) == 500
    driver.store.claim("early", worker="ada", version="1", now=600)
    assert catalogue.next_wake(SERVED) == 900


# -- finding


def test_executions_are_found_by_what_they_are(driver, catalogue):
    born(driver, "order-1", attributes={"customer": "7", "country": "NL"}, created_at=1000)
    born(driver, "order-2", attributes={"customer": "7"}, created_at=2000)
    born(driver, "other", workflow="part", created_at=3000)

    assert found(catalogue) == ["other", "order-2", "order-1"]
    assert found(catalogue, workflow="part") == ["other"]
    assert found(catalogue, id_prefix="order") == ["order-2", "order-1"]
    assert found(catalogue, attributes={"customer": "7"}) == ["order-2", "order-1"]
    assert found(catalogue, attributes={"customer": "7", "country": "NL"}) == ["order-1"]
    assert found(catalogue, attributes={"customer": "8"}) == []
    assert found(catalogue, created_from=2000, created_to=3000) == ["order-2"]
    assert found(catalogue, state=ExecutionState.PAUSED) == []
    assert found(catalogue, is_blocked=True) == []
    assert len(found(catalogue, is_blocked=False)) == 3


def test_a_prefix_and_an_attribute_are_taken_literally(driver, catalogue):
    born(driver, "a-b", attributes={"n": "1"})

    assert found(catalogue, id_prefix="a_") == []
    assert found(catalogue, id_prefix="%") == []
    assert found(catalogue, attributes={"n": "%"}) == []


def test_pages_follow_each_other_without_gap_or_repeat_while_more_are_created(driver, catalogue):
    for n in range(5):
        born(driver, f"e{n}")
    first = catalogue.search(Search(limit=2))
    born(driver, "new")
    second = catalogue.search(Search(limit=2, before=first[-1].number))
    third = catalogue.search(Search(limit=2, before=second[-1].number))

    assert [row.execution_id for row in (*first, *second, *third)] == ["e4", "e3", "e2", "e1", "e0"]


def test_counts_tell_of_every_state_whatever_page_is_asked_for(driver, catalogue):
    born(driver, "a")
    born(driver, "b", workflow="part")
    driver.send(driver.birth("c"))
    counts = catalogue.counts(Search(limit=1, workflow="greet", state=ExecutionState.PAUSED))

    assert set(counts) == set(ExecutionState)
    assert (counts[ExecutionState.SCHEDULED], counts[ExecutionState.RUNNING]) == (1, 1)


def test_attributes_are_kept_with_their_execution(driver, catalogue):
    born(driver, "a", attributes={"x": "1"})
    born(driver, "b")

    assert catalogue.attributes(["a", "b", "unknown"]) == {"a": {"x": "1"}}


# -- changes


def test_a_change_is_told_for_each_execution_that_came_into_another_state_in_order(driver, catalogue):
    born(driver, "a")
    born(driver, "b")
    begin = catalogue.last_change()
    driver.store.claim("a", worker="ada", version="1", now=2000)
    changes = catalogue.changes(after=begin, limit=10)

    assert [(each.row.execution_id, each.row.state) for each in changes] == [("a", ExecutionState.RUNNING)]
    assert [each.row.execution_id for each in catalogue.changes(after=0, limit=10)] == ["b", "a"]
    assert len(catalogue.changes(after=0, limit=1)) == 1
    assert catalogue.changes(after=catalogue.last_change(), limit=10) == []


def test_an_event_that_leaves_the_state_is_no_change(driver, catalogue):
    driver.send(driver.birth("a"))
    begin = catalogue.last_change()
    driver.send(driver.step("a", 1))
    driver.store.send("a", kind=MessageKind.SIGNAL, data=b"1", now=1, name="go")

    assert catalogue.changes(after=begin, limit=10) == []


# -- lines


def line(text, execution_id="a"):
    return Line(id=0, execution_id=execution_id, call_id="1", task="t", stream="stdout", text=text, time_us=5)


def test_the_last_lines_of_each_execution_are_kept_in_order(driver, catalogue):
    born(driver, "a")
    born(driver, "b")
    catalogue.add_lines([line("one"), line("other", "b"), line("two")], most=2)
    catalogue.add_lines([line("three")], most=2)
    lines = catalogue.lines("a", after=0, limit=10)

    assert [each.text for each in lines] == ["two", "three"]
    assert [each.text for each in catalogue.lines("a", after=lines[0].id, limit=10)] == ["three"]
    assert [each.text for each in catalogue.lines("b", after=0, limit=10)] == ["other"]


# -- tokens


def test_a_token_is_found_by_its_hash_until_it_is_revoked(catalogue):
    token = StoredToken(name="ci", digest=b"d" * 32, role="viewer", created_at=1, expires_at=None)

    assert catalogue.add_token(token)
    assert not catalogue.add_token(replace(token, digest=b"e" * 32))  # The name is taken.
    assert catalogue.find_token(b"d" * 32) == token
    assert catalogue.find_token(b"e" * 32) is None
    assert catalogue.tokens() == [token]
    assert catalogue.delete_token("ci")
    assert not catalogue.delete_token("ci")
    assert catalogue.find_token(b"d" * 32) is None
