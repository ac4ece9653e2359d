"""A parking that is refused, because something has come in, leaves everything as if it had not been tried."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from crash.turns import Pace, Process
from flux import ExecutionContext, ExecutionState, pause, task, workflow
from flux.tasks import wait_for_signal
from flux.testing.virtual_time import VirtualTime


@task
async def failing() -> None:
    await asyncio.sleep(1)
    raise ValueError("no")


async def _instead(turns: int = 0) -> str:
    return "instead"


@task.with_options(fallback=_instead)
async def asking() -> Any:
    """Waits for a pause alone at the very moment at which it goes on, because its other branch has failed."""
    return await asyncio.gather(pause("never answered"), failing())


@task.with_options(fallback=_instead)
async def asking_beside(turns: int) -> Any:
    """Does something while its branch waits for a pause, so that its execution may be parked meanwhile."""
    pausing = asyncio.ensure_future(pause("never answered"))
    for _ in range(turns):
        await asyncio.sleep(0)
    raise ValueError(pausing)


@workflow
async def waiting(ctx: ExecutionContext[int]) -> Any:
    asked = await (asking_beside(ctx.input) if ctx.input else asking())
    return asked, await wait_for_signal("news")


def run_with_news(folder: Path, turns: int, pace: Pace, news_at: int) -> Any:
    """The output of an execution to which something is sent right before that turn; None if it was parked."""
    process = Process(folder / f"{turns} {news_at}", VirtualTime(), pace)
    try:
        process.schedule(waiting, "e", turns)
        process.loop.plan = [(news_at, lambda: process.app.send_signal("e", "news", 7))]
        context = process.loop.complete(process.app.engine.run(waiting.definition, "e"))
        return context.output if context.state is ExecutionState.COMPLETED else None
    finally:
        process.close()


@pytest.mark.parametrize("pace", [Pace(2, 2), Pace(6, 3)], ids=str)
def test_an_execution_is_not_parked_when_its_task_goes_on_because_one_of_its_branches_has_failed(
    tmp_path: Path, pace: Pace
) -> None:
    for news_at in range(1, 60, 3):
        assert run_with_news(tmp_path, 0, pace, news_at) == ("instead", 7)


def test_a_task_that_fails_while_its_execution_is_about_to_be_parked_has_its_fallback_when_it_is_not(
    tmp_path: Path,
) -> None:
    outputs = [run_with_news(tmp_path, turns, Pace(6, 3), at) for turns in (2, 5, 12) for at in range(10, 40, 2)]

    assert outputs.count(("instead", 7)) > 10
    assert set(outputs) == {("instead", 7), None}
