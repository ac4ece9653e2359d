"""What ends every process that runs it is put aside, and what only ran beside it is not."""

from dataclasses import replace

from conformance.conftest import Driver
from flux.domain.execution import POISON, POISON_TAKEOVERS, SUSPECT_TAKEOVERS, ExecutionState
from flux.ports import Parent

FAR = 10**15
_numbers = iter(range(10**6))


def claim_with_a_new_worker(open_store, *ids: str, version: str = "1"):
    """Another process: its worker lives as long as the lease says, and its claims are answered."""
    store, worker = open_store(), f"w{next(_numbers)}"
    store.register_worker(worker, lease_expires_at=1)
    return store, [store.claim(id_, worker=worker, version=version, now=2000) for id_ in ids]


def die(driver: Driver) -> None:
    """Everybody but ada, whose lease is over, is taken for dead."""
    driver.store.rescue(now=FAR)


def take_over(driver, open_store, *ids: str, times: int, version: str = "1") -> list[int]:
    """Returns how often each was claimed."""
    claimed = [0] * len(ids)
    for _ in range(times):
        _, claims = claim_with_a_new_worker(open_store, *ids, version=version)
        claimed = [count + (claim is not None) for count, claim in zip(claimed, claims, strict=True)]
        die(driver)
    return claimed


def test_an_execution_that_is_taken_over_again_and_again_without_getting_further_is_put_aside(driver, open_store):
    driver.send(driver.birth("x", worker=None))

    assert take_over(driver, open_store, "x", times=POISON_TAKEOVERS - 1) == [POISON_TAKEOVERS - 1]
    assert driver.store.get("x").blocked_reason is None
    assert take_over(driver, open_store, "x", times=3) == [1]

    row = driver.store.get("x")
    assert (row.state, row.worker, row.blocked_reason) == (ExecutionState.SCHEDULED, None, POISON)
    assert (row.fence, row.blocked_version) == (POISON_TAKEOVERS, "1")


def test_a_takeover_of_one_that_got_further_counts_anew(driver, open_store):
    driver.send(driver.birth("x", worker=None))
    for seq in range(1, 2 * POISON_TAKEOVERS):
        take_over(driver, open_store, "x", times=POISON_TAKEOVERS - 2)
        store, (claim,) = claim_with_a_new_worker(open_store, "x")
        Driver(store).send(driver.step("x", seq, fence=claim.row.fence))
        die(driver)

    assert driver.store.get("x").blocked_reason is None


def test_what_a_process_gives_back_is_no_takeover(driver, open_store):
    driver.send(driver.birth("x", worker=None))
    for _ in range(2 * POISON_TAKEOVERS):
        store, (claim,) = claim_with_a_new_worker(open_store, "x")
        store.remove_worker(claim.row.worker)

    assert driver.store.get("x").blocked_reason is None


def test_poison_is_tried_anew_when_a_person_asks(driver, open_store):
    driver.send(driver.birth("x", worker=None))
    take_over(driver, open_store, "x", times=POISON_TAKEOVERS)

    assert driver.store.unblock("x")
    assert take_over(driver, open_store, "x", times=POISON_TAKEOVERS + 1) == [POISON_TAKEOVERS]


def test_poison_is_free_for_another_version_which_begins_with_a_clean_slate(driver, open_store):
    driver.send(driver.birth("x", worker=None))
    take_over(driver, open_store, "x", times=POISON_TAKEOVERS)

    assert take_over(driver, open_store, "x", times=POISON_TAKEOVERS + 1, version="2") == [POISON_TAKEOVERS]
    assert driver.store.get("x").blocked_version == "2"


def test_a_worker_runs_one_suspect_at_a_time_until_it_gets_further(driver, open_store):
    for id_ in ("x", "y", "z"):
        driver.send(driver.birth(id_, worker=None))
    take_over(driver, open_store, "x", "y", times=SUSPECT_TAKEOVERS)

    store, (x, y, z) = claim_with_a_new_worker(open_store, "x", "y", "z")
    assert (y, z is not None) == (None, True)
    Driver(store).send(driver.step("x", 1, fence=x.row.fence))
    assert store.claim("y", worker=x.row.worker, version="1", now=2000) is not None


def test_what_ran_beside_poison_is_not_put_aside(driver, open_store):
    for id_ in ("poison", "x", "y"):
        driver.send(driver.birth(id_, worker=None))
    for _ in range(4 * POISON_TAKEOVERS):  # Only the poison ends the process; what is alone with itself ends its work.
        store, claims = claim_with_a_new_worker(open_store, "poison", "x", "y")
        if claims[0] is None:
            for claim in filter(None, claims):
                driver.send(driver.step(claim.row.execution_id, claim.row.last_seq, fence=claim.row.fence))
        die(driver)

    assert driver.store.get("poison").blocked_reason == POISON
    assert driver.store.get("x").blocked_reason is None
    assert driver.store.get("y").blocked_reason is None


def test_a_child_that_ends_its_process_is_put_aside_and_its_parent_is_not(driver, open_store):
    driver.send(driver.birth("parent", worker=None))
    child = driver.birth("child", worker=None)
    child.create = replace(child.create, parent=Parent("parent", "1"))
    driver.send(child)

    assert take_over(driver, open_store, "parent", "child", times=POISON_TAKEOVERS) == [POISON_TAKEOVERS] * 2
    assert driver.store.get("child").blocked_reason == POISON
    assert driver.store.get("parent").blocked_reason is None
