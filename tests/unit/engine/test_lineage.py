"""The task factory that tells which attempt an asyncio task belongs to."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from flux.engine import lineage


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


def an_own_factory(loop: asyncio.AbstractEventLoop, made: list[str]) -> None:
    """Set a factory that hands on to the one that is there, as instrumentation does."""
    before: Any = loop.get_task_factory()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        made.append("own")
        return before(loop, coro, **options) if before else asyncio.Task(coro, loop=loop, **options)

    loop.set_task_factory(factory)


@on_a_loop
async def test_a_loop_has_its_factory_back_when_the_last_execution_on_it_has_ended():
    loop, made = asyncio.get_running_loop(), []
    an_own_factory(loop, made)
    own, follower = loop.get_task_factory(), lineage.follower(loop)

    follower.open()
    follower.open()
    follower.begin()
    follower.close()
    assert loop.get_task_factory() is not own
    follower.close()

    assert loop.get_task_factory() is own


@on_a_loop
async def test_two_who_follow_the_tasks_of_one_loop_are_one():
    loop = asyncio.get_running_loop()

    assert lineage.follower(loop) is lineage.follower(loop)


@on_a_loop
async def test_a_factory_that_was_set_around_ours_makes_each_task_once():
    loop, made = asyncio.get_running_loop(), []
    follower = lineage.follower(loop)
    follower.open()
    follower.begin()
    an_own_factory(loop, made)
    follower.begin()

    await asyncio.create_task(asyncio.sleep(0))

    assert made == ["own"]
    follower.close()


@on_a_loop
async def test_factories_that_are_set_around_ours_again_and_again_make_each_task_once():
    loop, made = asyncio.get_running_loop(), []
    follower = lineage.follower(loop)
    for _ in range(3):  # The one that was set in an execution is still there in the next.
        follower.open()
        follower.begin()
        an_own_factory(loop, made)
        follower.begin()
        follower.close()
    follower.open()
    follower.begin()

    await asyncio.create_task(asyncio.sleep(0))

    assert made == ["own"] * 3
    follower.close()
