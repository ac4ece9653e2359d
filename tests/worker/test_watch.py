"""A task that blocks the loop of a worker is told of while it does."""

import asyncio
import time

import pytest

from flux import task, workflow
from flux.worker import watch
from worker.kit import Team, recorded, settled, start


@task
async def block(seconds):
    time.sleep(seconds)


@workflow
async def blocking(ctx):
    return await block(ctx.input)


@pytest.mark.parametrize(("seconds", "is_told"), [(0.4, True), (0.0, False)])
async def test_a_task_that_blocks_the_loop_is_told_of_with_its_stack(site, monkeypatch, caplog, seconds, is_told):
    monkeypatch.setattr(watch, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(watch, "TICK_SECONDS", 0.05)
    app, events = site.app(), []
    with recorded(events):
        async with Team() as team:
            team.add(app, blocking)
            await settled(app, start(app, blocking, seconds))
            await asyncio.sleep(0.1)
    told = {name: fields for name, fields in events if name.startswith("loop.")}

    assert set(told) == ({"loop.blocked", "loop.released"} if is_told else set())
    if is_told:
        assert "time.sleep(seconds)" in told["loop.blocked"]["stack"]
        assert told["loop.released"]["seconds"] >= 0.35
        assert "blocked" in caplog.text


def test_each_blockage_is_told_of_once():
    loop, events = watch.LoopWatch(), []
    now = time.monotonic()
    with recorded(events):
        for seconds in (0.5, 1.5, 2.5):
            loop.look(now + seconds)
        loop._tick(now + 3)
        loop.look(now + 4.5)

    assert [name for name, _ in events] == ["loop.blocked", "loop.released", "loop.blocked"]
