"""A process in which many threads do the same at the same moment.

Usage: crowded.py BUILD resume|start THREADS EACH
For each line on standard input, EXECUTION VALUE, so many threads do it so often each; prints what came of it, as JSON:
how often which answer was given, and which executions answered.
"""

import asyncio
import collections
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from flux import ExecutionContext, app, pause, task, workflow
from flux.engine.engine import Engine
from flux.errors import ExecutionConflictError, InvalidInputError
from flux.store.sqlite import _SQL


@task
async def act(what: str) -> str:
    with open("ledger", "a") as ledger:
        ledger.write(f"{what}\n")
    return what


@workflow
async def ask(ctx: ExecutionContext[str]) -> str:
    return await act(await pause("approval"))


@workflow
async def once(ctx: ExecutionContext[str]) -> str:
    return await act(ctx.input)


# -- what they do


async def resume(execution_id: str, value: str) -> ExecutionContext[Any]:
    return await ask.resume_async(execution_id, value)


async def start(execution_id: str, value: str) -> ExecutionContext[Any]:
    return await once.run_async(value, execution_id=execution_id)


# -- broken builds


def bind_twice() -> None:
    """BROKEN: a pause may be answered although it was."""
    _SQL["bind_pause"] = _SQL["bind_pause"].replace("AND pauses.resumed_at IS NULL", "")


def forget_ids() -> None:
    """BROKEN: each start makes an execution of its own."""
    run = app.App._run
    app.App._run = lambda self, flow, value, _, **how: run(self, flow, value, None, **how)  # type: ignore[method-assign]


def take_any_input() -> None:
    """BROKEN: a start with another input is answered by the execution that is there."""
    find = Engine._row
    Engine._row = lambda self, execution_id, _: find(self, execution_id, None)  # type: ignore[method-assign]
    app.App._check_same = lambda *_: None  # type: ignore[method-assign]


BUILDS = {each.__name__: each for each in (bind_twice, forget_ids, take_any_input)} | {"sound": lambda: None}


def crowd(do: Callable[[str, str], Any], threads: int, each: int, words: list[str]) -> dict[str, Any]:
    answers: collections.Counter[str] = collections.Counter()
    ids: set[str] = set()
    ready, counting = threading.Barrier(threads), threading.Lock()

    async def try_it() -> tuple[str, str | None]:
        try:
            context = await do(*words)
        except (ExecutionConflictError, InvalidInputError) as error:
            return type(error).__name__, None
        return str(context.output), context.execution_id

    async def try_often() -> list[tuple[str, str | None]]:
        return await asyncio.gather(*(try_it() for _ in range(each)))

    def run() -> None:
        ready.wait()
        found = asyncio.run(try_often())
        with counting:
            answers.update(answer for answer, _ in found)
            ids.update(id_ for _, id_ in found if id_ is not None)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return {"answers": answers, "ids": sorted(ids)}


def main() -> None:
    build, action, threads, each = sys.argv[1:]
    BUILDS[build]()
    print("up", os.getpid(), flush=True)
    for line in sys.stdin:
        print(json.dumps(crowd({"resume": resume, "start": start}[action], int(threads), int(each), line.split())))


if __name__ == "__main__":
    main()
