"""Processes that kill themselves at a commit, while a call is retried, timed out, replaced or undone.

Usage: transitions.py BUILD.  For each line on standard input, SECONDS FOLDER WORKFLOW WHEN COMMIT, a process runs the
workflow there, and is killed right before or after its COMMIT-th commit.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any
from zlib import crc32

from mortal import serve

from flux import ExecutionContext, task, telemetry, workflow
from flux.engine.attempts import Attempts
from flux.store.sqlite import SqliteStore

build = sys.argv[1]


def append(file: str, line: str) -> None:
    with open(file, "a", buffering=1) as lines:
        lines.write(f"{line}\n")


def effect(execution: str, key: str) -> None:
    append("ledger", f"{execution} {key} {os.getpid()}")
    append("times", f"{key} {time.time_ns() // 1000}")


def begun(execution: str, key: str) -> int:
    return Path("ledger").read_text().count(f"{execution} {key} ")


# -- what happens to a call


@task
async def act(execution: str, key: str) -> str:
    effect(execution, key)
    return key


BACKOFF: dict[str, Any] = {"retry_delay": 0.03, "retry_backoff": 1}


@task.with_options(retry_max_attempts=4, **BACKOFF)
async def fail_twice(execution: str, key: str) -> str:
    effect(execution, key)
    if begun(execution, key) < 3:
        raise ConnectionError(key)
    return key


@task.with_options(retry_max_attempts=2, **BACKOFF)
async def fail_always(execution: str, key: str) -> str:
    effect(execution, key)
    raise ConnectionError(key)


async def instead(execution: str, key: str) -> str:
    append("aside", f"fallback {execution} {key}")
    return f"instead of {key}"


async def undo(execution: str, key: str) -> None:
    append("aside", f"rollback {execution} {key}")


async def fail_aside(execution: str, key: str) -> None:
    append("aside", f"aside {execution} {key}")
    raise KeyError(key)


@task.with_options(retry_max_attempts=1, timeout=0.05, fallback=instead, **BACKOFF)
async def linger(execution: str, key: str) -> None:
    effect(execution, key)
    await asyncio.sleep(60)


@task.with_options(retry_max_attempts=1, timeout=0.05, rollback=undo, **BACKOFF)
def block(execution: str, key: str) -> None:
    effect(execution, key)
    time.sleep(60)


@task.with_options(rollback=undo)
async def cancel_all(execution: str, key: str) -> None:
    effect(execution, key)
    cancelled.execution(execution).cancel()
    await asyncio.sleep(60)


@task
async def enclose(execution: str) -> list[str]:
    return [await fail_twice(execution, "inside"), await linger(execution, "inside-late")]


def one(called: Any, **options: Any) -> Any:
    """A workflow of one such call, and one after it."""
    wanted = called.with_options(**options)

    async def body(ctx: ExecutionContext[None]) -> list[str]:
        try:
            outcome = str(await wanted(ctx.execution_id, "first"))
        except Exception as error:  # noqa: BLE001 - that is its outcome.
            outcome = f"{type(error).__name__}: {error}"
        return [outcome, await act(ctx.execution_id, "last")]

    return body


bodies = {
    "retried": one(fail_twice),
    "exhausted": one(fail_always),
    "replaced": one(fail_always, fallback=instead),
    "replaced_in_vain": one(fail_always, fallback=fail_aside),
    "undone": one(fail_always, rollback=undo),
    "undone_in_vain": one(fail_always, rollback=fail_aside),
    "late": one(linger),
    "late_in_thread": one(block),
}
workflows = {name: workflow.with_options(name=name)(body) for name, body in bodies.items()}


@workflow
async def cancelled(ctx: ExecutionContext[None]) -> None:
    await cancel_all(ctx.execution_id, "first")


@workflow
async def enclosed(ctx: ExecutionContext[None]) -> list[str]:
    return await enclose(ctx.execution_id)


workflows |= {"cancelled": cancelled, "enclosed": enclosed}


# -- builds


def forget_attempts() -> None:
    """BROKEN: how far the attempts of a call have come is forgotten with the process."""
    init = Attempts.__init__

    def forgetful(self: Any, *args: Any, progress: Any = (), **options: Any) -> None:
        init(self, *args, **options)

    Attempts.__init__ = forgetful


def forget_backoff() -> None:
    """BROKEN: after a restart a retry is made at once."""
    wait = Attempts._wait_until

    async def hasty(self: Any, due_at: int) -> None:
        if not self._progress:
            await wait(self, due_at)

    Attempts._wait_until = hasty


BUILDS = {"sound": lambda: None, "forget_attempts": forget_attempts, "forget_backoff": forget_backoff}


def die_at(when: str, commit: int) -> None:
    """Kill this process at a commit."""
    store, commits = SqliteStore._append, 0

    def deadly(self: Any, appends: Any) -> Any:
        nonlocal commits
        commits += 1
        if (when, commit) == ("before", commits):
            os.kill(os.getpid(), signal.SIGKILL)
        results = store(self, appends)
        if (when, commit) == ("after", commits):
            os.kill(os.getpid(), signal.SIGKILL)
        return results

    SqliteStore._append = deadly


def note(name: str, fields: dict[str, Any]) -> None:
    if name == "events.appended":
        for e in fields["events"]:
            data, detail = crc32(e.data or b""), crc32(e.detail_data or b"")
            append("acks", f"{e.execution_id} {e.seq} {e.type} {data} {detail}")


def live(folder: str, name: str, when: str, commit: str) -> None:
    os.chdir(folder)
    BUILDS[build]()
    telemetry.attach(note)
    die_at(when, int(commit))
    workflows[name].run(None, execution_id=name)


if __name__ == "__main__":
    serve(live)
