"""The workflows of a seed: a program that is drawn, in a body that may clean up when it is cancelled."""

import asyncio
import random
from dataclasses import dataclass
from typing import Any

from flux import workflow
from flux.tasks import continue_as_new
from support import programs
from support.programs import SEVERAL, TASKS, Program
from support.story import Context
from support.world import work

LEAVES = ("work", "work", "ask", "caught", "pure", "pause", "flaky", "sleep")
IN_A_BODY = (*SEVERAL, *SEVERAL, "task", "task", "child", "anew", "timeout", "signal")
IN_A_TASK = (*SEVERAL, "task", "timeout")


@dataclass(frozen=True, slots=True)
class Request:
    """An execution that somebody wants.

    Args:
        generations: How often it begins anew, plus one.
        cleans_up: Whether it acts when it is cancelled.
    """

    execution_id: str
    program: Program
    generations: int
    cleans_up: bool

    @property
    def input(self) -> Any:
        return self.program, self.generations, self.cleans_up


def draw_request(chance: random.Random, number: int) -> Request:
    """An execution of a seed."""
    program = draw(chance, chance.randint(1, 7))
    return Request(f"execution-{number}", program, chance.choice([1, 1, 1, 2]), chance.random() < 0.5)


def draw(chance: random.Random, size: int, *, in_a_task: bool = False) -> Program:
    """A program of about that many calls."""
    if size <= 1:
        return _draw_leaf(chance)
    kind = chance.choice(IN_A_TASK if in_a_task else IN_A_BODY)
    match kind:
        case "signal":
            return (kind,)
        case "task":
            return kind, chance.choice(TASKS), draw(chance, size - 1, in_a_task=True)
        case "child" | "anew":
            return kind, draw(chance, size - 1)
        case "timeout":
            return kind, chance.randint(1, 3), draw(chance, size - 1, in_a_task=in_a_task)
    several = chance.randint(1, min(3, size))
    return kind, [draw(chance, size // several, in_a_task=in_a_task) for _ in range(several)]


def _draw_leaf(chance: random.Random) -> Program:
    match chance.choice(LEAVES):
        case "flaky" as leaf:
            return leaf, chance.randint(0, 4)
        case "sleep" as leaf:
            return leaf, chance.choice([0, 0.3, 1, 3])
        case leaf:
            return (leaf,)


@workflow.with_options(name="simulated", version="1")
async def simulated(ctx: Context) -> Any:
    program, generations, cleans_up = ctx.input
    try:
        found = await programs.run(program)
    except asyncio.CancelledError:
        if cleans_up:
            await work("clean", 0.1)
        raise
    if generations > 1:
        await continue_as_new((program, generations - 1, cleans_up))
    return found
