"""Who owns an execution, on every store."""

import threading

import pytest

from flux.domain.execution import ExecutionState
from flux.errors import StoreError
from flux.ports import AppendResult, Pause

BLOCKED = {"state": ExecutionState.SCHEDULED, "blocked_reason": "diverged", "blocked_version": "1"}


def claim(store, execution_id="x", *, worker="ada", version="1", now=2000):
    return store.claim(execution_id, worker=worker, version=version, now=now)


def ready(store, *, worker="ada", workflows=("greet",), version="1", now=2000, limit=10):
    served = dict.fromkeys(workflows, version)
    claims = store.claim_ready(worker=worker, workflows=served, now=now, limit=limit)
    return [claim.row.execution_id for claim in claims]


def test_a_claim_brings_the_row_as_it_is_now_and_the_history(driver):
    driver.send(driver.birth("x", worker=None, events=3))

    taken = claim(driver.store, now=2000)
    assert taken.row == driver.store.get("x")
    assert (taken.row.state, taken.row.worker, taken.row.fence) == (ExecutionState.RUNNING, "ada", 1)
    assert taken.row.started_at == 2000
    assert [event.seq for event in taken.events] == [1, 2, 3]


def test_an_execution_is_claimed_once(driver, open_store):
    driver.send(driver.birth("x", worker=None))

    assert claim(driver.store) is not None
    assert claim(driver.store) is None
    assert claim(open_store(), worker="bob") is None
    assert claim(driver.store, "unknown") is None


def test_each_claim_raises_the_fence_and_shuts_the_owner_before_out(driver):
    driver.send(driver.birth("x"))
    driver.store.release("x", fence=1)

    assert claim(driver.store).row.fence == 2
    assert driver.send(driver.step("x", 1, fence=1)) is AppendResult.STALE
    assert driver.send(driver.step("x", 1, fence=2)) is AppendResult.STORED


def test_the_time_of_the_first_start_stays(driver):
    driver.send(driver.birth("x"))
    driver.store.release("x", fence=1)

    assert claim(driver.store, now=7000).row.started_at == 1000


def test_a_sleeping_execution_is_claimed_when_it_is_due(driver):
    driver.send(driver.birth("x"))
    driver.send(driver.step("x", 1, state=ExecutionState.SCHEDULED, wake_at=5000))

    assert claim(driver.store, now=4999) is None
    assert ready(driver.store, now=4999) == []
    taken = claim(driver.store, now=5000)
    assert taken.row.wake_at is None


def test_the_longest_due_are_claimed_first(driver):
    driver.send(driver.birth("slept", created_at=1, state=ExecutionState.SCHEDULED, wake_at=1500))
    driver.send(driver.birth("old", worker=None, created_at=1400))
    driver.send(driver.birth("new", worker=None, created_at=1600))
    driver.send(driver.birth("asleep", state=ExecutionState.SCHEDULED, wake_at=9000))

    assert ready(driver.store, limit=1) == ["old"]
    assert ready(driver.store) == ["slept", "new"]
    assert ready(driver.store) == []


def test_only_executions_of_the_named_workflows_are_claimed(driver):
    for workflow in ("greet", "other", "third"):
        driver.send(driver.birth(workflow, worker=None, workflow=workflow))

    assert ready(driver.store, workflows=[]) == []
    assert ready(driver.store, workflows=["third", "greet", "unknown"]) == ["greet", "third"]


def test_claims_of_many_threads_and_processes_never_overlap(driver, open_store):
    driver.store.append([driver.birth(f"x{n}", worker=None) for n in range(60)])
    stores = [driver.store, driver.store, open_store()]
    taken: list[list[str]] = [[], [], []]
    start = threading.Barrier(3)

    def work(n: int) -> None:
        start.wait()
        while claimed := ready(stores[n], worker=f"w{n}", limit=3):
            taken[n] += claimed

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(id_ for ids in taken for id_ in ids) == sorted(f"x{n}" for n in range(60))


def test_a_blocked_execution_waits_for_another_version(driver):
    driver.send(driver.birth("x"))
    driver.send(driver.step("x", 1, **BLOCKED))

    assert claim(driver.store, version="1") is None
    assert ready(driver.store) == []
    row = claim(driver.store, version="2").row
    assert (row.blocked_reason, row.blocked_version) == (None, None)


def test_a_blocked_execution_is_ready_for_another_version(driver):
    driver.send(driver.birth("x"))
    driver.send(driver.step("x", 1, **BLOCKED))

    assert ready(driver.store, version="1") == []
    assert ready(driver.store, version="2") == ["x"]


def test_a_block_without_a_version_holds_for_every_version(driver):
    driver.send(driver.birth("x"))
    driver.send(driver.step("x", 1, state=ExecutionState.SCHEDULED, blocked_reason="poison"))

    assert claim(driver.store, version="2") is None
    assert driver.store.unblock("x")
    assert claim(driver.store, version="2") is not None


def test_a_person_can_unblock(driver):
    driver.send(driver.birth("x"))
    driver.send(driver.step("x", 1, **BLOCKED))

    assert driver.store.unblock("x")
    assert not driver.store.unblock("x")
    assert not driver.store.unblock("unknown")
    assert ready(driver.store) == ["x"]


def test_release_gives_back_only_what_is_still_owned(driver):
    driver.send(driver.birth("x"))

    assert not driver.store.release("x", fence=2)
    assert driver.store.release("x", fence=1)
    assert not driver.store.release("x", fence=1)
    row = driver.store.get("x")
    assert (row.state, row.worker, row.fence, row.wake_at) == (ExecutionState.SCHEDULED, None, 1, None)
    assert ready(driver.store, now=0) == ["x"]


def test_a_heartbeat_keeps_a_worker_alive_past_its_first_lease(driver, open_store):
    driver.store.register_worker("bob", lease_expires_at=2000)
    driver.send(driver.birth("x", worker="bob"))
    assert driver.store.heartbeat("bob", lease_expires_at=4000)

    other = open_store()
    assert other.rescue(now=3999) == 0
    assert other.rescue(now=4000) == 1  # The control: without another heartbeat it is dead.
    assert driver.store.get("x").state is ExecutionState.SCHEDULED


def test_a_rescued_worker_learns_of_it_and_can_write_nothing(driver, open_store):
    driver.store.register_worker("bob", lease_expires_at=2000)
    driver.send(driver.birth("x", worker="bob"))
    assert open_store().rescue(now=2000) == 1

    assert not driver.store.heartbeat("bob", lease_expires_at=9000)
    assert driver.send(driver.step("x", 1)) is AppendResult.STALE
    assert claim(open_store(), worker="eve").row.fence == 2


def test_a_worker_never_rescues_itself(driver):
    driver.send(driver.birth("x"))

    assert driver.store.rescue(now=10**15) == 0
    assert driver.store.get("x").worker == "ada"


def test_what_an_unknown_worker_owns_is_rescued(driver, open_store):
    """A worker that was rescued can still claim before its next heartbeat tells it."""
    driver.send(driver.birth("x", worker="ghost"))
    driver.send(driver.birth("y", worker="ada"))

    assert open_store().rescue(now=2000) == 1
    assert driver.store.get("x").state is ExecutionState.SCHEDULED
    assert driver.store.get("y").state is ExecutionState.RUNNING


def test_a_worker_that_registers_again_after_a_rescue_owns_nothing(driver, open_store):
    driver.store.register_worker("bob", lease_expires_at=2000)
    other = open_store()
    other.rescue(now=2000)
    driver.send(driver.birth("x", worker="bob"))

    driver.store.register_worker("bob", lease_expires_at=9000)
    assert driver.store.get("x").state is ExecutionState.SCHEDULED
    driver.send(driver.birth("y", worker="bob"))
    driver.store.register_worker("bob", lease_expires_at=9500)  # Known: only the lease moves.
    assert other.rescue(now=9499) == 0
    assert driver.store.get("y").state is ExecutionState.RUNNING


def test_two_living_workers_cannot_share_an_id(driver, open_store):
    with pytest.raises(StoreError, match="choose another id"):
        open_store().register_worker("ada", lease_expires_at=9000)


def test_a_worker_that_stops_gives_everything_back(driver):
    driver.send(driver.birth("x"))
    driver.send(driver.birth("y", worker="bob"))
    driver.store.remove_worker("ada")

    assert driver.store.get("x").state is ExecutionState.SCHEDULED
    assert driver.store.get("y").state is ExecutionState.RUNNING
    assert not driver.store.heartbeat("ada", lease_expires_at=9000)
    driver.store.remove_worker("unknown")


def test_closing_gives_back_what_its_workers_own(driver, open_store):
    driver.send(driver.birth("x", opened=[Pause("1", "approve")]))
    other = open_store()
    driver.store.close()
    driver.store.close()

    assert other.get("x").state is ExecutionState.SCHEDULED
    assert other.rescue(now=2000) == 0


def test_an_id_that_is_no_file_name_is_refused(driver):
    for worker in ("../evil", "a/b", "", "a\0", "x" * 201, "é"):
        with pytest.raises(StoreError, match="worker id"):
            driver.store.register_worker(worker, lease_expires_at=9000)
