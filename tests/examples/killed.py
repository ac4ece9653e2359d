"""Runs a workflow of an example, in a process that kills itself at a chosen moment.

killed.py ORDER_OR_SAGA INPUT ID MOMENT NUMBER, where the moment is a "commit" (the n-th is on disk), an "effect" (the
n-th is done, and not recorded), or "never". With FORGETFUL set, the world outside does everything that it is asked for.
"""

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

from flux import telemetry
from flux.errors import ExecutionConflictError

ASKED = Path("asked.log")  # What the world outside was asked to do, however often.


def main(name: str, value: str, execution_id: str, moment: str, number: str) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
    example = importlib.import_module(name)
    die = dying_at(int(number))
    example.once = counted(example, die if moment == "effect" else None)
    if moment == "commit":
        telemetry.attach(lambda event, _: die() if event == "events.appended" else None)
    handle = getattr(example, name).start(json.loads(value), execution_id=execution_id)
    if name == "order":
        with suppress(ExecutionConflictError):
            handle.signal("packed", "box 7", client_id="warehouse-7")
    ctx = handle.wait()
    print(ctx.state, ctx.output)


def dying_at(number: int) -> Callable[[], None]:
    counter = count(1)

    def die() -> None:
        if next(counter) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def counted(example: object, die: Callable[[], None] | None) -> Callable[..., None]:
    once = example.once

    def do(*what: str) -> None:
        with ASKED.open("a") as log:
            log.write(" ".join(what) + "\n")
        if "FORGETFUL" in os.environ:
            with example.EFFECTS.open("a") as log:
                log.write(" ".join(what) + "\n")
        else:
            once(*what)
        if die is not None:
            die()

    return do


if __name__ == "__main__":
    main(*sys.argv[1:])
