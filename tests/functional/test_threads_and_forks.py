"""Threads, loops and forks: what ends or fails in one of them leaves the others at work."""

import asyncio
import contextlib
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import flux.app
from flux import ExecutionContext, task, workflow
from flux.app import App
from flux.clock import SystemClock
from flux.engine import launcher
from flux.engine.committer import ThreadCommitter
from flux.engine.lease import Lease
from flux.errors import StoreError
from flux.settings import Settings
from functional.kit import run_script


@task
async def echo(value: Any) -> Any:
    return value


@workflow
async def echoing(ctx: ExecutionContext[Any]) -> Any:
    return await echo(ctx.input)


# -- workflows that are run and started by tasks


@pytest.mark.parametrize("where", ["an async task", "a sync task"])
@pytest.mark.parametrize("how", ["start", "run"])
def test_a_task_may_run_a_workflow_however_its_own_was_run(home: Path, where: str, how: str) -> None:
    out = run_script(
        home,
        f"""
        import faulthandler

        @task
        async def echo(value):
            return value

        @workflow
        async def child(ctx: ExecutionContext[int]):
            return await echo(ctx.input)

        @task
        {"async def" if where == "an async task" else "def"} outer():
            return child.run(5).output

        @workflow
        async def parent(ctx: ExecutionContext[int]):
            return await outer()

        faulthandler.dump_traceback_later(8, exit=True)
        if "{how}" == "start":
            print(parent.start(1).wait(7).output)
        else:
            print(parent.run(1).output)
        """,
    )

    assert out == "5\n"


def test_an_execution_that_a_task_of_a_run_started_goes_on_after_that_run() -> None:
    gate = threading.Event()

    @task
    def wait() -> str:
        gate.wait(5)
        return "done"

    @workflow
    async def child(ctx: ExecutionContext[int]) -> Any:
        return await wait()

    handles: list[Any] = []

    @task
    async def start() -> None:
        handles.append(child.start(1))

    @workflow
    async def parent(ctx: ExecutionContext[int]) -> None:
        await start()

    parent.run(1)
    gate.set()

    assert handles[0].wait(5).output == "done"


# -- forks


def test_a_forked_child_runs_workflows_of_its_own_while_the_parent_goes_on(home: Path) -> None:
    out = run_script(
        home,
        """
        import warnings
        warnings.simplefilter("ignore")  # Newer Pythons warn of any fork beside threads.
        signal.alarm(12)

        @task
        def in_a_thread(i):
            return i

        @task
        async def on_the_loop(i):
            await asyncio.sleep(0)
            return i

        @workflow
        async def job(ctx: ExecutionContext[int]):
            return [await in_a_thread(i) + await on_the_loop(i) for i in range(ctx.input)]

        @task
        async def where():
            return id(asyncio.get_running_loop())

        @workflow
        async def looking(ctx: ExecutionContext[int]):
            return await where()

        expected = [2 * i for i in range(60)]
        parents_loop = looking.run(1).output
        parent = os.getpid()

        def work():
            assert (looking.run(1).output == parents_loop) == (os.getpid() == parent), "a loop is shared"
            assert job.run(60).output == expected
            assert asyncio.run(job.run_async(60)).output == expected
            assert job.start(60).wait(10).output == expected
            assert asyncio.run(in_a_thread(3)) == 3, "outside any workflow"

        work()
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                try:
                    work()
                except BaseException as error:
                    print(repr(error), flush=True)
                    os._exit(1)
                os._exit(0)
            children.append(child)
        work()
        codes = [os.waitpid(child, 0)[1] for child in children]
        work()
        print(codes)
        """,
    )

    assert out == "[0, 0, 0]\n"


def test_a_child_that_is_forked_in_a_task_runs_workflows_of_its_own(home: Path) -> None:
    out = run_script(
        home,
        """
        import warnings
        warnings.simplefilter("ignore")
        signal.alarm(12)

        @workflow
        async def inner(ctx: ExecutionContext[int]):
            return await twice(ctx.input)

        @task
        async def twice(x):
            return 2 * x

        def fork():
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                try:
                    code = 42 if inner.run(21).output == 42 else 1
                except BaseException as error:
                    print(repr(error), flush=True)
                    code = 2
                os._exit(code)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        @task
        def in_a_thread():
            return fork()

        @task
        async def on_the_loop():
            return fork()

        @workflow
        async def outer(ctx: ExecutionContext[int]):
            return [await in_a_thread(), await on_the_loop()]

        print(outer.run(1).output)
        """,
    )

    assert out == "[42, 42]\n"


# -- the writer


class BrokenStore:
    """Appends raise what they are told to, then succeed."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    def append(self, appends: Any) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return ["stored"] * len(appends)

    def reopen(self) -> None:
        pass


class Answer:
    """What a committer answered."""

    def __init__(self) -> None:
        self._has_come = threading.Event()
        self._results: Any = None

    def __call__(self, results: Any) -> None:
        self._results = results
        self._has_come.set()

    def wait(self) -> Any:
        assert self._has_come.wait(5), "nobody answered"
        return self._results


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [OSError(37, "No locks available"), KeyError("a bug"), MemoryError()], ids=repr)
def test_whatever_a_commit_raises_is_an_error_for_those_who_wait_and_the_next_one_is_written(error: Exception) -> None:
    committer = ThreadCommitter(BrokenStore(error), patience_seconds=-1)  # type: ignore[arg-type]
    first, second = Answer(), Answer()
    with contextlib.closing(committer):
        committer.submit([object()], first)  # type: ignore[list-item]
        failure = first.wait()
        committer.submit([object()], second)  # type: ignore[list-item]
        results = second.wait()

    assert isinstance(failure, StoreError)
    assert repr(error) in str(failure)
    assert results == ["stored"]


def test_an_error_of_the_file_lock_is_waited_for_like_one_of_the_disk() -> None:
    committer = ThreadCommitter(BrokenStore(OSError(37, "No locks available")))  # type: ignore[arg-type]
    answer = Answer()
    with contextlib.closing(committer):
        committer.submit([object()], answer)  # type: ignore[list-item]
        assert answer.wait() == ["stored"]


def test_what_is_submitted_after_the_writer_was_closed_is_answered() -> None:
    committer = ThreadCommitter(BrokenStore())  # type: ignore[arg-type]
    before, after = Answer(), Answer()
    committer.submit([object()], before)  # type: ignore[list-item]
    committer.close()
    committer.submit([object()], after)  # type: ignore[list-item]

    assert before.wait() == ["stored"]
    assert isinstance(after.wait(), StoreError)
    assert "closed" in str(after.wait())


def test_a_run_in_a_process_whose_file_lock_fails_ends_with_an_error_and_the_next_one_works(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(App(Settings(database=home / "own.db", store_patience_seconds=0))) as app:
        app.engine._committer._patience = -1  # type: ignore[attr-defined]  # Not even the rest of this instant.
        monkeypatch.setattr(launcher, "_find", lambda: app)
        assert echoing.run(0).output == 0
        writing = app.store.append
        failures = [OSError(37, "No locks available")]

        def append(appends: Any) -> Any:
            if failures:
                raise failures.pop()
            return writing(appends)

        app.store.append = append  # type: ignore[method-assign]

        async def run(value: int) -> Any:
            return (await asyncio.wait_for(echoing.run_async(value), 5)).output

        with pytest.raises(StoreError, match="No locks available"):
            asyncio.run(run(1))
        assert asyncio.run(run(2)) == 2


# -- the heartbeat


def test_the_heartbeat_goes_on_whatever_it_meets() -> None:
    beats: list[str] = []
    has_gone_on = threading.Event()
    results: list[Any] = [RuntimeError("Event loop is closed"), OSError(37, "No locks"), StoreError("no"), KeyError(1)]

    class Store:
        def register_worker(self, worker: str, *, lease_expires_at: int) -> None:
            pass

        def heartbeat(self, worker: str, *, lease_expires_at: int) -> bool:
            beats.append(worker)
            if results:
                raise results.pop(0)
            has_gone_on.set()
            return True

    lease = Lease(Store(), SystemClock(), lambda: None, seconds=0.006)  # type: ignore[arg-type]
    with contextlib.closing(lease):
        worker = lease.acquire()
        assert has_gone_on.wait(5)

    assert set(beats) == {worker}
    assert len(beats) >= 5


def test_a_heartbeat_that_fails_to_tell_of_the_loss_goes_on_for_the_next_worker() -> None:
    alive: set[str] = set()
    has_gone_on = threading.Event()

    class Store:
        def register_worker(self, worker: str, *, lease_expires_at: int) -> None:
            pass

        def heartbeat(self, worker: str, *, lease_expires_at: int) -> bool:
            if worker in alive:
                has_gone_on.set()
            return worker in alive

    has_lost = threading.Event()

    def lost() -> None:
        has_lost.set()
        raise RuntimeError("Event loop is closed")

    with contextlib.closing(Lease(Store(), SystemClock(), lost, seconds=0.006)) as lease:  # type: ignore[arg-type]
        first = lease.acquire()
        assert has_lost.wait(5)
        while (second := lease.acquire()) == first:
            pass
        alive.add(second)
        assert has_gone_on.wait(5)


def test_a_process_that_was_taken_for_dead_goes_on_though_one_of_its_loops_is_closed(home: Path) -> None:
    ran: list[str] = []

    @task
    async def long(name: str) -> str:
        ran.append(name)
        if name == "left behind" or ran.count(name) == 1:
            await asyncio.sleep(60)
        return name

    @workflow
    async def job(ctx: ExecutionContext[str]) -> Any:
        return await long(ctx.input)

    app = flux.app.current()
    closed = asyncio.new_event_loop()
    left = closed.create_task(job.run_async("left behind"))
    while not ran:
        closed.run_until_complete(asyncio.sleep(0.001))
    closed.close()

    async def alive() -> Any:
        running = asyncio.ensure_future(job.run_async("alive", execution_id="e"))
        while "alive" not in ran:
            await asyncio.sleep(0.001)
        app.store.remove_worker(app._lease.worker)  # As who rescues us does.
        await asyncio.to_thread(app._lease.beat)
        return await asyncio.wait_for(running, 10)

    ctx = asyncio.run(alive())
    left._log_destroy_pending = False  # type: ignore[attr-defined]
    left.get_coro().close()  # type: ignore[union-attr]
    gc.collect()

    assert ctx.output == "alive"
    assert ran == ["left behind", "alive", "alive"]


# -- loops


def test_closed_loops_are_forgotten() -> None:
    for n in range(100):
        asyncio.run(echoing.run_async(n))

    assert len(flux.app.current().engine._hosts) <= 2


def test_loops_that_are_open_are_not_forgotten_when_others_close() -> None:
    gate = threading.Barrier(3, timeout=10)

    async def several() -> Any:
        outputs = [(await echoing.run_async(1)).output]
        await asyncio.to_thread(gate.wait)
        await asyncio.to_thread(gate.wait)
        outputs.append((await echoing.run_async(2)).output)
        return outputs

    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(asyncio.run, several()) for _ in range(2)]
        gate.wait()
        for n in range(5):
            asyncio.run(echoing.run_async(n))
        gate.wait()
        outputs = [run.result(10) for run in runs]

    assert outputs == [[1, 2], [1, 2]]
