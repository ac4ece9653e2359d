"""A run whose writes are traced: it says, by a line in `acks`, what it was told is durable.  See test_power_loss.py.

Arguments: the setting `durability`.
"""

import os
import sys
from typing import Any

from flux import ExecutionContext, pause, task, telemetry, workflow
from flux.store import database


@task
async def step(number: int) -> str:
    return f"{number}" * 300  # So that there are several pages, and a checkpoint.


@workflow
async def story(ctx: ExecutionContext[int]) -> list[str]:
    steps = [await step(number) for number in range(ctx.input)]
    answer = await pause("question")
    return [*steps, answer, await step(ctx.input)]


def main(durability: str) -> None:
    acks = os.open("acks", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def acknowledge(name: str, fields: dict[str, Any]) -> None:
        if name == "events.appended":
            os.write(acks, b"%d\n" % fields["events"][-1].seq)

    os.environ["FLUX_DURABILITY"] = durability
    database._PRAGMAS["wal_autocheckpoint"] = 20
    telemetry.attach(acknowledge)
    assert story.run(20, execution_id="x").is_paused
    os.write(acks, b"-1\n")
    assert story.resume("x", "fine").has_succeeded
    os.write(acks, b"-2\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
