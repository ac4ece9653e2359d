"""A long history, in a process of its own: says, in one line, what that cost.  See test_long.py.

Usage: long.py run STEPS [rereads] | resume.  Steps in the middle are pure, and quick; those that are measured are not.
"""

import json
import logging
import resource
import sys
import time
from typing import Any

from flux import ExecutionContext, app, pause, task, telemetry, workflow
from flux.store import database
from flux.store.sqlite import SqliteStore

WINDOW = 1000
ROUNDS = 5  # Others may disturb a window, or four.
marks: list[float] = []


@task
async def step(n: int) -> int:
    return n


@task.with_options(pure=True)
async def quick_step(n: int) -> int:
    return n


@workflow
async def long(ctx: ExecutionContext[int]) -> int:
    total, measured = 0, ROUNDS * WINDOW
    for n in range(ctx.input):
        if n % WINDOW == 0:
            marks.append(time.process_time())
        is_measured = n < measured or n >= ctx.input - measured
        total += await (step if is_measured else quick_step)(n)
    marks.append(time.process_time())
    return total + await pause("end")


def rereads() -> None:
    """BROKEN: each commit goes through the whole history again."""
    seen: list[int] = []

    def look(name: str, fields: dict[str, Any]) -> None:
        if name == "events.appended":
            seen.extend(event.seq for event in fields["events"])
            sum(each for each in seen)

    telemetry.attach(look)


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))


def run(steps: int) -> dict[str, float]:
    assert long.run(steps, execution_id="long").is_paused
    windows = [after - before for before, after in zip(marks, marks[1:], strict=False)]
    return {"first": min(windows[1:ROUNDS]), "last": min(windows[-ROUNDS:])}


def look() -> tuple[float, int]:
    """The seconds that it takes to see how an execution stands, and how often events were read for it."""
    here, read, history = app.current(), [], SqliteStore._history
    SqliteStore._history = lambda self, *arguments: read.append(0) or history(self, *arguments)
    here.row("long")
    began = time.perf_counter()
    row = here.row("long")
    assert (row.state, len(here.store.list())) == ("PAUSED", 1)
    took = time.perf_counter() - began
    SqliteStore._history = history
    return took, len(read)


def resume() -> dict[str, float]:
    seconds, reads = look()
    before, began = megabytes(), time.perf_counter()
    context = long.resume("long", 7)
    took = time.perf_counter() - began
    events = len(context.events)
    return {"look": seconds, "reads": reads, "replay": took, "grew": megabytes() - before, "events": events}


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # Of the long history.
    database._PRAGMAS["synchronous"] = 0  # No power fails here.
    if sys.argv[-1] == "rereads":
        rereads()
    print(json.dumps(run(int(sys.argv[2])) if sys.argv[1] == "run" else resume()))
