"""A bed: workflows in memory, on virtual time, and what of the real world still works there."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flux import ExecutionContext, ExecutionState, pause, task, workflow
from flux.errors import BodyError
from flux.tasks import now, parallel, sleep, wait_for_signal
from flux.testing import Bed, virtual_time


@pytest.fixture
def bed() -> Iterator[Bed]:
    with Bed().installed() as bed:
        yield bed


@workflow
async def reminder(ctx: ExecutionContext[str]) -> tuple[datetime, datetime]:
    before = await now()
    await sleep(timedelta(days=30))
    return before, await now()


def test_a_month_takes_no_time_and_the_clock_of_bodies_shows_it(bed: Bed):
    began = time.monotonic()

    before, after = reminder.run("ada").output

    assert (before, after) == (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC))
    assert bed.time.elapsed == timedelta(days=30)
    assert time.monotonic() - began < 5


# -- threads and sockets


@task
async def in_a_thread(seconds: float) -> str:
    def work() -> str:
        time.sleep(seconds)
        return threading.current_thread().name

    return await asyncio.to_thread(work)


@workflow
async def two_threads_and_a_timer(ctx: ExecutionContext[Any]) -> Any:
    async with asyncio.timeout(1):
        return await parallel(in_a_thread(0.05), in_a_thread(0.02))


def test_virtual_time_stands_still_while_a_function_runs_in_a_thread(bed: Bed):
    context = two_threads_and_a_timer.run()

    assert context.has_succeeded, context.output
    assert bed.time.elapsed == timedelta(0)


@task
def blocking(x: int) -> tuple[int, bool]:
    return asyncio.run(doubled(x)), threading.current_thread() is threading.main_thread()


async def doubled(x: int) -> int:
    return 2 * x


@workflow
async def of_sync_tasks(ctx: ExecutionContext[Any]) -> Any:
    return await parallel(blocking(1), blocking(2), in_process(3))


@task.with_options(executor="process")
async def in_process(x: int) -> int:
    return 3 * x


def test_def_tasks_and_those_of_processes_run_in_another_thread_of_this_process(bed: Bed):
    assert of_sync_tasks.run().output == [(2, False), (4, False), 9]


@task
async def talk_to(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.read(5)
    finally:
        writer.close()
        await writer.wait_closed()


@workflow
async def over_a_socket(ctx: ExecutionContext[int]) -> bytes:
    async with asyncio.timeout(1):
        return await talk_to(ctx.input)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def test_virtual_time_stands_still_while_a_task_waits_for_a_socket(bed: Bed, server: socket.socket):
    def answer() -> None:
        connection, _ = server.accept()
        with connection:
            time.sleep(0.05)
            connection.sendall(b"hello")

    answering = threading.Thread(target=answer)
    answering.start()
    context = over_a_socket.run(server.getsockname()[1])
    answering.join()

    assert context.output == b"hello"
    assert bed.time.elapsed == timedelta(0)


def test_a_socket_that_says_nothing_is_an_error_and_no_hang(
    bed: Bed, server: socket.socket, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(virtual_time, "PATIENCE_SECONDS", 0.05)

    with pytest.raises(RuntimeError, match="waited for a socket.*put a fake in its place"):
        over_a_socket.run(server.getsockname()[1])


@task
async def wait_for_nothing() -> None:
    await asyncio.Event().wait()


@workflow
async def stuck(ctx: ExecutionContext[Any]) -> None:
    await wait_for_nothing()


def test_a_task_that_waits_for_nothing_is_an_error_and_no_hang(bed: Bed):
    with pytest.raises(RuntimeError, match="stuck .* put a fake in the task's place"):
        stuck.run()


# -- steps from outside


@workflow
async def delivery(ctx: ExecutionContext[Any]) -> tuple[Any, Any]:
    return await wait_for_signal("packed", timeout=timedelta(days=3)), await pause("signature")


def test_what_is_started_outside_a_loop_runs_when_it_is_waited_for(bed: Bed):
    handle = delivery.start()
    handle.signal("packed", "box 1")

    assert handle.wait().is_paused
    assert delivery.resume(handle.execution_id, "Ann").output == ("box 1", "Ann")
    assert handle.wait().output == ("box 1", "Ann")


def test_a_handle_that_nobody_waits_for_leaves_nothing_behind():
    with Bed().installed():
        delivery.start()


def test_a_scenario_can_act_in_the_middle(bed: Bed):
    async def scenario() -> ExecutionContext[Any]:
        handle = delivery.start()
        await asyncio.sleep(2 * 86_400)
        handle.signal("packed", "box 2")
        await handle.result()
        return await delivery.resume_async(handle.execution_id, "Bob")

    assert bed.run(scenario()).output == ("box 2", "Bob")
    assert bed.time.elapsed == timedelta(days=2)


def test_an_execution_that_is_under_way_is_waited_for_however_long_it_takes(bed: Bed):
    async def scenario() -> ExecutionContext[Any]:
        handle = year_long.start()
        await asyncio.sleep(86_400)
        return await year_long.resume_async(handle.execution_id, "go")

    assert bed.run(scenario()).output == "go"
    assert bed.time.elapsed == timedelta(days=366)


@workflow
async def year_long(ctx: ExecutionContext[Any]) -> Any:
    answer = await pause("go", timeout=timedelta(days=7))
    await sleep(timedelta(days=365))
    return answer


def test_who_waits_for_an_execution_goes_on_with_it_when_it_is_released(bed: Bed):
    async def scenario() -> ExecutionContext[Any]:
        first, second = (asyncio.ensure_future(reminder.run_async("ada", execution_id="e")) for _ in range(2))
        await asyncio.sleep(86_400)
        first.cancel()
        return await second

    assert bed.run(scenario()).has_succeeded
    assert bed.time.elapsed == timedelta(days=30)


ACTED: list[str] = []


@task
async def act_once(what: str) -> str:
    ACTED.append(what)
    return what


@workflow
async def acting(ctx: ExecutionContext[str]) -> str:
    return await act_once(ctx.input)


def test_an_execution_that_is_started_twice_at_one_moment_acts_once(bed: Bed):
    async def scenario() -> list[Any]:
        runs = (acting.run_async("pay", execution_id="e") for _ in range(3))
        return [context.output for context in await asyncio.gather(*runs)]

    ACTED.clear()

    assert bed.run(scenario()) == ["pay"] * 3
    assert ACTED == ["pay"]


def test_a_bed_goes_on_with_what_another_left(bed: Bed):
    paused = delivery.start()
    paused.signal("packed")
    paused.wait()

    with Bed(bed.store.memory.snapshot(), time=bed.time).installed():
        context = delivery.resume(paused.execution_id, "Eve")

    assert (context.state, context.output) == (ExecutionState.COMPLETED, (None, "Eve"))


def test_a_loop_that_is_not_the_beds_is_refused(bed: Bed):
    with pytest.raises(BodyError, match="let bed.run"):
        asyncio.run(delivery.run_async())


# -- order


@task
async def second_long(x: int) -> int:
    await asyncio.sleep(1)
    return x


@workflow
async def of_equal_times(ctx: ExecutionContext[int]) -> list[int]:
    return [await first for first in asyncio.as_completed([second_long(x) for x in range(ctx.input)])]


def test_of_timers_that_are_due_at_once_the_one_set_first_fires_first(bed: Bed):
    assert of_equal_times.run(20).output == list(range(20))
