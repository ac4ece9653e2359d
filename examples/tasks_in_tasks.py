"""A task that calls tasks: a site is mirrored page by page, and the mirror fails once it has all pages.

flux run examples/tasks_in_tasks.py example.org

Watch for: `mirror` is attempted twice, and each page is fetched once. What a task has called successfully is answered
from the history when the task runs again, after a failure as after a crash.
"""

from pathlib import Path
from typing import Any

from flux import ExecutionContext, TaskMetadata, task, workflow

FETCHED = Path("fetched.log")
GIVEN: Any = None  # By Flux, at each call; the default tells type checkers that callers leave it out.


@task
def fetch(address: str) -> int:
    with FETCHED.open("a") as log:
        log.write(f"{address}\n")
    return len(address)


@task.with_options(retry_max_attempts=2, retry_delay=0.1, metadata=True)
async def mirror(site: str, metadata: TaskMetadata = GIVEN) -> int:
    index = await fetch(f"{site}/")
    sizes = await fetch.map([f"{site}/{page}" for page in ("about", "news")])
    if metadata.attempt == 1:
        raise ConnectionError("the connection was lost after the last page")
    return index + sum(sizes)


@workflow
async def backup(ctx: ExecutionContext[str]) -> int:
    return await mirror(ctx.input)


if __name__ == "__main__":
    FETCHED.unlink(missing_ok=True)
    ctx = backup.run("example.org")
    print(ctx.output, "letters")
    print("fetched:", *sorted(FETCHED.read_text().split()))
    print("calls:", *(event.call_id for event in ctx.events if event.type == "TASK_STARTED"))
