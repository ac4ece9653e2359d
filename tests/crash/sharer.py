"""One of several processes that write to one file in every way: says how long each write took, and what it was told.

Usage: sharer.py BUILD NAME WRITES.
"""

import json
import random
import sys
import time
from collections.abc import Callable

from flux import ExecutionContext, app, pause, task, workflow
from flux.store.file_lock import FileLock
from flux.tasks import wait_for_signal


@task
async def add(x: int) -> int:
    return x + 1


@workflow
async def short(ctx: ExecutionContext[int]) -> int:
    return await add(ctx.input)


@workflow
async def asking(ctx: ExecutionContext[None]) -> int:
    return await add(await pause("number"))


@workflow
async def listening(ctx: ExecutionContext[None]) -> list[int]:
    return [await wait_for_signal("number") for _ in range(1000)]


def no_lock() -> None:
    """BROKEN: whoever wants to write does, and waits for nobody."""
    FileLock.try_acquire = lambda self: True
    app.current().store._database._writer.execute("PRAGMA busy_timeout = 0")


BUILDS = {"sound": lambda: None, "no_lock": no_lock}


class Sharer:
    def __init__(self, name: str) -> None:
        self.name, self.rng = name, random.Random(name)
        self.seconds: list[float] = []
        self.errors: list[str] = []

    def write(self, what: Callable[[], object]) -> None:
        began = time.perf_counter()
        try:
            what()
        except Exception as error:  # noqa: BLE001 - the test is told.
            self.errors.append(repr(error))
        self.seconds.append(time.perf_counter() - began)

    def run(self, writes: int) -> None:
        box = f"{self.name}-box"
        self.write(lambda: listening.run(None, execution_id=box))
        while len(self.seconds) < writes:
            n = len(self.seconds)
            id_ = f"{self.name}-{n}"
            match self.rng.randrange(4):
                case 0:
                    self.write(lambda: short.run(n, execution_id=id_))
                case 1:
                    self.write(lambda: asking.run(None, execution_id=id_))
                    self.write(lambda: asking.resume(id_, n))
                case 2:
                    self.write(lambda: listening.signal(box, "number", n))
                case 3:
                    self.write(lambda: asking.run(None, execution_id=id_))
                    self.write(lambda: asking.cancel(id_))


def main(build: str, name: str, writes: str) -> None:
    app.current()
    BUILDS[build]()
    print("up", flush=True)
    sys.stdin.readline()
    sharer = Sharer(name)
    sharer.run(int(writes))
    print("told", json.dumps([sharer.seconds, sharer.errors]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
