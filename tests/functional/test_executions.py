"""Executions: started or continued, paused and resumed, alone or beside others, and interrupted at any time."""

import asyncio
import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, pause, task, workflow
from flux.app import App
from flux.engine import launcher
from flux.engine.loop import BUSY_WAIT_HANDLES
from flux.errors import (
    BodyError,
    ExecutionConflictError,
    ExecutionContextNotFoundError,
    ExecutionTimeoutError,
    InvalidInputError,
    StoreError,
)
from flux.settings import Settings
from flux.tasks import now, parallel, sleep
from functional.kit import (
    Kit,
    failure,
    plain,
    recorded_ids,
    run_script,
    script,
    shape,
    stored,
    times,
    types,
    whole,
)


@task
async def echo(value: Any) -> Any:
    return value


@workflow
async def doubling(ctx: ExecutionContext[int]) -> int:
    return await echo(ctx.input) * 2


@workflow
async def asking(ctx: ExecutionContext[Any]) -> Any:
    return [ctx.input, await pause("answer")]


# -- start or continue


def test_an_execution_gets_an_id_of_32_hex_digits_and_later_ones_sort_after_earlier_ones() -> None:
    ids = [doubling.run(1).execution_id for _ in range(3)]

    assert all(len(one) == 32 and int(one, 16) for one in ids)
    assert len(set(ids)) == 3


def test_an_unknown_id_with_an_input_is_started_and_a_finished_one_is_returned_unchanged() -> None:
    first = doubling.run(3, execution_id="order-1")
    again = doubling.run(3, execution_id="order-1")
    without_input = doubling.run(execution_id="order-1")

    assert first.output == 6
    assert whole(first) == whole(again) == whole(without_input)


def test_a_failed_execution_is_returned_unchanged() -> None:
    calls: list[int] = []

    @workflow
    async def failing(ctx: ExecutionContext[int]) -> None:
        calls.append(1)
        raise ValueError("no")

    first, again = failing.run(1, execution_id="e"), failing.run(1, execution_id="e")

    assert whole(first) == whole(again)
    assert len(calls) == 1


def test_another_input_than_the_recorded_one_is_refused() -> None:
    doubling.run(3, execution_id="order-1")

    with pytest.raises(InvalidInputError, match="another input.*leave the input out.*or choose another id"):
        doubling.run(4, execution_id="order-1")
    with pytest.raises(InvalidInputError):
        doubling.start(4, execution_id="order-1")

    assert doubling.run("3", execution_id="order-1").output == 6  # type: ignore[arg-type]  # The same, once checked.
    assert recorded_ids() == ["order-1"]


def test_an_unknown_id_without_an_input_is_not_found_and_nothing_is_recorded() -> None:
    calls = [
        lambda: doubling.run(execution_id="nobody"),
        lambda: doubling.resume("nobody"),
        lambda: doubling.resume("nobody", 1),
        lambda: doubling.start(execution_id="nobody"),
        lambda: asyncio.run(doubling.run_async(execution_id="nobody")),
        lambda: asyncio.run(doubling.resume_async("nobody")),
    ]
    for call in calls:
        with pytest.raises(ExecutionContextNotFoundError, match="no execution 'nobody'"):
            call()

    assert recorded_ids() == []


@pytest.mark.parametrize("bad", ["", "../x", "a b", "-x", "x" * 201, "a/b", "a\n", 5])
def test_an_id_that_cannot_be_one_is_refused(bad: Any) -> None:
    for call in (doubling.run, doubling.start):
        with pytest.raises(InvalidInputError, match="cannot be an execution id"):
            call(1, execution_id=bad)

    assert recorded_ids() == []


@pytest.mark.parametrize("value", [None, 0, "", False, [], {}, 0.0, ()], ids=repr)
def test_falsy_inputs_are_delivered_and_recorded(both: Kit, value: Any) -> None:
    ctx = both.run(asking, value, "e")

    assert ctx.input == value
    assert type(ctx.input) is type(value)
    assert both.resume(asking, "e", value).output == [value, value]
    assert type(both.stored("e").input) is type(value)


def test_no_input_is_none() -> None:
    assert asking.run().input is None


# -- pauses


def test_a_pause_is_answered_once(both: Kit) -> None:
    both.run(asking, 1, "e")
    ctx = both.resume(asking, "e", "first")

    with pytest.raises(ExecutionConflictError, match="COMPLETED"):
        both.resume(asking, "e", "second")

    assert whole(both.stored("e")) == whole(ctx)


def test_of_two_resumes_at_once_one_wins_and_the_other_is_refused(kit: Kit) -> None:
    """The second must not answer the next pause."""

    @workflow
    async def twice(ctx: ExecutionContext[int]) -> Any:
        return [await pause("a"), await pause("b")]

    kit.run(twice, 1, "e")

    async def both_at_once() -> list[Any]:
        return await asyncio.gather(
            twice.resume_async("e", "one"), twice.resume_async("e", "two"), return_exceptions=True
        )

    results = kit.drive(both_at_once())

    conflicts = [r for r in results if isinstance(r, ExecutionConflictError)]
    assert len(conflicts) == 1, results
    ctx = kit.stored("e")
    assert ctx.is_paused
    assert [e.value for e in ctx.events if e.type == "WORKFLOW_PAUSED"][-1]["name"] == "b"
    assert [e.type for e in ctx.events].count("WORKFLOW_RESUMED") == 1


def test_two_processes_resume_at_once_and_one_wins(home: Path) -> None:
    program = """
        from flux.errors import ExecutionConflictError

        @workflow
        async def once_asked(ctx: ExecutionContext[int]):
            return await pause("a")

        if sys.argv[1] == "start":
            once_asked.run(1, execution_id="e")
        else:
            print("ready", flush=True)
            while not os.path.exists("go"):
                time.sleep(0.001)
            try:
                print(once_asked.resume("e", sys.argv[1]).state)
            except ExecutionConflictError:
                print("refused")
    """
    run_script(home, program, "start")
    with script(home, program, "one") as one, script(home, program, "two") as two:
        assert one.stdout is not None
        assert two.stdout is not None
        one.stdout.readline(), two.stdout.readline()
        (home / "go").touch()
        printed = sorted(process.communicate(timeout=15)[0].strip() for process in (one, two))

    assert printed == ["COMPLETED", "refused"]
    assert [e.type for e in stored("e").events].count("WORKFLOW_RESUMED") == 1


def test_a_paused_execution_stays_paused_however_often_it_is_run(both: Kit) -> None:
    paused = both.run(asking, 1, "e")

    for _ in range(3):
        again = both.run(asking, 1, "e")
        assert whole(again) == whole(paused)

    assert both.resume(asking, "e", "now").output == [1, "now"]


def test_running_a_paused_execution_without_an_input_resumes_it_with_none(both: Kit) -> None:
    both.run(asking, 1, "e")

    assert both.run(asking, execution_id="e").output == [1, None]


def test_two_pauses_at_once_are_answered_by_name_or_oldest_first(both: Kit) -> None:
    @workflow
    async def two(ctx: ExecutionContext[int]) -> Any:
        return await asyncio.gather(pause("a", output="A"), pause("b", output="B"))

    paused = both.run(two, 1, "e")
    both.app.send_resume("e", "for b", name="b")
    with pytest.raises(ExecutionConflictError, match="no open pause named 'b'"):
        both.app.send_resume("e", "again", name="b")
    with pytest.raises(ExecutionConflictError, match="no open pause named 'c'"):
        both.app.send_resume("e", "x", name="c")
    ctx = both.resume(two, "e", "for a")

    assert paused.events[-1].value["name"] == "a"
    assert ctx.output == ["for a", "for b"]


def test_after_one_of_two_pauses_the_other_is_still_open(both: Kit) -> None:
    @workflow
    async def two(ctx: ExecutionContext[int]) -> Any:
        return await asyncio.gather(pause("a"), pause("b"))

    both.run(two, 1, "e")
    half = both.resume(two, "e", 1)

    assert half.is_paused
    assert half.events[-1].value["name"] == "b"
    assert both.resume(two, "e", 2).output == [1, 2]


def test_tasks_go_on_while_a_pause_is_open_and_a_resume_reaches_the_running_execution(both: Kit) -> None:
    @task
    async def long() -> str:
        await asyncio.sleep(30)
        return "long"

    @workflow
    async def mixed(ctx: ExecutionContext[int]) -> Any:
        return await asyncio.gather(pause("a"), long())

    async def drive() -> Any:
        running = asyncio.ensure_future(mixed.run_async(1, execution_id="e"))
        await asyncio.sleep(5)
        both.app.send_resume("e", "yes")
        return await running

    ctx = both.drive(drive())

    assert ctx.output == ["yes", "long"]
    assert both.clock.seconds == pytest.approx(30, abs=0.1)
    assert "WP" not in types(ctx)


@pytest.mark.parametrize("timeout", [5, 60, timedelta(minutes=1)], ids=str)
def test_a_pause_with_a_timeout_gives_up_by_itself(both: Kit, timeout: Any) -> None:
    """Whether the execution was unloaded meanwhile or not."""
    seconds = 5 if timeout == 5 else 60

    @workflow
    async def impatient(ctx: ExecutionContext[int]) -> Any:
        return await pause("approval", timeout=timeout)

    ctx = both.run(impatient, 1)

    assert ctx.output == plain(ExecutionTimeoutError, f"Pause approval was not resumed in time ({seconds}s).")
    assert both.clock.seconds == pytest.approx(seconds, abs=0.1)


def test_a_pause_with_a_timeout_is_answered_in_time(both: Kit) -> None:
    @workflow
    async def impatient(ctx: ExecutionContext[int]) -> Any:
        return await pause("approval", timeout=60)

    async def drive() -> Any:
        running = asyncio.ensure_future(impatient.run_async(1, execution_id="e"))
        await asyncio.sleep(59)
        both.app.send_resume("e", "yes")
        return await running

    assert both.drive(drive()).output == "yes"


@pytest.mark.parametrize("seconds", [5, 60])
def test_a_pause_that_timed_out_can_no_longer_be_answered(both: Kit, seconds: int) -> None:
    """The answer would be lost, or go to the next pause."""

    @workflow
    async def impatient(ctx: ExecutionContext[int]) -> Any:
        try:
            return await pause("approval", timeout=seconds)
        except TimeoutError:
            return await pause("second")

    both.run(impatient, 1, "e")

    with pytest.raises(ExecutionConflictError):
        both.app.send_resume("e", "late", name="approval")
    assert both.resume(impatient, "e", "2nd").output == "2nd"


def test_a_resume_that_arrives_during_a_crash_is_delivered_by_whoever_continues(kit: Kit) -> None:
    @task
    async def long() -> None:
        await asyncio.sleep(30)

    @workflow
    async def mixed(ctx: ExecutionContext[int]) -> Any:
        return (await asyncio.gather(pause("a"), long()))[0]

    kit.run_for(5, mixed.run_async(1, execution_id="e"))
    kit.app.send_resume("e", "early")

    assert kit.run(mixed, execution_id="e").output == "early"


# -- one owner at a time


def test_two_threads_running_one_id_at_once_both_get_the_result_of_one_run() -> None:
    ran: list[str] = []
    started, release = threading.Event(), threading.Event()

    @task
    def work() -> str:
        ran.append(threading.current_thread().name)
        started.set()
        release.wait(5)
        return "result"

    @workflow
    async def shared(ctx: ExecutionContext[int]) -> Any:
        return await work()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shared.run, 1, execution_id="e")
        assert started.wait(5)
        second = pool.submit(shared.run, 1, execution_id="e")
        time.sleep(0.02)
        assert not second.done()
        release.set()
        contexts = [first.result(5), second.result(5)]

    assert whole(contexts[0]) == whole(contexts[1])
    assert contexts[0].output == "result"
    assert len(ran) == 1


def test_many_threads_start_one_id_at_the_same_moment_and_it_runs_once() -> None:
    ran: list[int] = []
    gate = threading.Barrier(6, timeout=5)

    @task
    async def work() -> None:
        ran.append(1)

    @workflow
    async def shared(ctx: ExecutionContext[int]) -> Any:
        await work()
        return "result"

    def run(_: int) -> Any:
        gate.wait()
        return shared.run(1, execution_id="e")

    with ThreadPoolExecutor(6) as pool:
        contexts = list(pool.map(run, range(6)))

    assert [ctx.output for ctx in contexts] == ["result"] * 6
    assert len(ran) == 1


def test_two_processes_running_one_id_at_once_both_get_the_result_of_one_run(home: Path) -> None:
    program = """
        @task
        def work():
            count("ran")
            while not os.path.exists("go"):
                time.sleep(0.001)
            return "result"

        @workflow
        async def shared(ctx: ExecutionContext[int]):
            return await work()

        print(shared.run(1, execution_id="e").output, flush=True)
    """
    with script(home, program) as one, script(home, program) as two:
        while times(home, "ran") == 0:
            time.sleep(0.005)
        time.sleep(0.02)
        (home / "go").touch()
        printed = [process.communicate(timeout=15) for process in (one, two)]

    assert [out for out, _ in printed] == ["result\n"] * 2, printed
    assert times(home, "ran") == 1


def test_when_the_owner_is_killed_the_waiting_process_takes_over(home: Path) -> None:
    program = """
        @task
        def work():
            count("ran")
            if once("first"):
                time.sleep(60)
            return "result"

        @workflow
        async def shared(ctx: ExecutionContext[int]):
            return await work()

        if __file__.endswith("waiting.py"):
            print("up", flush=True)
        print(shared.run(1, execution_id="e").output)
    """
    with script(home, program) as owner:
        while times(home, "ran") == 0:
            time.sleep(0.002)
        with script(home, program, name="waiting.py") as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "up\n"
            owner.kill()
            out, err = waiting.communicate(timeout=10)

    assert out == "result\n", err
    assert times(home, "ran") == 2


# -- loops


def test_run_async_runs_on_the_callers_loop() -> None:
    @task
    async def where() -> int:
        return id(asyncio.get_running_loop())

    @workflow
    async def looking(ctx: ExecutionContext[int]) -> int:
        return await where()

    async def main() -> Any:
        return id(asyncio.get_running_loop()), (await looking.run_async(1)).output

    mine, theirs = asyncio.run(main())

    assert mine == theirs


def test_run_works_where_a_loop_runs_already() -> None:
    """As in a notebook."""

    async def cell() -> Any:
        paused = asking.run(1)
        return asking.resume(paused.execution_id, 2).output

    assert asyncio.run(cell()) == [1, 2]


def test_runs_share_a_loop_per_thread() -> None:
    @task
    async def where() -> int:
        return id(asyncio.get_running_loop())

    @workflow
    async def looking(ctx: ExecutionContext[int]) -> int:
        return await where()

    assert looking.run(1).output == looking.run(2).output


def test_many_executions_run_on_one_loop() -> None:
    async def main() -> Any:
        contexts = await asyncio.gather(*(doubling.run_async(i) for i in range(20)))
        return [ctx.output for ctx in contexts]

    assert asyncio.run(main()) == [2 * i for i in range(20)]


def test_start_returns_a_handle_out_of_a_loop() -> None:
    handle = doubling.start(4)

    assert stored(handle.execution_id).input == 4
    assert handle.wait(5).output == 8
    assert handle.wait(5).output == 8
    assert doubling.start(4, execution_id=handle.execution_id).wait(5).output == 8


def test_start_returns_a_handle_in_a_loop() -> None:
    async def main() -> Any:
        handle = doubling.start(4, execution_id="e")
        recorded = recorded_ids()
        with pytest.raises(ExecutionConflictError, match=r"await handle.result\(\)"):
            handle.wait()
        return recorded, (await handle.result()).output, (await handle.result()).output

    assert asyncio.run(main()) == (["e"], 8, 8)


def test_a_handle_of_the_background_is_awaited_in_a_loop_and_gives_up_waiting_in_time() -> None:
    release = threading.Event()

    @task
    def stuck() -> str:
        release.wait(5)
        return "released"

    @workflow
    async def waiting(ctx: ExecutionContext[int]) -> Any:
        return await stuck()

    handle = waiting.start(1)
    with pytest.raises(TimeoutError):
        handle.wait(0.01)
    release.set()

    async def main() -> Any:
        return (await handle.result()).output

    assert asyncio.run(main()) == "released"


def test_cancelling_who_waits_for_a_handle_does_not_cancel_the_execution() -> None:
    async def main() -> Any:
        gate = asyncio.Event()

        @task
        async def wait() -> str:
            await gate.wait()
            return "done"

        @workflow
        async def waiting(ctx: ExecutionContext[int]) -> Any:
            return await wait()

        handle = waiting.start(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await handle.result()
        gate.set()
        return (await handle.result()).output

    assert asyncio.run(main()) == "done"


@pytest.mark.parametrize(
    "call",
    [
        lambda: doubling.run(1),
        lambda: doubling.start(1),
        lambda: doubling.resume("x", 1),
    ],
    ids=["run", "start", "resume"],
)
def test_running_a_workflow_in_a_body_is_refused_naming_what_to_do(both: Kit, call: Any) -> None:
    @workflow
    async def outer(ctx: ExecutionContext[int]) -> Any:
        call()

    ctx = both.run(outer, 1)

    assert isinstance(ctx.output, BodyError)
    assert "doubling" in str(ctx.output)
    assert types(ctx) == ["WS", "WF"]


def test_running_a_workflow_asynchronously_in_a_body_is_refused(both: Kit) -> None:
    @workflow
    async def outer(ctx: ExecutionContext[int]) -> Any:
        await doubling.run_async(1)

    ctx = both.run(outer, 1)

    assert isinstance(ctx.output, BodyError)
    assert "doubling.run_async()" in str(ctx.output)


# -- long sleeps


def test_a_long_sleep_unloads_the_execution_and_its_row_says_when_it_wakes(kit: Kit) -> None:
    bodies: list[int] = []

    @workflow
    async def sleeping(ctx: ExecutionContext[int]) -> str:
        bodies.append(1)
        await sleep(timedelta(minutes=2))
        return "awake"

    async def look() -> Any:
        running = asyncio.ensure_future(sleeping.run_async(1, execution_id="e"))
        await asyncio.sleep(1)
        row = kit.store.get("e")
        runners = len(kit.app.engine._runners)
        ctx = await running
        return row, runners, ctx

    row, runners, ctx = kit.drive(look())

    assert row.state is ExecutionState.SCHEDULED
    assert row.wake_at == ctx.events[0].time_us + 120_000_000
    assert row.worker is None
    assert runners == 0
    assert ctx.output == "awake"
    assert kit.clock.seconds == pytest.approx(120, abs=0.2)
    assert len(bodies) == 2


def test_a_short_sleep_does_not(kit: Kit) -> None:
    """The control."""
    bodies: list[int] = []

    @workflow
    async def sleeping(ctx: ExecutionContext[int]) -> str:
        bodies.append(1)
        await sleep(9)
        return "awake"

    assert kit.run(sleeping, 1).output == "awake"
    assert len(bodies) == 1


def test_a_sleeping_execution_continues_in_another_process(home: Path) -> None:
    program = """
        @workflow
        async def sleeping(ctx: ExecutionContext[int]):
            before = await now()
            await sleep(0.3)
            return ["slept", before.timestamp(), (await now()).timestamp(), os.getpid()]

        if sys.argv[1] == "first":
            os.environ["FLUX_UNLOAD_AFTER_SECONDS"] = "0"
            def look():
                import flux.app
                while True:
                    row = flux.app.current().store.get("e")
                    if row is not None and row.state == "SCHEDULED" and row.wake_at:
                        die()
                    time.sleep(0.002)
            threading.Thread(target=look, daemon=True).start()
            sleeping.run(1, execution_id="e")
        slept, before, after, pid = sleeping.run(1, execution_id="e").output
        print(slept, 0.3 <= after - before < 3, pid == os.getpid())
    """
    run_script(home, program, "first", code=-9)
    row = App(Settings(database=home / ".flux/flux.db"))
    with contextlib.closing(row):
        asleep = row.store.get("e")
    assert asleep is not None
    assert asleep.state is ExecutionState.SCHEDULED

    assert run_script(home, program, "second") == "slept True True\n"


# -- bodies that go wrong


def test_a_body_that_waits_for_nothing_is_blocked_and_says_why_and_can_be_mended(both: Kit) -> None:
    @workflow.with_options(name="flow", version="1")
    async def deadlocked(ctx: ExecutionContext[int]) -> Any:
        await echo(1)
        await asyncio.Event().wait()

    @workflow.with_options(name="flow", version="2")
    async def mended(ctx: ExecutionContext[int]) -> Any:
        return await echo(1)

    with pytest.raises(BodyError, match="waits for something that no task, timer or pause will bring"):
        both.run(deadlocked, 1, "e")

    row = both.store.get("e")
    assert row is not None
    assert (row.state, row.blocked_version) == (ExecutionState.SCHEDULED, "1")
    assert "nobody sets" in (row.blocked_reason or "")
    with pytest.raises((BodyError, ExecutionConflictError), match="nobody sets"):
        both.run(deadlocked, execution_id="e")
    assert both.run(mended, execution_id="e").output == 1


def test_a_busy_wait_fails_naming_the_line(both: Kit) -> None:
    @workflow
    async def busy(ctx: ExecutionContext[int]) -> Any:
        answer = asyncio.ensure_future(echo(1))
        while not answer.done():
            await asyncio.sleep(0)  # THE LINE

    ctx = both.run(busy, 1)

    with open(__file__) as file:
        line = 1 + next(i for i, text in enumerate(file) if "# THE LINE" in text)
    assert isinstance(ctx.output, BodyError)
    assert "without waiting for anything outside it" in str(ctx.output)
    assert f"{Path(__file__).name}:{line}" in str(ctx.output)


def test_a_busy_wait_that_arms_a_timer_in_every_turn_is_found_too(kit: Kit) -> None:
    @workflow
    async def busy(ctx: ExecutionContext[int]) -> Any:
        for _ in range(BUSY_WAIT_HANDLES + 10):  # It would be for ever, and hang the test where nobody finds it.
            async with asyncio.timeout(5):
                await asyncio.sleep(0)
        return "never found"

    ctx = kit.run(busy, 1)

    assert isinstance(ctx.output, BodyError), ctx.output
    assert "without waiting for anything outside it" in str(ctx.output)


def _forbidden() -> dict[str, Any]:
    def of_loop(name: str, *arguments: Any) -> Any:
        async def body(ctx: ExecutionContext[int]) -> Any:
            made = getattr(asyncio.get_running_loop(), name)(*arguments)
            if asyncio.iscoroutine(made):
                await made

        return body

    async def to_thread(ctx: ExecutionContext[int]) -> Any:
        await asyncio.to_thread(print)

    async def connect(ctx: ExecutionContext[int]) -> Any:
        await asyncio.open_connection("127.0.0.1", 9)

    async def subprocess_(ctx: ExecutionContext[int]) -> Any:
        await asyncio.create_subprocess_shell("true")

    async def own_loop(ctx: ExecutionContext[int]) -> Any:
        asyncio.get_running_loop().run_until_complete(asyncio.Event().wait())

    return {
        "to_thread": to_thread,
        "open_connection": connect,
        "create_subprocess_shell": subprocess_,
        "run_in_executor": of_loop("run_in_executor", None, print),
        "call_soon_threadsafe": of_loop("call_soon_threadsafe", print),
        "add_reader": of_loop("add_reader", 0, print),
        "add_signal_handler": of_loop("add_signal_handler", 2, print),
        "getaddrinfo": of_loop("getaddrinfo", "localhost", 80),
        "create_server": of_loop("create_server", None),
        "sock_recv": of_loop("sock_recv", None, 1),
        "run_forever": of_loop("run_forever"),
    }


@pytest.mark.parametrize("name", _forbidden())
def test_what_a_body_may_not_do_is_refused_saying_do_this_in_a_task(both: Kit, name: str) -> None:
    ctx = both.run(workflow.with_options(name="bad")(_forbidden()[name]), 1)

    assert isinstance(ctx.output, BodyError)
    assert "do this in a @task" in str(ctx.output)
    assert types(ctx) == ["WS", "WF"]


@pytest.mark.parametrize("error", [SystemExit(2), asyncio.CancelledError("own"), GeneratorExit()], ids=repr)
def test_nothing_that_a_body_raises_ends_more_than_its_execution(both: Kit, error: BaseException) -> None:
    @workflow
    async def raising(ctx: ExecutionContext[int]) -> Any:
        await echo(1)
        raise error

    ctx = both.run(raising, 1)

    assert types(ctx) == ["WS", "TS", "TC", "WF"]
    assert str(error) in str(ctx.output)
    assert both.run(doubling, 1).output == 2


def test_calls_that_a_body_leaves_behind_are_cancelled_and_it_finishes(both: Kit) -> None:
    cleaned: list[str] = []

    @task
    async def endless(name: str) -> None:
        try:
            await asyncio.sleep(1_000_000)
        finally:
            cleaned.append(name)

    @workflow
    async def careless(ctx: ExecutionContext[int]) -> str:
        for name in "ab":
            asyncio.ensure_future(endless(name))  # noqa: RUF006
        await asyncio.sleep(1)
        return "done"

    ctx = both.run(careless, 1)

    assert shape(ctx) == [
        ("WS", "careless", 1),
        ("TS", "endless", {"name": "a"}),
        ("TS", "endless", {"name": "b"}),
        ("TIMER_FIRED", "timer", None),
        ("TASK_CANCELLED", "endless", None),
        ("TASK_CANCELLED", "endless", None),
        ("WC", "careless", "done"),
    ]
    assert sorted(set(cleaned)) == ["a", "b"]
    assert whole(both.stored(ctx.execution_id)) == whole(ctx)


def test_a_call_that_ignores_its_cancellation_holds_the_body_up_for_the_grace_only(both: Kit) -> None:
    @task
    async def stubborn() -> None:
        for _ in range(100):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    @workflow
    async def careless(ctx: ExecutionContext[int]) -> str:
        asyncio.ensure_future(stubborn())  # noqa: RUF006
        await asyncio.sleep(1)
        return "done"

    ctx = both.run(careless, 1)

    assert ctx.output == "done"
    assert both.clock.seconds == pytest.approx(6, abs=0.1)


def test_background_tasks_of_a_body_are_cancelled_when_it_returns(both: Kit) -> None:
    log: list[str] = []

    @workflow
    async def careless(ctx: ExecutionContext[int]) -> str:
        async def background() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                log.append("cancelled")
                raise

        running = asyncio.ensure_future(background())
        await echo(1)
        return f"{running.done()}"

    assert both.run(careless, 1).output == "False"
    assert log[-1:] == ["cancelled"] or both.app.settings.replay_each_step


def test_a_body_that_raises_while_calls_run_still_fails_cleanly(both: Kit) -> None:
    @task
    async def endless() -> None:
        await asyncio.sleep(1_000_000)

    @task
    async def failing() -> None:
        raise ValueError("no")

    @workflow
    async def grouped(ctx: ExecutionContext[int]) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(endless())
            group.create_task(failing())
        return "never"

    ctx = both.run(grouped, 1)

    assert types(ctx) == ["WS", "TS", "TS", "TF", "TASK_CANCELLED", "WF"]
    assert isinstance(ctx.output, ExceptionGroup)
    assert ctx.output.exceptions[0] == failure(ValueError, "no")


def test_a_result_of_the_body_that_cannot_be_recorded_fails_it_naming_the_path(both: Kit) -> None:
    @workflow
    async def odd(ctx: ExecutionContext[int]) -> Any:
        return {"x": [1, object()]}

    ctx = both.run(odd, 1)

    assert ctx.has_failed
    assert 'value["x"][1]' in str(ctx.output)


# -- interruptions


def test_ctrl_c_records_nothing_and_the_execution_continues_later(home: Path) -> None:
    program = """
        @task
        async def first():
            count("first")
            return 1

        @task
        async def second(x):
            count("second")
            if once("interrupted"):
                print("waiting", flush=True)
                await asyncio.sleep(60)
            return x + 1

        @workflow
        async def job(ctx: ExecutionContext[int]):
            return await second(await first())

        try:
            print(job.run(1, execution_id="e").output)
        except KeyboardInterrupt:
            import flux.app
            row = flux.app.current().store.get("e")
            print("interrupted", row.state, row.worker)
            sys.exit(130)
    """
    with script(home, program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(subprocess.signal.SIGINT)  # type: ignore[attr-defined]
        out, err = process.communicate(timeout=15)
    assert (process.returncode, out) == (130, "interrupted SCHEDULED None\n"), err
    assert types(stored("e")) == ["WS", "TS", "TC", "TS"]

    assert run_script(home, program) == "2\n"
    assert (times(home, "first"), times(home, "second")) == (1, 2)


def test_ctrl_c_in_a_sync_task_gives_the_prompt_back_and_the_execution_continues_later(home: Path) -> None:
    program = """
        @task
        def stuck():
            count("ran")
            if once("interrupted"):
                print("waiting", flush=True)
                time.sleep(60)
            return "done"

        @workflow
        async def job(ctx: ExecutionContext[int]):
            return await stuck()

        print(job.run(1, execution_id="e").output)
    """
    with script(home, program) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(subprocess.signal.SIGINT)  # type: ignore[attr-defined]
        _, err = process.communicate(timeout=10)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    assert types(stored("e")) == ["WS", "TS"]

    assert run_script(home, program) == "done\n"


def test_cancelling_run_async_records_nothing_and_the_execution_continues_later(kit: Kit) -> None:
    slow = [True]

    @task
    async def waiting() -> str:
        if slow:
            await asyncio.sleep(60)
        return "done"

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        return await waiting()

    async def interrupted() -> None:
        running = asyncio.ensure_future(job.run_async(1, execution_id="e"))
        await asyncio.sleep(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    kit.drive(interrupted())
    row = kit.store.get("e")
    slow.clear()

    assert row is not None
    assert (row.state, row.worker) == (ExecutionState.SCHEDULED, None)
    assert types(kit.stored("e")) == ["WS", "TS"]
    assert kit.run(job, execution_id="e").output == "done"


def test_a_closing_loop_is_no_fact(kit: Kit) -> None:
    @task
    async def waiting() -> str:
        await asyncio.sleep(60)
        return "done"

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        try:
            return await waiting()
        except BaseException as error:
            if not isinstance(error, GeneratorExit):
                return "swallowed"
            raise

    async def closing() -> None:
        asyncio.ensure_future(job.run_async(1, execution_id="e"))  # noqa: RUF006
        await asyncio.sleep(1)

    kit.drive(closing())
    kit._runner.close()
    kit._open()

    assert types(kit.stored("e")) == ["WS", "TS"]
    assert kit.run(job, execution_id="e").output == "done"


# -- a store that fails


class FailingStore:
    """A store whose appends can be made to fail: some that matter, or all."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.fails: Any = lambda appends: False

    def append(self, appends: Any) -> Any:
        if self.fails(appends):
            raise StoreError("the disk is full")
        return self._store.append(appends)

    def try_append(self, appends: Any) -> Any:
        if self.fails(appends):
            raise StoreError("the disk is full")
        return self._store.try_append(appends)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.fixture
def failing(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FailingStore]:
    from flux.store.sqlite import SqliteStore

    store = FailingStore(SqliteStore(home / ".flux/flux.db"))
    app = App(Settings(database=home / ".flux/flux.db", store_patience_seconds=0), store=store)
    monkeypatch.setattr(launcher, "_find", lambda: app)
    yield store
    store.fails = lambda appends: False
    app.close()


def _holds(type_: str) -> Any:
    return lambda appends: any(event.type == type_ for append in appends for event in append.events)


@pytest.mark.parametrize("type_", ["WORKFLOW_STARTED", "TASK_COMPLETED", "WORKFLOW_COMPLETED"])
@pytest.mark.parametrize("how", ["run", "run_async", "start"])
def test_what_cannot_be_stored_is_never_acknowledged(failing: FailingStore, type_: str, how: str) -> None:
    ran: list[int] = []

    @task
    async def act(x: int) -> int:
        ran.append(x)
        return x

    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        return [await act(1), await act(2)]

    def go() -> Any:
        match how:
            case "run":
                return job.run(1, execution_id="e")
            case "run_async":
                return asyncio.run(job.run_async(1, execution_id="e"))
            case _:
                return job.start(1, execution_id="e").wait(10)

    failing.fails = _holds(type_)
    with pytest.raises(StoreError, match="the disk is full"):
        go()

    expected = {"WORKFLOW_STARTED": [], "TASK_COMPLETED": [1], "WORKFLOW_COMPLETED": [1, 2]}
    assert ran == expected[type_]


@pytest.mark.parametrize("type_", ["WORKFLOW_STARTED", "TASK_COMPLETED", "WORKFLOW_COMPLETED"])
def test_when_the_disk_is_back_the_same_process_continues(failing: FailingStore, type_: str) -> None:
    @workflow
    async def job(ctx: ExecutionContext[int]) -> Any:
        return [await echo(1), await echo(2)]

    failing.fails = _holds(type_)
    with pytest.raises(StoreError):
        job.run(1, execution_id="e")
    failing.fails = lambda appends: False

    async def within_seconds() -> Any:
        async with asyncio.timeout(3):
            return await job.run_async(1, execution_id="e")

    assert asyncio.run(within_seconds()).output == [1, 2]


def test_a_store_that_fails_for_a_moment_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flux.store.sqlite import SqliteStore

    store = FailingStore(SqliteStore(home / ".flux/flux.db"))
    app = App(Settings(database=home / ".flux/flux.db"), store=store)
    monkeypatch.setattr(launcher, "_find", lambda: app)
    failures = iter([True, True])
    store.fails = lambda appends: next(failures, False)

    with contextlib.closing(app):
        ctx = doubling.run(2)

    assert ctx.output == 4
    assert types(ctx) == ["WS", "TS", "TC", "WC"]
    assert whole(stored(ctx.execution_id)) == whole(ctx)


def test_no_task_acts_before_its_cause_is_stored(failing: FailingStore) -> None:
    """Output commit: when a task runs, all that led to it is on disk."""
    on_disk: list[list[str]] = []

    @task
    async def look(_: int) -> None:
        on_disk.append(types(stored("e")))

    @workflow
    async def job(ctx: ExecutionContext[int]) -> None:
        await look(1)
        await look(2)
        await parallel(look(3), look(4))

    job.run(1, execution_id="e")

    two = ["WS", "TS", "TC", "TS"]
    assert on_disk[0] == two[:2]
    assert on_disk[1] == two
    assert [shown[:8] for shown in on_disk[2:]] == [[*two, "TC", "TS", "TS", "TS"]] * 2


# -- what the context shows


def test_the_context_of_a_body_shows_the_history_up_to_now(both: Kit) -> None:
    seen: list[Any] = []

    @workflow
    async def looking(ctx: ExecutionContext[int]) -> Any:
        seen.append((len(ctx.events), ctx.state, ctx.has_finished, ctx.output))
        await echo(1)
        return [str(ctx.events[-1].type), len(ctx.events), ctx.execution_id, ctx.name]

    ctx = both.run(looking, 1, "e")

    assert ctx.output == ["TASK_COMPLETED", 3, "e", "looking"]
    assert set(seen) == {(1, ExecutionState.RUNNING, False, None)}


def test_a_context_is_shown_as_plain_data(both: Kit) -> None:
    ctx = both.run(doubling, 2, "e")

    assert ctx.summary() == {
        "execution_id": "e", "name": "doubling", "state": "COMPLETED", "input": 2, "output": 4,
    }  # fmt: skip
    assert [e["type"] for e in ctx.to_dict()["events"]] == [e.type for e in ctx.events]
    assert '"state": "COMPLETED"' in ctx.to_json()
    assert (ctx.has_started, ctx.has_finished, ctx.has_succeeded, ctx.has_failed) == (True, True, True, False)
    assert (ctx.is_paused, ctx.is_cancelled, ctx.is_cancelling, ctx.has_resumed) == (False, False, False, False)


def test_time_in_a_body_is_the_same_in_every_replay(both: Kit) -> None:
    @workflow
    async def timed(ctx: ExecutionContext[int]) -> Any:
        loop = asyncio.get_running_loop()
        times_seen = [loop.time()]
        await asyncio.sleep(3)
        times_seen.append(loop.time())
        await now()
        await pause("p")
        return times_seen

    both.run(timed, 1, "e")
    both.clock.seconds += 500
    seen = both.resume(timed, "e").output

    assert seen == pytest.approx([0, 3], abs=0.001)


def test_plain_asyncio_in_a_body_survives_a_crash_at_any_moment(home: Path) -> None:
    """Queues, locks, first-completed and as_completed: the result is that of a run without a crash."""

    @task
    async def work(name: str, seconds: float) -> str:
        await asyncio.sleep(seconds)
        return name

    @workflow
    async def asyncio_all(ctx: ExecutionContext[int]) -> Any:
        log: list[Any] = []
        queue: asyncio.Queue[str] = asyncio.Queue()

        async def producer(name: str, seconds: float) -> None:
            async with lock:
                queue.put_nowait(await work(name, seconds))

        lock = asyncio.Lock()
        async with asyncio.TaskGroup() as group:
            group.create_task(producer("a", 2))
            group.create_task(producer("b", 1))
            log.append(await queue.get())
            log.append(await queue.get())
        done, pending = await asyncio.wait(
            [asyncio.ensure_future(work("slow", 5)), asyncio.ensure_future(work("fast", 1))],
            return_when=asyncio.FIRST_COMPLETED,
        )
        log.append([one.result() for one in done])
        log.extend([await one for one in asyncio.as_completed([work("x", 2), work("y", 1), *pending])])
        return log

    def outcome(crash_at: float | None) -> Any:
        directory = home / f"crash-{crash_at}"
        directory.mkdir()
        kit = Kit(directory)
        try:
            if crash_at is not None:
                kit.run_for(crash_at, asyncio_all.run_async(1, execution_id="e"))
            return kit.run(asyncio_all, 1, "e").output
        finally:
            kit.close()

    expected = ["a", "b", ["fast"], "y", "x", "slow"]
    assert outcome(None) == expected
    for crash_at in (0.5, 1.5, 2.5, 3.5):
        assert outcome(crash_at)[:3] == expected[:3], crash_at
        assert sorted(outcome(crash_at + 0.01)[3:]) == ["slow", "x", "y"], crash_at
