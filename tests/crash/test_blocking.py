"""Code that blocks is cut off at its timeout, while the process goes on to say that it is alive."""

import asyncio
import time

import pytest

import flux.app
from flux import task, workflow

BLOCKED = 4  # Tasks at once.
TIMEOUT_SECONDS = 1.0
LEASE_SECONDS = 0.9
PULSE_SECONDS = 0.005


@pytest.fixture(autouse=True)
def home(workdir, monkeypatch):
    monkeypatch.setenv("FLUX_LEASE_SECONDS", str(LEASE_SECONDS))
    yield workdir
    flux.app.close_all()


@task.with_options(timeout=TIMEOUT_SECONDS)
def sleep_for_long():
    time.sleep(6)


@task.with_options(timeout=TIMEOUT_SECONDS)
def compute_for_long():
    until = time.monotonic() + 6
    while time.monotonic() < until:
        pass


@workflow
async def blocked(ctx):
    calls = [sleep_for_long() for _ in range(BLOCKED)]
    if ctx.input == "computing":
        calls.append(compute_for_long())
    return [type(error).__name__ for error in await asyncio.gather(*calls, return_exceptions=True)]


async def watch(lags, leases):
    """Note how late this loop is, and until when this process has said that it lives."""
    app = flux.app.current()
    worker = app._lease.acquire()
    while True:
        began = time.monotonic()
        await asyncio.sleep(PULSE_SECONDS)
        lags.append(time.monotonic() - began - PULSE_SECONDS)
        with app.store._database.read() as cursor:
            leases.append(
                cursor.execute("SELECT lease_expires_at FROM workers WHERE worker = ?", (worker,)).fetchone()[0]
            )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sleeping", "computing"])
def test_a_timeout_of_blocking_code_is_enforced_while_heartbeats_go_on_and_the_loop_is_prompt(kind):
    lags, leases = [], []

    async def scenario():
        watching = asyncio.ensure_future(watch(lags, leases))
        began = time.monotonic()
        ctx = await blocked.run_async(kind)
        seconds = time.monotonic() - began
        assert flux.app.current()._lease.is_trusted()
        watching.cancel()
        return ctx, seconds

    ctx, seconds = asyncio.run(scenario())

    lag = sorted(lags)[int(len(lags) * 0.99)]
    print(f"{seconds:.2f} s, p99 of {len(lags)} lags {lag * 1000:.1f} ms, {len(set(leases))} leases")
    assert set(ctx.output) == {"ExecutionTimeoutError"}
    assert seconds <= TIMEOUT_SECONDS + 1
    assert lag < 0.1
    assert len(set(leases)) >= 2


@workflow
async def blocking_the_loop(ctx):
    return await block_the_loop()


@task
async def block_the_loop():
    time.sleep(0.5)


def test_the_watch_sees_code_that_blocks_the_loop():
    lags = []

    async def scenario():
        watching = asyncio.ensure_future(watch(lags, []))
        await asyncio.sleep(0.05)
        await blocking_the_loop.run_async(1)
        await asyncio.sleep(0.05)
        watching.cancel()

    asyncio.run(scenario())

    assert max(lags) > 0.3
