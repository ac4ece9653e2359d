"""A process that runs executions with children, and sends messages to them.  It is told what to do, in lines.

On standard input: `run WORKFLOW ID` runs an execution, `open KEY` lets a task that waits go on, `signal ID` and
`cancel ID` send something, and `resume below ID` to the child of an execution.  It tells what comes of them.
"""

import asyncio
import os
import sys
import threading
from collections import defaultdict
from typing import Any

import flux.app
from flux import ExecutionContext, pause, task, workflow
from flux.tasks import wait_for_signal

ledger = os.open("ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
gates: defaultdict[str, threading.Event] = defaultdict(threading.Event)
printing = threading.Lock()


def tell(*words: object) -> None:
    with printing:
        print(*words)


def effect(key: str) -> None:
    os.write(ledger, f"{key} {os.getpid()}\n".encode())


@task
async def act(key: str) -> None:
    effect(key)


async def undo(key: str) -> None:
    effect(f"undo-{key}")


@task.with_options(rollback=undo)
def hold(key: str) -> None:
    effect(key)
    tell("holds", key)
    gates[key].wait()


@workflow
async def child(ctx: ExecutionContext[None]) -> int:
    await act("child-first")
    await hold("child-held")
    return await pause("question")


@workflow
async def asking_child(ctx: ExecutionContext[None]) -> int:
    answer = await pause("question")
    await hold("child-answered")
    return answer


@workflow
async def parent(ctx: ExecutionContext[None]) -> int:
    """Waits for its child, then for a signal."""
    await act("first")
    return await child(None) + await wait_for_signal("go")


@workflow
async def busy_parent(ctx: ExecutionContext[None]) -> int:
    """Is busy while its child waits."""
    _, answer = await asyncio.gather(hold("held"), asking_child(None))
    return answer + 1


workflows: dict[str, Any] = {each.name: each for each in (parent, busy_parent)}


def run(name: str, id_: str) -> None:
    try:
        ctx = workflows[name].run(None, execution_id=id_)
    except Exception as error:  # noqa: BLE001 - the test is told.
        tell("raised", id_, repr(error))
    else:
        tell("result", id_, ctx.state, ctx.output)


def below(id_: str) -> str:
    (row,) = flux.app.current().store.list(parent_id=id_)
    return row.execution_id


def main() -> None:
    tell("up")
    for line in sys.stdin:
        app = flux.app.current()
        match line.split():
            case ["run", name, id_]:
                threading.Thread(target=run, args=(name, id_), daemon=True).start()
            case ["open", key]:
                gates[key].set()
            case ["signal", id_]:
                app.send_signal(id_, "go", 100)
            case ["cancel", id_]:
                app.send_cancel(id_)
            case ["resume", "below", id_]:
                app.send_resume(below(id_), 1000)
        tell("done", line.strip())


if __name__ == "__main__":
    main()
