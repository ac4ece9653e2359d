"""Threads of sync tasks: as many as allowed, reused, left behind when their caller gives up."""

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from flux.engine.threads import Threads

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


async def _started(threads: Threads, release: threading.Event) -> "asyncio.Task[Any]":
    started = asyncio.Event()
    task = asyncio.ensure_future(threads.run(lambda: release.wait(5), started.set))
    await started.wait()
    return task


def test_a_value_comes_back_and_an_error_is_raised() -> None:
    async def main() -> Any:
        threads = Threads()
        with pytest.raises(KeyError):
            await threads.run(lambda: {}["x"])
        return await threads.run(lambda: 5)

    assert asyncio.run(main()) == 5


def test_threads_are_daemons_with_the_context_of_the_caller() -> None:
    async def main() -> Any:
        variable.set(7)
        return await Threads().run(lambda: (variable.get(), threading.current_thread().daemon))

    assert asyncio.run(main()) == (7, True)


def test_an_idle_thread_is_used_again() -> None:
    async def main() -> Any:
        threads = Threads()
        return {await threads.run(threading.get_ident) for _ in range(20)}

    assert len(asyncio.run(main())) <= 2


def test_no_more_run_at_once_than_allowed() -> None:
    async def main() -> Any:
        threads, release = Threads(2), threading.Event()
        running = [await _started(threads, release) for _ in range(2)]
        third = asyncio.ensure_future(threads.run(lambda: "third"))
        for _ in range(20):
            await asyncio.sleep(0)
        waited = not third.done()
        release.set()
        await asyncio.gather(*running)
        return waited, await third

    assert asyncio.run(main()) == (True, "third")


def test_an_abandoned_thread_does_not_take_the_place_of_another_task() -> None:
    async def main() -> Any:
        threads, release = Threads(1), threading.Event()
        stuck = await _started(threads, release)
        queued = asyncio.ensure_future(threads.run(lambda: "went on"))
        await asyncio.sleep(0)
        stuck.cancel()
        result = await asyncio.wait_for(queued, 5)
        release.set()
        return result

    assert asyncio.run(main()) == "went on"


def test_a_job_that_is_cancelled_in_the_queue_never_runs() -> None:
    async def main() -> Any:
        threads, release, ran = Threads(1), threading.Event(), []
        running = await _started(threads, release)
        queued = asyncio.ensure_future(threads.run(lambda: ran.append(1)))
        await asyncio.sleep(0)
        queued.cancel()
        release.set()
        await running
        await threads.run(lambda: None)
        return ran

    assert asyncio.run(main()) == []


def test_many_jobs_at_once_all_run() -> None:
    async def main() -> Any:
        threads = Threads(4)
        return await asyncio.gather(*(threads.run(lambda i=i: i * i) for i in range(200)))  # type: ignore[misc]

    assert asyncio.run(main()) == [i * i for i in range(200)]
