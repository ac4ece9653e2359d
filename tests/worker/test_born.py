"""What is started where a worker has room is run from its birth on: stored, and claimed, in its first commit."""

import asyncio
import threading

import pytest

from flux import ExecutionContext, task, workflow
from flux.domain.execution import ExecutionState
from flux.engine.runner import Runner
from flux.errors import StoreError
from flux.server.control import Start
from worker.kit import Team, settled, until

COMPLETED = ExecutionState.COMPLETED
entered: list[int] = []
gate = threading.Event()


@pytest.fixture(autouse=True)
def _closed_gate():
    entered.clear()
    gate.clear()


@task
async def through(number: int) -> int:
    entered.append(number)
    while not gate.is_set():  # noqa: ASYNC110 - it is opened from anywhere.
        await asyncio.sleep(0.001)
    return number


@workflow
async def born(ctx: ExecutionContext[int]) -> int:
    return await through(ctx.input)


def checked(app, number, execution_id=None) -> Start:
    return app.control([born.definition]).prepare("born", number, execution_id=execution_id)


async def up(team, app, **options):
    worker = team.add(app, born, **options)
    await until(lambda: app.catalogue.workers())
    await until(lambda: worker.free == options.get("concurrency", 100))
    return worker


async def test_it_is_stored_when_that_is_answered_and_its_history_begins_with_its_start(site):
    app, observer = site.app(), site.app()
    start = checked(app, 1)
    async with Team() as team:
        worker = await up(team, app)

        assert (await worker.run_new(*start[:3])).is_new
        row = observer.store.get(start.execution_id)
        assert (row.state, row.fence) == (ExecutionState.RUNNING, 1)
        types = [event.type.value for event in observer.store.events(start.execution_id)]
        assert types[:2] == ["WORKFLOW_STARTED", "TASK_STARTED"]
        gate.set()
        assert await settled(app, start.execution_id) == [COMPLETED]


@pytest.mark.parametrize("is_early", [False, True])
async def test_nothing_is_answered_before_it_is_stored(site, monkeypatch, is_early):
    """The control: an engine that tells it before its commit is found."""
    begin = Runner.begin

    def early(self, told=None):
        begin(self)
        if told is not None:
            told()

    if is_early:
        monkeypatch.setattr(Runner, "begin", early)
    app, other = site.app(), site.app()
    start = checked(app, 1)
    async with Team() as team:
        worker = await up(team, app)
        with other.store._database.exclusive():  # Nothing can be committed meanwhile.
            asking = asyncio.ensure_future(worker.run_new(*start[:3]))
            for _ in range(100):
                await asyncio.sleep(0)
            assert asking.done() is is_early
            assert app.store.get(start.execution_id) is None
        assert (await asking).is_new
        gate.set()
        assert await settled_when_stored(app, start.execution_id) == [COMPLETED]


async def test_a_worker_without_room_or_without_the_code_leaves_it_alone(site):
    app = site.app()
    first, second = checked(app, 1), checked(app, 2)
    async with Team() as team:
        worker = await up(team, app, concurrency=1)
        foreign = second.create.__class__(workflow="other", version="1", created_at=1)
        assert await worker.run_new("other", foreign, second.input_data) is None
        assert (await worker.run_new(*first[:3])).is_new
        assert await worker.run_new(*second[:3]) is None

        assert app.store.get("other") is None
        assert app.store.get(second.execution_id) is None
        gate.set()
        await until(lambda: not worker.running)
        assert (await worker.run_new(*second[:3])).is_new  # The control: there is room again.


async def test_an_id_that_is_taken_is_told_and_nothing_runs(site):
    app = site.app()
    gate.set()
    taken = checked(app, 1, "mine")
    async with Team() as team:
        worker = await up(team, app)
        assert (await worker.run_new(*taken[:3])).is_new
        await settled(app, "mine")
        await until(lambda: not worker.running)

        assert not (await worker.run_new(*checked(app, 2, "mine")[:3])).is_new
        await until(lambda: not worker.running)

    assert entered == [1]


async def test_of_many_starts_of_one_id_at_once_one_runs(site):
    app = site.app()
    async with Team() as team:
        worker = await up(team, app)
        answers = await asyncio.gather(*(worker.run_new(*checked(app, 7, "mine")[:3]) for _ in range(20)))
        assert [answer.is_new for answer in answers if answer is not None] == [True]
        gate.set()
        assert await settled(app, "mine") == [COMPLETED]

    assert entered == [7]


async def test_a_database_that_fails_is_an_error_and_the_place_is_free_again(site, monkeypatch):
    app = site.app(store_patience_seconds=0.01)
    start = checked(app, 1)

    def fail(_appends):
        raise StoreError("the disk is gone")

    async with Team() as team:
        worker = await up(team, app)
        with monkeypatch.context() as broken:
            broken.setattr(app.store, "append", fail)
            with pytest.raises(StoreError, match="the disk is gone"):
                await worker.run_new(*start[:3])
        await until(lambda: not worker.running)
        assert worker.free == 100
        gate.set()
        assert (await worker.run_new(*start[:3])).is_new
        assert await settled(app, start.execution_id) == [COMPLETED]


async def test_one_whose_worker_stops_is_run_by_another(site):
    app, other = site.app(), site.app()
    start = checked(app, 1)
    async with Team() as team:
        worker = await up(team, app)
        assert (await worker.run_new(*start[:3])).is_new
        worker.stop()
        await team.ended(worker)
        assert await worker.run_new(*checked(app, 2)[:3]) is None

        gate.set()
        team.add(other, born)
        assert await settled(other, start.execution_id) == [COMPLETED]


async def test_who_asked_may_go_and_it_runs_all_the_same(site):
    app = site.app()
    start = checked(app, 1)
    async with Team() as team:
        worker = await up(team, app)
        asking = asyncio.ensure_future(worker.run_new(*start[:3]))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        gate.set()
        assert await settled_when_stored(app, start.execution_id) == [COMPLETED]


async def settled_when_stored(app, execution_id):
    await until(lambda: app.store.get(execution_id))
    return await settled(app, execution_id)
