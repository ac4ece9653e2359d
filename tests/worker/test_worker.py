"""A worker claims what is due and what it has, runs it, and gives back what it does not end."""

import asyncio
import contextlib
import threading

import pytest

from flux import ExecutionContext, pause, task, workflow
from flux.domain.execution import ExecutionState
from flux.errors import StoreError
from flux.output_storage import OutputStorage, OutputStorageReference
from flux.tasks import sleep, wait_for_signal
from worker.kit import Team, recorded, settled, start, state, until

COMPLETED, PAUSED, CANCELLED = ExecutionState.COMPLETED, ExecutionState.PAUSED, ExecutionState.CANCELLED


class Gate:
    """Counts who is in a task, and lets them out together."""

    def __init__(self) -> None:
        self.inside, self.most, self.entered = 0, 0, []
        self.open = asyncio.Event()

    async def pass_through(self, who: object) -> None:
        self.inside += 1
        self.entered.append(who)
        self.most = max(self.most, self.inside)
        try:
            await self.open.wait()
        finally:
            self.inside -= 1


gate = Gate()
occupied = threading.Event()


@pytest.fixture(autouse=True)
def _new_gate():
    global gate  # noqa: PLW0603 - tasks find it by its name.
    gate = Gate()


@task
async def through(who):
    await gate.pass_through(who)
    return who


@workflow
async def gated(ctx: ExecutionContext[int]) -> int:
    return await through(ctx.input)


@workflow
async def plain(ctx: ExecutionContext[int]) -> int:
    return await through(ctx.input)


@workflow
async def asking(ctx):
    return await pause("mood")


@workflow
async def sleeping(ctx: ExecutionContext[float]):
    await sleep(ctx.input)
    return "awake"


@workflow
async def signalled(ctx):
    try:
        return await wait_for_signal("go")
    except asyncio.CancelledError:
        await through("clean-up")
        raise


@workflow
async def parent(ctx):
    return [await child(1), await child(2)]


@workflow
async def child(ctx):
    await through(ctx.input)
    return await pause(f"child {ctx.input}") if ctx.input == 2 else ctx.input


# -- claiming


async def test_a_worker_runs_no_more_executions_at_once_than_it_was_told(site):
    app = site.app()
    ids = [start(app, gated, n) for n in range(7)]
    async with Team() as team:
        worker = team.add(app, gated, concurrency=3)
        await until(lambda: gate.inside == 3)
        assert worker.free == 0
        gate.open.set()
        assert await settled(app, *ids) == [COMPLETED] * 7

    assert gate.most == 3


async def test_two_workers_share_and_nothing_runs_twice(site):
    ids = [start(site.app(), gated, n) for n in range(8)]
    async with Team() as team:
        first, second = (team.add(site.app(), gated, concurrency=4) for _ in range(2))
        await until(lambda: gate.inside == 8)
        assert len(first.running) == len(second.running) == 4
        gate.open.set()
        await settled(site.app(), *ids)

    assert sorted(gate.entered) == list(range(8))


async def test_a_worker_claims_only_workflows_that_it_has(site):
    app = site.app()
    mine, foreign = start(app, gated, 1), start(app, plain, 2)
    gate.open.set()
    async with Team() as team:
        team.add(app, gated)
        await settled(app, mine)
        assert state(app, foreign) == "SCHEDULED"
        team.add(site.app(), plain)  # The control: one that has it.
        await settled(app, foreign)


async def test_an_execution_that_is_blocked_for_this_version_is_left_alone(site):
    app = site.app()
    gate.open.set()
    blocked, free = start(app, gated, 1), start(app, gated, 2)
    _block(app, blocked, version=gated.definition.version)
    async with Team() as team:
        team.add(app, gated)
        await settled(app, free)
        assert state(app, blocked) == "SCHEDULED"
        app.store.unblock(blocked)  # The control: as a retry does it.
        assert await settled(app, blocked) == [COMPLETED]


async def test_an_execution_that_was_blocked_for_another_version_is_claimed(site):
    app = site.app()
    gate.open.set()
    blocked = start(app, gated, 1)
    _block(app, blocked, version="older")
    async with Team() as team:
        team.add(app, gated)
        await until(lambda: app.store.get(blocked).state is COMPLETED)


async def test_a_blocked_execution_whose_timer_is_due_does_not_keep_a_worker_busy(site):
    app = site.app()
    blocked = start(app, sleeping, 60.0)
    async with Team() as team:
        team.add(app, sleeping)
        await until(lambda: len(app.store.events(blocked)) > 1)
    _block(app, blocked, version=sleeping.definition.version, wake_at=1)
    idle = app.catalogue

    assert idle.next_wake({"sleeping": sleeping.definition.version}) is None
    assert idle.next_wake({"sleeping": "newer"}) == 1


def _block(app, execution_id, *, version, wake_at=None):
    with app.store._database.write() as cursor:
        cursor.execute(
            "UPDATE executions SET blocked_reason = 'it differs', blocked_version = ?, wake_at = ? "
            "WHERE execution_id = ?",
            (version, wake_at, execution_id),
        )


async def test_a_worker_that_runs_once_ends_when_nothing_is_due(site):
    app = site.app()
    gate.open.set()
    ids = [start(app, gated, n) for n in range(3)] + [start(app, asking)]
    later = start(app, sleeping, 3600.0)

    await app.worker([each.definition for each in (gated, asking, sleeping)], concurrency=2).run(once=True)

    assert [state(app, each) for each in ids] == ["COMPLETED"] * 3 + ["PAUSED"]
    assert state(app, later) == "SCHEDULED"


# -- going on


async def test_a_timer_wakes_an_execution_that_another_process_has_put_aside(site):
    other, app = site.app(unload_after_seconds=0.0), site.app()
    id_ = start(app, sleeping, 0.3)
    await other.worker([sleeping.definition], grace_seconds=0).run(once=True)
    row = app.store.get(id_)
    assert row.state is ExecutionState.SCHEDULED
    assert row.wake_at is not None
    async with Team() as team:
        team.add(app, sleeping)
        assert await settled(app, id_) == [COMPLETED]

    assert app.clock.now() - row.wake_at < 1_000_000


async def test_a_paused_execution_goes_on_whoever_answers_it(site):
    app, other = site.app(), site.app()
    id_ = start(app, asking)
    async with Team() as team:
        worker = team.add(app, asking)
        assert await settled(app, id_) == [PAUSED]
        await until(lambda: not worker.running)
        other.send_resume(id_, "fine")
        await until(lambda: state(app, id_) == "COMPLETED")

    assert app.engine.context(app.row(id_)).output == "fine"


async def test_signals_and_cancels_from_other_processes_arrive(site):
    app, other = site.app(), site.app()
    first, second = start(app, signalled), start(app, signalled)
    gate.open.set()
    async with Team() as team:
        team.add(app, signalled)
        await settled(app, first, second)
        other.send_signal(first, "go", 7)
        other.send_cancel(second)
        await until(lambda: (state(app, first), state(app, second)) == ("COMPLETED", "CANCELLED"))

    assert gate.entered == ["clean-up"]
    assert app.engine.context(app.row(first)).output == 7


async def test_a_running_execution_is_cancelled_within_a_moment(site):
    app, other = site.app(), site.app()
    id_ = start(app, gated, 1)
    async with Team() as team:
        team.add(app, gated)
        await until(lambda: gate.inside)
        other.send_cancel(id_)
        assert await settled(app, id_) == [CANCELLED]

    assert gate.inside == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_parent_and_its_children_need_no_more_room_than_one(site, workers):
    apps = [site.app() for _ in range(workers)]
    app = apps[0]
    ids = [start(app, parent) for _ in range(3)]
    gate.open.set()
    async with Team() as team:
        for each in apps:
            team.add(each, parent, child, concurrency=1)
        assert await settled(app, *ids) == [PAUSED] * 3
        paused = [row.execution_id for row in app.store.list(workflow="child", state=PAUSED)]
        for each in paused:
            app.send_resume(each, "yes")
        await until(lambda: [state(app, each) for each in ids] == ["COMPLETED"] * 3)

    assert [app.engine.context(app.row(each)).output for each in ids] == [[1, "yes"]] * 3
    assert sorted(gate.entered) == [1, 1, 1, 2, 2, 2]


@task
async def occupy():
    await asyncio.to_thread(occupied.wait, 10)


@workflow
async def occupying(ctx):
    await asyncio.gather(*(occupy() for _ in range(40)))  # More than there are threads.


async def test_tasks_that_hold_every_thread_of_the_loop_do_not_keep_a_worker_from_claiming(site):
    app = site.app()
    gate.open.set()
    occupied.clear()
    async with Team() as team:
        team.add(app, occupying, gated)
        first = start(app, occupying)
        await until(lambda: len(app.store.events(first)) > 40)
        assert await settled(app, start(app, gated, 1)) == [COMPLETED]
        assert state(app, first) == "RUNNING"
        occupied.set()
        assert await settled(app, first) == [COMPLETED]


# -- what goes wrong


async def test_a_claim_whose_answer_was_lost_is_given_back_and_runs_once(site, monkeypatch):
    app = site.app()
    id_ = start(app, gated, 1)
    gate.open.set()
    claim = app.store.claim_ready
    lost = []

    def lose(**wanted):
        claims = claim(**wanted)
        if claims and not lost:
            lost.extend(claims)
            raise StoreError("the answer was lost")
        return claims

    monkeypatch.setattr(app.store, "claim_ready", lose)
    async with Team() as team:
        team.add(app, gated)
        assert await settled(app, id_) == [COMPLETED]

    assert len(lost) == 1
    assert gate.entered == [1]
    assert app.row(id_).fence == 2


async def test_a_worker_goes_on_when_a_database_that_failed_works_again(site, monkeypatch):
    app = site.app()
    gate.open.set()
    failures = []

    def fail(*_args, **_named):
        failures.append(1)
        raise StoreError("the disk is gone")

    async with Team() as team:
        team.add(app, gated)
        await until(lambda: app.catalogue.workers())
        id_ = start(site.app(), gated, 1)
        with monkeypatch.context() as broken:
            broken.setattr(app.store, "claim_ready", fail)
            await until(lambda: failures)
            assert state(app, id_) == "SCHEDULED"
        assert await settled(app, id_) == [COMPLETED]


async def test_a_worker_that_was_taken_for_dead_registers_and_publishes_anew(site):
    app, other = site.app(), site.app()
    id_ = start(app, gated, 1)
    events = []
    async with Team() as team:
        worker = team.add(app, gated)
        await until(lambda: gate.inside)
        (before,) = app.catalogue.workers()
        with recorded(events):
            other.store.remove_worker(before.worker)  # What a rescue does.
            await asyncio.to_thread(app._lease.beat)
            await until(lambda: gate.entered == [1, 1])  # The attempt that was interrupted runs again.
        (after,) = app.catalogue.workers()
        assert after.worker != before.worker
        assert list(after.workflows) == ["gated"]
        gate.open.set()
        assert await settled(app, id_) == [COMPLETED]
        await until(lambda: not worker.running)

    assert "worker.superseded" in [name for name, _ in events]


async def test_what_was_claimed_and_has_no_runner_yet_is_not_taken_for_forgotten(site):
    app = site.app()
    id_ = start(app, gated, 1)
    gate.open.set()
    served = {"gated": gated.definition}
    claims = await asyncio.to_thread(app.engine.claim_ready, served, limit=1)
    other = asyncio.ensure_future(app.engine.run(gated.definition, id_))  # As a parent runs its child.
    await asyncio.sleep(0.05)
    assert app.row(id_).fence == 1
    await app.engine.take_over(claims, served)[id_]

    assert (await other).output == 1
    assert gate.entered == [1]


# -- stopping


async def test_a_worker_that_stops_lets_tasks_end_and_claims_nothing_more(site):
    app = site.app()
    running = start(app, gated, 1)
    async with Team() as team:
        worker = team.add(app, gated, grace_seconds=10)
        await until(lambda: gate.inside)
        worker.stop()
        later = start(app, gated, 2)
        await asyncio.sleep(0.2)  # A worker that still looks would have found it.
        gate.open.set()
        await team.ended(worker)

    assert gate.entered == [1]
    assert state(app, later) == "SCHEDULED"
    assert state(app, running) in {"COMPLETED", "SCHEDULED"}
    assert "TASK_COMPLETED" in [event.type.value for event in app.store.events(running)]


@task.with_options(pure=True)
async def look(who):
    await gate.pass_through(who)


@workflow
async def twice(ctx):
    return [await through(1), await look(2)]


async def test_a_worker_that_stops_starts_no_further_task(site):
    app = site.app()
    id_ = start(app, twice)
    async with Team() as team:
        worker = team.add(app, twice, grace_seconds=10)
        await until(lambda: gate.inside)
        worker.stop()
        gate.open.set()
        await team.ended(worker)

    assert gate.entered == [1]
    row = app.row(id_)
    assert (row.state, row.worker) == (ExecutionState.SCHEDULED, None)


@task
async def outer():
    return [await through("first"), await through("second")]


@workflow
async def nested(ctx):
    return await outer()


async def test_a_task_may_end_with_the_calls_that_it_makes_when_a_worker_stops(site):
    app = site.app()
    id_ = start(app, nested)
    async with Team() as team:
        worker = team.add(app, nested, grace_seconds=10)
        await until(lambda: gate.inside)
        worker.stop()
        gate.open.set()
        await team.ended(worker)

    assert gate.entered == ["first", "second"]
    assert [event.name for event in app.store.events(id_) if event.type.value == "TASK_COMPLETED"][-1] == "outer"


async def test_what_a_stopped_worker_gives_back_is_taken_over_at_once(site):
    app, other = site.app(), site.app()
    ids = [start(app, gated, n) for n in range(3)]
    async with Team() as team:
        worker = team.add(app, gated, grace_seconds=0)
        await until(lambda: gate.inside == 3)
        team.add(other, gated)
        worker.stop()
        began = asyncio.get_running_loop().time()
        await team.ended(worker)
        await until(lambda: len(gate.entered) == 6)
        took = asyncio.get_running_loop().time() - began
        gate.open.set()
        assert await settled(app, *ids) == [COMPLETED] * 3

    assert took < 1


async def test_what_was_claimed_a_moment_before_a_stop_is_given_back(site):
    app = site.app()
    id_ = start(app, gated, 1)
    worker = app.worker([gated.definition], grace_seconds=0)
    claim = app.store.claim_ready

    def stopping(**wanted):
        claims = claim(**wanted)
        worker.stop()
        return claims

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.store, "claim_ready", stopping)
        await worker.run()

    row = app.row(id_)
    assert (row.state, row.worker, row.fence) == (ExecutionState.SCHEDULED, None, 1)
    assert gate.entered == []


async def test_a_worker_that_is_stopped_as_soon_as_it_has_taken_over_gives_back(site):
    app = site.app()
    id_ = start(app, gated, 1)
    worker = app.worker([gated.definition], grace_seconds=0)
    take_over = app.engine.take_over

    def stopping(*given):
        worker.stop()
        return take_over(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.engine, "take_over", stopping)
        await worker.run()

    row = app.row(id_)
    assert (row.state, row.worker) == (ExecutionState.SCHEDULED, None)


async def test_a_worker_that_is_cancelled_gives_back_what_it_has(site):
    app = site.app()
    id_ = start(app, gated, 1)
    running = asyncio.ensure_future(app.worker([gated.definition], grace_seconds=0).run())
    await until(lambda: gate.inside)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running

    assert state(app, id_) == "SCHEDULED"


class Unreadable(OutputStorage):
    """A storage that takes values, and cannot be reached when they are asked for."""

    asked = 0

    def store(self, reference_id, value):
        return OutputStorageReference("unreadable", reference_id, {})

    def retrieve(self, reference):
        Unreadable.asked += 1
        raise ConnectionError("the storage is away")

    def delete(self, reference):
        raise NotImplementedError


@task.with_options(output_storage=Unreadable())
async def put_away() -> str:
    return "value"


@workflow
async def hopeless(ctx: ExecutionContext[None]) -> str:
    return await put_away()


async def test_what_fails_is_not_tried_again_at_once_and_others_are_served_meanwhile(site):
    app = site.app()
    async with Team() as team:
        team.add(app, hopeless, asking)
        waiting = start(app, hopeless)
        await until(lambda: Unreadable.asked)
        others = [start(app, asking) for _ in range(5)]
        assert await settled(app, *others) == [PAUSED] * 5
        assert Unreadable.asked == 1
        assert state(app, waiting) == "RUNNING"
    assert state(app, waiting) == "SCHEDULED"  # It is given back without delay when its worker stops.
