"""What a story is: a workflow, what happens outside meanwhile, and its result as a reader of the body expects it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from flux import ExecutionContext, task, workflow
from flux.domain.execution import ExecutionState
from flux.workflow import Workflow
from support.crashes import Histories, Script, Send
from support.world import World, ask

Context = ExecutionContext[Any]
Same = Literal["facts", "effects", "output"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A workflow, and what must come of it, crashes or not.

    Args:
        expected: Its output, as plain data; if it depends on what a crash interrupts, a function of the histories
            that the crash has left.  Of one that fails, the text of the error.
        same: What a crash leaves as it is, in a world that remembers.  By default every fact, its time included.  Only
            the effects, if a clean-up was under way, which is not made again, or if things are sent at once, which are
            taken at once or one by one; only the output, if a task itself measures time or gives calls up, or hands
            out work in no fixed order: it does that anew.
    """

    workflow: Workflow[Any, Any]
    expected: Any
    state: ExecutionState
    script: Script
    same: Same

    def outcome_after(self, left: Histories) -> Any:
        """The state and the output that must come of a process that found these histories."""
        expected = self.expected(left) if callable(self.expected) else self.expected
        return self.state, expected


STORIES: dict[str, Story] = {}


def story(
    expected: Any,
    *sends: Send,
    state: ExecutionState = ExecutionState.COMPLETED,
    answers_after: float | None = None,
    same: Same = "facts",
) -> Callable[[Any], Workflow[Any, Any]]:
    """Add a workflow to the table."""
    script = Script(sends=sends, answers_after=answers_after)

    def add(func: Any) -> Workflow[Any, Any]:
        made = workflow.with_options(version="1")(func)
        STORIES[func.__name__] = Story(workflow=made, expected=expected, state=state, script=script, same=same)
        return made

    return add


def act(argument: Any) -> None:
    """Do something to the world, in a task that does other things as well."""
    World.current.act(argument)


async def branch(name: Any, calls: int = 3) -> list[Any]:
    """Calls, one after the other, that differ in nothing from those of other branches."""
    return [await ask((name, step)) for step in range(calls)]


def marks(name: Any, calls: int = 3) -> list[Any]:
    """What `branch` gives."""
    return [[name, step] for step in range(calls)]


@task
async def gathering(names: str, calls: int = 2) -> Any:
    """A task that makes equal calls in branches."""
    act(names)
    return await asyncio.gather(*(branch(name, calls) for name in names))
