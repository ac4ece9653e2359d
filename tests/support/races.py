"""Races in bodies, by the thousand, each crashed somewhere: `record FOLDER FIRST LAST` or `replay FOLDER FIRST LAST`.

Each seed makes one program of one of the named cases, with 2 to 50 branches.  One process records its history, and
another one, which may hash texts otherwise, continues it from where a crash left it.  Prints, as JSON, how many of each
case took the same course, and which seeds did not.
"""

import asyncio
import json
import pickle
import random
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from flux import ExecutionContext, workflow
from flux.engine.replay import divergence_of
from flux.errors import NonDeterminismError
from flux.workflow import Workflow
from support.simulation import Simulation, cuts, finished_calls, folder_in_memory
from support.world import fail, work

Context = ExecutionContext[Any]
Course = Callable[["Race"], Coroutine[Any, Any, Any]]
CASES: dict[str, Course] = {}
SECONDS = [0.5, 1, 1, 2, 2, 3.5, None, None, None]  # What is equal ends at once; None is a time of its own.
UNORDERED = "set_of_texts"
LATER = 0.01  # Than anything else ends.
# A task that ends in the moment in which it is cancelled: what of it is not recorded yet, may end otherwise.
AT_ONE_MOMENT = {"timeouts_at_one_moment", "task_group_at_one_moment", "cancellation_at_one_moment"}


class Race:
    """What a seed says of one program: the same in every process.

    Args:
        seed: Of the case, of its branches, and of how long their tasks take.
        case: Another one than the seed says.
    """

    def __init__(self, seed: int, case: str | None = None) -> None:
        chance = random.Random(f"race {seed}")
        self.seed, self.case = seed, case or list(CASES)[seed % len(CASES)]
        self.branches = chance.choice([2, 3, 4, 5, 8, 13, 25, 50])
        self.seconds = [chance.choice(SECONDS) for _ in range(self.branches)]
        self.deadline = chance.choice([0.5, 1, 2, 2.5, 4])
        self.crash = chance.random()

    @property
    def workflow(self) -> Workflow[Any, Any]:
        """The program, as a workflow."""

        @workflow.with_options(name=self.case, version="1")
        async def race(_: Context) -> Any:
            return await (CASES | CONTROL)[self.case](self)

        return race

    def each(self) -> list[Coroutine[Any, Any, Any]]:
        """The branches: each makes a call, and every third one another behind it."""
        return [self.branch(n) for n in range(self.branches)]

    async def branch(self, number: int) -> int:
        await work("equal" if number % 2 else number, self.seconds[number])
        if number % 3 == 0:
            await work("behind", self.seconds[-1 - number])
        return number


def case(course: Course) -> Course:
    """Add a case."""
    CASES[course.__name__] = course
    return course


# -- the cases


@case
async def gather_of_two_sequences(race: Race) -> Any:
    order = []

    async def sequence(name: str, times: list[float | None]) -> None:
        for step, seconds in enumerate(times):
            await work("equal", seconds)
            order.append((name, step))

    await asyncio.gather(sequence("a", race.seconds), sequence("b", race.seconds[::-1]))
    return order


@case
async def as_completed(race: Race) -> Any:
    return [await each for each in asyncio.as_completed(race.each())]


@case
async def wait_for_the_first(race: Race) -> Any:
    waiting, order = {asyncio.create_task(each) for each in race.each()}, []
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        order += [task.result() for task in done]
        await work(f"after {order[-1]}", 0.25)
        if len(order) > race.branches // 2:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            break
    return order


@case
async def task_group(race: Race, later: float = LATER) -> Any:
    order: list[Any] = []

    async def noted(number: int) -> None:
        try:
            order.append(await race.branch(number))
        except asyncio.CancelledError:
            order.append(("cancelled", number))
            raise

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(race.branches):
                group.create_task(noted(number))
            for number in range(race.seed % 4):
                group.create_task(fail("group", race.deadline + number * later + later))
    except ExceptionGroup as errors:
        order.append(len(errors.exceptions))
    return order


@case
async def timeouts(race: Race, later: float = LATER) -> Any:
    order: list[Any] = []

    async def hurried(number: int) -> None:
        try:
            async with asyncio.timeout(race.deadline + later):
                order.append(await race.branch(number))
        except TimeoutError:
            order.append(("late", number))
            await work(f"instead of {number}", 0.5)

    async with asyncio.timeout(60):
        await asyncio.gather(*(hurried(number) for number in range(race.branches)))
    try:
        await asyncio.wait_for(race.branch(0), (race.seconds[0] or race.deadline) - later)
    except TimeoutError:
        order.append("late again")
    return order


@case
async def shield(race: Race) -> Any:
    inner = [asyncio.ensure_future(each) for each in race.each()]
    order: list[Any] = []

    async def shielded(number: int) -> None:
        try:
            order.append(await asyncio.shield(inner[number]))
        except asyncio.CancelledError:
            order.append(("left", number))

    outer = [asyncio.create_task(shielded(number)) for number in range(race.branches)]
    await asyncio.sleep(race.deadline)
    for task in outer[::2]:
        task.cancel()
    await asyncio.gather(*outer)
    return [order, await asyncio.gather(*inner)]


@case
async def cancellation(race: Race, later: float = LATER) -> Any:
    order: list[Any] = []

    async def tidy(number: int) -> None:
        try:
            order.append(await race.branch(number))
        finally:
            order.append(("tidied", await work(f"tidy {number}", 0.25)))

    tasks = {asyncio.create_task(tidy(number)) for number in range(race.branches)}
    await work("first", race.deadline + later)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    return [order, [isinstance(each, asyncio.CancelledError) for each in ended]]


@case
async def timeouts_at_one_moment(race: Race) -> Any:
    return await timeouts(race, later=0)


@case
async def task_group_at_one_moment(race: Race) -> Any:
    return await task_group(race, later=0)


@case
async def cancellation_at_one_moment(race: Race) -> Any:
    return await cancellation(race, later=0)


async def set_of_texts(race: Race) -> Any:
    """What no engine can make to order: a set of texts is ordered by their hashes."""
    return await asyncio.gather(*(work(text, 1) for text in {f"text {n}" for n in range(race.branches + 3)}))


CONTROL: dict[str, Course] = {UNORDERED: set_of_texts}


# -- in two processes


def races(first: int, last: int) -> list[Race]:
    """Those of the seeds from `first` to before `last`, and a control for every tenth."""
    seeds = range(first, last)
    return [*map(Race, seeds), *(Race(seed, UNORDERED) for seed in seeds if seed % 10 == 0)]


def record(file: Path, first: int, last: int) -> dict[str, int]:
    """Run each without a crash, and leave its history."""
    recorded = []
    with folder_in_memory() as folder:
        for race in races(first, last):
            run = Simulation(Path(folder), race.workflow, seed=race.seed).run()
            recorded.append(([event.undecoded() for event in run.events], run.shape, run.output))
    file.write_bytes(pickle.dumps(recorded))
    return {"recorded": len(recorded)}


def replay(file: Path, first: int, last: int) -> dict[str, Any]:
    """Continue each from where it crashed."""
    same: dict[str, int] = {}
    others: dict[str, list[int]] = {}
    with folder_in_memory() as folder:
        for race, recorded in zip(races(first, last), pickle.loads(file.read_bytes()), strict=True):
            if _takes_the_same_course(race, Path(folder), *recorded):
                same[race.case] = same.get(race.case, 0) + 1
            else:
                others.setdefault(race.case, []).append(race.seed)
    return {"same": same, "others": others}


def _takes_the_same_course(race: Race, folder: Path, events: list[Any], shape: list[Any], output: Any) -> bool:
    possible = cuts(events)
    stored = events[: possible[int(race.crash * len(possible))]]
    if divergence_of(race.workflow.definition, events) is not None:
        return False
    try:
        again = Simulation(folder, race.workflow, seed=race.seed).run_from([event.undecoded() for event in stored])
    except NonDeterminismError:
        return False
    assert again.world.called & finished_calls(stored) == set(), f"seed {race.seed} did again what was recorded"
    if race.case in AT_ONE_MOMENT:
        is_the_same = again.shape[: len(stored)] == shape[: len(stored)]
        return is_the_same and divergence_of(race.workflow.definition, again.events) is None
    return (again.shape, again.output) == (shape, output)


if __name__ == "__main__":
    action, path, *seeds = sys.argv[1:]
    print(json.dumps({"record": record, "replay": replay}[action](Path(path), *map(int, seeds))))
