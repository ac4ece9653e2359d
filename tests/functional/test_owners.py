"""Owners: an execution has one at a time, and one that fails or comes too late leaves it as it is."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import flux.app
from flux import ExecutionContext, ExecutionState, task, workflow
from flux.app import App
from flux.engine import launcher
from flux.errors import ExecutionConflictError, InvalidInputError, StoreError
from flux.settings import Settings
from functional.kit import recorded_ids, stored, whole


@workflow
async def echoing(ctx: ExecutionContext[Any]) -> Any:
    return ctx.input


class WrappedStore:
    """A store of which tests replace what they need."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def wrapped(monkeypatch: pytest.MonkeyPatch, store: WrappedStore, **settings: Any) -> App:
    """An app on such a store, used by the workflows of this test."""
    app = App(Settings(database=store._path, **settings), store=store)
    monkeypatch.setattr(launcher, "_find", lambda: app)
    return app


@pytest.fixture
def store(home: Any) -> Iterator[WrappedStore]:
    from flux.store.sqlite import SqliteStore

    store = WrappedStore(SqliteStore(home / ".flux/flux.db"))
    yield store
    store.close()


# -- the same id, taken twice


class OvertakenStore(WrappedStore):
    """The first to create an execution writes only when another one's effect has begun."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.first = threading.local()
        self.is_first_registered, self.has_effect_begun, self.has_first_asked = (threading.Event() for _ in range(3))

    def try_append(self, appends: Any) -> Any:
        if hasattr(self.first, "yes") and any(append.create for append in appends):
            self.is_first_registered.set()
            assert self.has_effect_begun.wait(5)
        return self._store.try_append(appends)

    def claim(self, execution_id: str, **options: Any) -> Any:
        claim = self._store.claim(execution_id, **options)
        if hasattr(self.first, "yes"):
            self.has_first_asked.set()
        return claim


def test_who_comes_second_with_a_new_id_does_not_take_it_from_the_thread_that_runs_it(
    store: WrappedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []
    overtaken = OvertakenStore(store)

    @task
    def effect() -> str:
        ran.append(1)
        overtaken.has_effect_begun.set()
        assert overtaken.has_first_asked.wait(5)
        return "result"

    @workflow
    async def shared(ctx: ExecutionContext[int]) -> Any:
        return await effect()

    def overtaken_run() -> Any:
        overtaken.first.yes = True
        return shared.run(1, execution_id="e")

    with contextlib.closing(wrapped(monkeypatch, overtaken)), ThreadPoolExecutor(2) as pool:
        first = pool.submit(overtaken_run)
        assert overtaken.is_first_registered.wait(5)
        second = pool.submit(shared.run, 1, execution_id="e")
        contexts = [first.result(10), second.result(10)]

    assert len(ran) == 1
    assert whole(contexts[0]) == whole(contexts[1])
    assert contexts[0].output == "result"


def test_two_threads_that_start_a_new_id_at_once_run_its_task_once_however_often_it_is_tried() -> None:
    ran: list[int] = []
    gate = threading.Barrier(2, timeout=10)

    @task
    async def effect(n: int) -> int:
        ran.append(n)
        await asyncio.sleep(0.01)
        return n

    @workflow
    async def shared(ctx: ExecutionContext[int]) -> Any:
        return await effect(ctx.input)

    def run_all(_: int) -> list[Any]:
        outputs = []
        for n in range(40):
            gate.wait()
            outputs.append(shared.run(n, execution_id=f"e{n}").output)
        return outputs

    flux.app.current()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(run_all, range(2)))

    assert results == [list(range(40))] * 2
    assert sorted(ran) == list(range(40))


class TakenStore(WrappedStore):
    """Somebody else takes the id, between the look at it and the first append."""

    def __init__(self, store: Any, take: Any) -> None:
        super().__init__(store)
        self._take: Any = take

    def append(self, appends: Any) -> Any:
        if self._take is not None and any(append.create for append in appends):
            take, self._take = self._take, None
            take()
        return self._store.append(appends)


def test_starting_an_id_that_was_taken_meanwhile_with_another_input_is_refused(
    store: WrappedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = TakenStore(store, lambda: echoing.start(1, execution_id="e").wait(5))
    with contextlib.closing(wrapped(monkeypatch, taken)):
        with pytest.raises(InvalidInputError, match="another input"):
            echoing.start(2, execution_id="e")

    assert stored("e", store._path).output == 1


def test_starting_an_id_that_another_workflow_took_meanwhile_is_refused(
    store: WrappedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    @workflow
    async def other(ctx: ExecutionContext[Any]) -> Any:
        return "other"

    taken = TakenStore(store, lambda: other.start(1, execution_id="e").wait(5))
    with contextlib.closing(wrapped(monkeypatch, taken)), pytest.raises(ExecutionConflictError, match="'other'"):
        echoing.start(1, execution_id="e")


def test_starting_an_id_that_was_taken_meanwhile_with_the_same_input_gives_a_handle_to_it(
    store: WrappedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[Any] = []
    taken = TakenStore(store, lambda: first.append(echoing.start(1, execution_id="e").wait(5)))

    with contextlib.closing(wrapped(monkeypatch, taken)):
        ctx = echoing.start(1, execution_id="e").wait(5)

    assert whole(ctx) == whole(first[0])
    assert recorded_ids() == ["e"]


# -- an owner whose disk fails


class FullStore(WrappedStore):
    """Nothing that holds a result can be written; perhaps nothing else either."""

    is_full = True
    can_release = True

    def append(self, appends: Any) -> Any:
        if self.is_full and any(event.type == "TASK_COMPLETED" for append in appends for event in append.events):
            raise StoreError("the disk is full")
        return self._store.append(appends)

    try_append = append

    def release(self, execution_id: str, *, fence: int) -> bool:
        if self.is_full and not self.can_release:
            raise StoreError("the disk is still full")
        released: bool = self._store.release(execution_id, fence=fence)
        return released


@task
async def effect() -> str:
    return "done"


@workflow
async def acting(ctx: ExecutionContext[int]) -> Any:
    return await effect()


def test_an_execution_whose_run_failed_by_the_disk_can_be_continued_by_anybody_at_once(
    store: WrappedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = FullStore(store)
    with contextlib.closing(wrapped(monkeypatch, full, store_patience_seconds=0)) as app:
        with pytest.raises(StoreError, match="the disk is full"):
            acting.run(1, execution_id="e")
        row = app.row("e")
        assert (row.state, row.worker) == (ExecutionState.SCHEDULED, None)
        full.is_full = False
        with contextlib.closing(App(Settings(database=store._path))) as another:
            output = another.run(acting.definition, 1, "e").output

    assert output == "done"


@pytest.mark.parametrize("how", ["run", "run_async", "start"])
def test_an_execution_that_could_not_even_be_given_back_is_continued_by_the_same_process(
    store: WrappedStore, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    full = FullStore(store)
    full.can_release = False

    def go() -> Any:
        match how:
            case "run":
                return acting.run(1, execution_id="e")
            case "run_async":
                return asyncio.run(asyncio.wait_for(acting.run_async(1, execution_id="e"), 5))
            case _:
                return acting.start(1, execution_id="e").wait(5)

    with contextlib.closing(wrapped(monkeypatch, full, store_patience_seconds=0)):
        with pytest.raises(StoreError, match="the disk is full"):
            go()
        full.is_full = False
        assert go().output == "done"


# -- an answer that is lost


class UnwillingStore(WrappedStore):
    """The first execution that is given back is not taken."""

    has_refused = False

    def release(self, execution_id: str, *, fence: int) -> bool:
        if not self.has_refused:
            self.has_refused = True
            raise StoreError("the database cannot be reached")
        return self._store.release(execution_id, fence=fence)


def test_an_execution_that_could_not_be_given_back_by_a_cancelled_run_is_given_back_by_the_next_heartbeat(
    store: WrappedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    @workflow
    async def sleeping(ctx: ExecutionContext[Any]) -> Any:
        await asyncio.sleep(1)

    async def interrupted() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sleeping.run_async(1, execution_id="e"), 0.1)

    with contextlib.closing(wrapped(monkeypatch, UnwillingStore(store))) as app:
        asyncio.run(interrupted())
        assert app.row("e").state is ExecutionState.RUNNING

        app._lease.beat()

        assert app.row("e").state is ExecutionState.SCHEDULED


class ForgetfulStore(WrappedStore):
    """The first claim is done, and its answer is an error."""

    has_claimed = False

    def claim(self, execution_id: str, **options: Any) -> Any:
        claim = self._store.claim(execution_id, **options)
        if claim is not None and not self.has_claimed:
            self.has_claimed = True
            raise StoreError("the connection was lost")
        return claim


def test_an_execution_whose_claim_got_no_answer_is_given_back_by_the_next_heartbeat(
    store: WrappedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(wrapped(monkeypatch, ForgetfulStore(store))) as app:
        handle = echoing.start(1, execution_id="e")
        with pytest.raises(StoreError):
            handle.wait(10)
        assert app.row("e").state is ExecutionState.RUNNING

        app._lease.beat()

        assert app.row("e").state is ExecutionState.SCHEDULED
        assert echoing.run(execution_id="e").output == 1
