"""Large values, in a process of its own: says, in one line, what became of them.  See test_sizes.py.

Usage: sizes.py input|result|error MEGABYTES BUILD.
"""

import json
import resource
import sys
from pathlib import Path

from flux import ExecutionContext, app, task, workflow
from flux.store.overflow import Overflow

MEGABYTE = 1 << 20


@task
async def give(megabytes: int) -> str:
    return "x" * (megabytes * MEGABYTE)


@task
async def fail(megabytes: int) -> None:
    raise ValueError("x" * (megabytes * MEGABYTE))


@workflow
async def giving(ctx: ExecutionContext[int]) -> int:
    return len(await give(ctx.input))


@workflow
async def taking(ctx: ExecutionContext[str]) -> int:
    return len(ctx.input)


@workflow
async def failing(ctx: ExecutionContext[int]) -> None:
    await fail(ctx.input)


def no_overflow() -> None:
    """BROKEN: every value goes into the database, however large."""
    Overflow.spill_all = lambda self, appends: appends


BUILDS = {"sound": lambda: None, "no_overflow": no_overflow}


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))


def size_of(folder: Path, pattern: str) -> int:
    return sum(file.stat().st_size for file in folder.rglob(pattern) if file.is_file())


def main(what: str, size: int) -> None:
    giving.run(0)
    before = megabytes()
    try:
        match what:
            case "input":
                output = taking.run("x" * (size * MEGABYTE), execution_id="x").output
            case "result":
                output = giving.run(size, execution_id="x").output
            case "error":
                output = str(failing.run(size, execution_id="x").output)
    except Exception as error:  # noqa: BLE001 - the test is told.
        output = f"{type(error).__name__}: {error}"
    grew = megabytes() - before
    events = app.current().store.events("x")
    largest = max((len(event.data or b"") + len(event.detail_data or b"") for event in events), default=0)
    told = {"output": output, "length": len(str(output)), "grew": grew}
    database = size_of(Path(".flux"), "flux.db*")
    print(json.dumps(told | {"largest": largest, "database": database, "files": size_of(Path(".flux/outputs"), "*")}))


if __name__ == "__main__":
    BUILDS[sys.argv[3]]()
    main(sys.argv[1], int(sys.argv[2]))
