"""A process that is interrupted, forked or left by its loop at a bad moment neither hangs nor does things twice."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

import flux.app
import flux.engine.runner
from flux import pause, task, workflow
from flux.store.sqlite import SqliteStore

PATIENCE_SECONDS = 5


@pytest.fixture(autouse=True)
def home(workdir):
    yield workdir
    flux.app.close_all()


@pytest.fixture
def deaf(monkeypatch):
    """An owner that looks for news only when it must: what may happen within 50 ms happens always."""
    for module in ("runner", "inbox"):
        if hasattr(getattr(flux.engine, module, None), "NEWS_SECONDS"):
            monkeypatch.setattr(f"flux.engine.{module}.NEWS_SECONDS", 60.0)


async def until(condition):
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


def types(execution_id):
    return [str(event.type) for event in flux.app.current().store.events(execution_id)]


def in_child(work):
    """The exit code of a forked process that does this; it is killed if it hangs."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)
            code = 0 if work() else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@task
async def add(x):
    return x + 1


@task
def add_in_thread(x):
    return x + 1


@workflow
async def adding(ctx):
    return await add_in_thread(await add(ctx.input))


# -- resumes at bad moments


@workflow
async def asks_then_sleeps(ctx):
    try:
        return await pause("question", timeout=0.3)
    except TimeoutError:
        await asyncio.sleep(3600)


def test_a_resume_that_was_accepted_before_the_timeout_of_its_pause_is_the_answer_however_late_it_is_read(
    deaf, monkeypatch
):
    appends = []
    append = SqliteStore._append
    monkeypatch.setattr(SqliteStore, "_append", lambda *a: appends.append(a) or append(*a))

    async def scenario():
        run = asyncio.create_task(asks_then_sleeps.run_async(1, execution_id="x"))
        app = flux.app.current()
        await until(lambda: app.store.pauses("x"))
        app.send_resume("x", "in time")
        return await asyncio.wait_for(run, PATIENCE_SECONDS)

    assert asyncio.run(scenario()).output == "in time"
    assert types("x").count("WORKFLOW_RESUMED") == 1
    assert len(appends) < 20


def test_a_resume_that_was_acknowledged_in_time_is_the_answer_however_late_the_execution_is_continued():
    async def scenario():
        run = asyncio.create_task(asks_then_sleeps.run_async(1, execution_id="x"))
        app = flux.app.current()
        await until(lambda: app.store.pauses("x"))
        run.cancel()
        await asyncio.wait([run])
        app.send_resume("x", "in time")
        due_us = app.store.events("x")[0].time_us + 300_000
        await until(lambda: app.clock.now() > due_us)
        return await asyncio.wait_for(asks_then_sleeps.run_async(1, execution_id="x"), PATIENCE_SECONDS)

    assert asyncio.run(scenario()).output == "in time"


acted = []


@task
async def act_on_answer():
    acted.append(1)


@task
async def wait_long():
    await asyncio.sleep(60)


@workflow
async def asks_beside_work(ctx):
    async def ask():
        await pause("question")
        await act_on_answer()

    await asyncio.gather(wait_long(), ask())


def test_a_cancelled_run_begins_nothing_more_even_if_a_resume_waits_for_it(deaf):
    async def scenario():
        acted.clear()
        run = asyncio.create_task(asks_beside_work.run_async(1, execution_id="x"))
        await until(lambda: flux.app.current().store.pauses("x"))
        flux.app.current().send_resume("x", "go")
        run.cancel()
        began = time.monotonic()
        await asyncio.wait([run])
        assert time.monotonic() - began < 2

    asyncio.run(scenario())

    assert acted == []
    assert flux.app.current().get("x").state == "SCHEDULED"


# -- loops


@task
async def wait_a_little(x):
    await asyncio.sleep(0.05)
    return x


@workflow
async def waits_twice(ctx):
    return [await wait_a_little(1), await wait_a_little(2)]


@pytest.mark.filterwarnings("ignore")
def test_an_execution_whose_loop_was_closed_without_a_word_is_continued_by_the_same_process():
    loop = asyncio.new_event_loop()
    run = loop.create_task(waits_twice.run_async(1, execution_id="x"))
    loop.run_until_complete(asyncio.sleep(0.02))
    loop.close()
    run._log_destroy_pending = False

    async def again():
        return await asyncio.wait_for(waits_twice.run_async(1, execution_id="x"), 3)

    assert asyncio.run(again()).output == [1, 2]


INTERRUPTED = []


@workflow
async def interrupted_once(ctx):
    if not INTERRUPTED:
        INTERRUPTED.append(True)
        raise KeyboardInterrupt  # As a second Ctrl-C does, in a body that computes for ever.
    return await add(ctx.input)


@task
async def add_interrupted_once(x):
    if not Path("interrupted").exists():
        Path("interrupted").touch()
        raise KeyboardInterrupt
    return x + 1


@workflow
async def task_interrupted_once(ctx):
    return await add_interrupted_once(ctx.input)


@pytest.mark.parametrize("wanted", [interrupted_once, task_interrupted_once], ids=["in-the-body", "in-a-task"])
def test_after_a_keyboard_interrupt_the_same_process_can_run_the_execution_on(wanted):
    def interrupted_and_again():
        try:
            wanted.run(1, execution_id="x")
        except KeyboardInterrupt:
            return wanted.run(1, execution_id="x").output == 2
        return False

    assert in_child(interrupted_and_again) == 0


# -- forks


def test_a_forked_child_runs_workflows_and_tasks_of_its_own_beside_its_parent():
    assert adding.run(1).output == 3
    assert asyncio.run(add_in_thread(1)) == 2

    assert in_child(lambda: all(adding.run(n).output == n + 2 for n in range(5))) == 0
    assert in_child(lambda: asyncio.run(add_in_thread(1)) == 2) == 0
    assert adding.run(1).output == 3


# -- errors that cannot be shown


class CannotBeShown(Exception):
    def __str__(self):
        raise ValueError("there is no text")


class CannotBeTested(Exception):
    def __bool__(self):
        raise ValueError("neither true nor false")


@pytest.mark.parametrize("error", [CannotBeShown, CannotBeTested])
@pytest.mark.parametrize("retries", [0, 1])
def test_an_error_that_cannot_be_shown_fails_its_execution_and_no_more(error, retries):
    @task.with_options(retry_max_attempts=retries, retry_delay=0)
    async def fail():
        raise error

    @workflow
    async def failing(ctx):
        await fail()

    assert failing.run(1).state == "FAILED"
